"""Which extractor a name gives, with which weights, and which clips each of them can look at."""

import pytest
import torch

from tests.rows import every_row
from tests.video.encoders.networks import save_detector, save_videomae
from video.encoders.i3d import I3DDetector
from video.encoders.videomae import VideoMaeFeatures
from video.extractors import ExtractorSource
from video.metrics import ANY, TABLE

CPU = torch.device("cpu")


def test_a_name_gives_its_extractor_under_that_name(tmp_path):
    source = ExtractorSource(
        i3d=save_detector(tmp_path / "i3d.pt"), videomae=tmp_path / "videomae", frame_choice="middle"
    )
    save_videomae(tmp_path / "videomae", num_frames=6)
    for name, kind in (("i3d", I3DDetector), ("videomae", VideoMaeFeatures)):
        extractor = source.extractor(name, CPU)
        assert type(extractor) is kind and extractor.name == name and not extractor.takes_floats
        assert extractor.facts().keys() == {"name", "weights_sha256", "preprocessing"}
    source.check_frames("videomae", 6)  # a directory of one's own says itself how many it takes
    assert set(TABLE.defaults) == set(ANY)


@every_row(
    ("name", "weights", "key"),
    [
        ("i3d", "i3d", "i3d"),
        ("i3d_cdfvd", "i3d-tats", "i3d_cdfvd"),
        ("videomae", "videomae-g-ssv2", "videomae"),
        ("inception", "inception", "inception"),
    ],
)
def test_absent_weights_are_named(tmp_path, name, weights, key):
    with pytest.raises(ValueError, match=rf"^weights '{weights}' are missing"):
        ExtractorSource(root=tmp_path).extractor(name, CPU)
    with pytest.raises(ValueError, match=rf"^config key '{key}': there is no file"):
        ExtractorSource(**{name: tmp_path / "nowhere"}).extractor(name, CPU)


@every_row(
    ("name", "frames", "fine"),
    [
        *(("i3d", frames, frames >= 10) for frames in (1, 9, 10, 128)),
        *(("i3d_cdfvd", frames, frames >= 10) for frames in (9, 10)),
        *(("videomae", frames, frames == 16) for frames in (15, 16, 17)),
        *(("inception", frames, True) for frames in (1, 16)),
    ],
)
def test_clips_that_an_extractor_cannot_look_at_are_refused(name, frames, fine):
    if fine:
        ExtractorSource().check_frames(name, frames)
    else:
        with pytest.raises(ValueError, match=rf"the clips have {frames} frames; features={name} needs"):
            ExtractorSource().check_frames(name, frames)

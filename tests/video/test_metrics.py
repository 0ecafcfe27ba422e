"""FVD of recorded features, with the covariance that its code takes; the FID of frames with the other."""

import numpy as np
import pytest
import torch

from eval.measure.extractor import ExtractedFeatures, Extractor
from eval.measure.media import ArrayMedia
from eval.measure.metrics import ReferenceStatistics
from eval.measure.table import compute_metrics
from eval.statistics.frechet import moments
from tests.golden_files import load_golden
from tests.video.evaluations import fvd_by_hand
from video.metrics import TABLE

TENSORS, _ = load_golden("metrics")


class Recorded(Extractor):
    name, main = "recorded", "x"


def computed(name, ours, theirs, clips=None):
    """The metric of that name of features (n', D) of `clips` clips."""
    media = ArrayMedia("clips", "clip", torch.zeros(clips or len(ours), 1))
    samples = ExtractedFeatures(Recorded(), media, {"x": ours})
    return compute_metrics(TABLE.of([name]), samples, ReferenceStatistics({"x": moments(theirs)}))[name]


@pytest.mark.parametrize("case", ["full", "rank_deficient", "few_samples"])
def test_fvd_divides_by_n_and_the_fid_of_frames_by_one_less(case):
    ours, theirs = (TENSORS[f"frechet.{case}.{name}"].numpy() for name in "xy")
    fvd, fid = computed("i3d/fvd", ours, theirs), computed("frame_fid", ours, theirs)
    assert fvd.value == pytest.approx(fvd_by_hand(ours, theirs), rel=1e-4)
    assert fid.value == pytest.approx(TENSORS[f"frechet.{case}.value"].item(), rel=1e-4)
    assert fvd.value != pytest.approx(fid.value, rel=1e-4)
    assert (fvd.parameters, fid.parameters) == ({"covariance": "biased"}, {"covariance": "unbiased"})


def test_the_fid_of_frames_counts_clips_and_tells_its_rows():
    rng = np.random.default_rng(0)
    ours, theirs = (rng.normal(size=(24, 3)).astype(np.float32) for _ in range(2))
    found = computed("frame_fid", ours, theirs, clips=6)
    assert found.num_samples == 6 and found.parameters == {"covariance": "unbiased", "rows": 24}


def test_fvd_of_one_clip_is_refused():
    (fvd,) = TABLE.of(["fvd"], "i3d")
    for samples, reference, told in ((1, 9, "samples, there are 1"), (9, 1, "clips of the reference, there are 1")):
        with pytest.raises(ValueError, match=f"fvd with features=i3d needs at least 2 {told}"):
            fvd.check_count("i3d", samples, reference, "clip")

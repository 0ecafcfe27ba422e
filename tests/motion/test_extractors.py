"""The physics of joints as an extractor."""

import torch

from motion.body import physics
from motion.body.skeleton import SKELETONS
from motion.extractors import PHYSICS
from motion.measured.clips import Clip
from tests.motion.motion_files import walking_rows


def test_clips_of_several_lengths_are_measured_as_each_by_itself():
    body = SKELETONS["t2m"]
    clips = [Clip(torch.from_numpy(walking_rows(frames, frames)), "full", body) for frames in (40, 61, 20)]
    found = PHYSICS(clips)
    for row, clip in enumerate(clips):
        alone = physics.measures(clip.joints(), body)
        for name in PHYSICS.numbers:
            torch.testing.assert_close(found[name][row, 0], alone[name], atol=1e-5, rtol=1e-4)
    assert found["jerk"].shape == (3, 1) and len(PHYSICS.weights_sha256) == 64


def test_a_clip_of_kit_is_measured_in_metres():
    """Its rows are in millimetres."""
    body = SKELETONS["kit"]
    clip = Clip(torch.from_numpy(walking_rows(40, 0, "kit")), "full", body)
    assert clip.rows[:, 3].mean() > 300 and 0.3 < clip.joints()[..., 1].max() < 3
    assert PHYSICS([clip])["jerk"].item() < 100

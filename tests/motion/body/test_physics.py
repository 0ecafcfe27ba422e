"""Measures of joints by construction: a sliding foot, a body that is too low, a path of known jerk."""

import pytest
import torch

from motion.body.physics import SKATE_SPEED, floating, jerk, measures, penetration, skate_ratio
from motion.body.skeleton import KIT, T2M
from tests.rows import every_row

FRAMES = 40


def still(skeleton=T2M, frames=FRAMES):
    """A body that stands still, feet on the floor and all else above it."""
    joints = torch.ones(frames, skeleton.joints, 3)
    joints[:, list(skeleton.feet), 1] = 0.0
    return joints


def sliding(speed, skeleton=T2M, foot=1, height=0.0):
    """One toe that moves along z at `speed` metres a second."""
    joints = still(skeleton)
    joints[:, skeleton.feet[foot], 2] += torch.arange(FRAMES) / skeleton.fps * speed
    joints[:, skeleton.feet[foot], 1] = height
    return joints


@every_row("skeleton", [T2M, KIT])
def test_a_body_that_stands_still_has_no_faults(skeleton):
    found = measures(still(skeleton), skeleton)
    assert {name: float(value) for name, value in found.items()} == {
        "skate_ratio": 0.0,
        "jerk": 0.0,
        "penetration": 0.0,
        "floating": 0.0,
    }


@every_row(("skeleton", "foot"), [(T2M, 1), (T2M, 3), (KIT, 1), (KIT, 3)])
def test_a_sliding_foot_skates(skeleton, foot):
    """In both skeletons, whatever their frame rate; ends count, where the window is not full, if it is fast enough."""
    assert skate_ratio(sliding(2.0 * SKATE_SPEED, skeleton, foot), skeleton) == 1.0
    assert skate_ratio(sliding(0.9 * SKATE_SPEED, skeleton, foot), skeleton) == 0.0
    assert skate_ratio(sliding(2.0 * SKATE_SPEED, skeleton, foot, height=0.06), skeleton) == 0.0


def test_an_ankle_may_move_and_one_step_does_not_count():
    assert skate_ratio(sliding(1.0, foot=0), T2M) == 0.0
    once = still()
    once[20:, T2M.feet[1], 0] += 0.05  # 1 m/s in one step: 0.2 m/s over the window
    assert skate_ratio(once, T2M) == 0.0
    half = sliding(2.0)
    half[20:, T2M.feet[1]] = half[20, T2M.feet[1]]
    assert skate_ratio(half, T2M) == pytest.approx(20 / 39)


def test_a_step_counts_when_both_of_its_frames_are_low():
    joints = sliding(2.0)
    joints[::2, T2M.feet[1], 1] = 0.2
    assert skate_ratio(joints, T2M) == 0.0


def test_jerk_of_a_cubic_path_is_its_constant():
    """x = 2 t^3 for one of 22 joints: 12 m/s^3 over 22; in seconds, so that it is the same at 12.5 frames a second."""
    for skeleton in (T2M, KIT):
        joints = still(skeleton).double()
        t = torch.arange(FRAMES, dtype=torch.float64) / skeleton.fps
        joints[:, 5, 0] = 2 * t**3 - 4 * t**2 + t
        assert float(jerk(joints, skeleton)) == pytest.approx(12 / skeleton.joints, rel=1e-9)


def test_depth_and_height_beyond_the_tolerance_in_millimetres():
    joints = still()
    joints[:10, :, 1] -= 0.025
    joints[10:20, :, 1] += 0.105
    assert float(penetration(joints, T2M)) == pytest.approx(20 * 10 / FRAMES, rel=1e-4)
    assert float(floating(joints, T2M)) == pytest.approx(100 * 10 / FRAMES, rel=1e-4)
    joints = still()
    joints[..., 1] -= 0.004
    assert penetration(joints, T2M) == 0.0 and floating(joints, T2M) == 0.0


def test_a_batch_with_masks_gives_what_its_clips_give():
    generator = torch.Generator().manual_seed(3)
    joints = 0.05 * torch.randn(3, FRAMES, 22, 3, generator=generator)
    lengths = (40, 25, 4)
    mask = torch.arange(FRAMES) < torch.tensor(lengths)[:, None]
    found = measures(joints, T2M, mask)
    for row, length in enumerate(lengths):
        alone = measures(joints[row, :length], T2M)
        for name, values in found.items():
            assert values.shape == (3,) and float(values[row]) == pytest.approx(float(alone[name]), rel=1e-5), name


@every_row(
    ("joints", "mask", "words"),
    [
        (torch.zeros(40, 21, 3), None, "has 21 joints"),
        (torch.full((40, 22, 3), torch.nan), None, "NaN or infinite"),
        (torch.zeros(3, 22, 3), None, "a clip has 3 real frames"),
        (torch.zeros(2, 40, 22, 3), torch.arange(40).lt(3).expand(2, 40), "a clip has 3 real frames"),
        (torch.zeros(40, 22, 3), torch.ones(39, dtype=torch.bool), "the mask has shape (39,); joints need (40,)"),
    ],
)
def test_what_cannot_be_measured_is_refused(joints, mask, words):
    with pytest.raises(ValueError) as error:
        measures(joints, T2M, mask)
    assert words in str(error.value)

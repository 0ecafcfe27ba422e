"""Clips that a body cannot make, and those that are too short, give one clear error or a result that is defined."""

import pytest
import torch

from motion.body.features import joints_from_rotations, to_features, to_joints
from motion.body.placing import mirror, place, process, retarget
from motion.body.quaternions import between
from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import KIT, SKELETONS, T2M
from tests.motion.bodies import moving, pose, standing
from tests.rows import every_row

WRONG = [
    (torch.zeros(1, 22, 3), "walk.npy has 1 frames; 2 are needed"),
    (torch.zeros(0, 22, 3), "walk.npy has 0 frames"),
    (torch.zeros(9, 21, 3), "walk.npy has 21 joints (shape (9, 21, 3)); the skeleton 't2m' has 22"),
    (torch.zeros(9, 24, 3), "walk.npy has 24 joints"),
    (torch.zeros(9, 66), "walk.npy has shape (9, 66); joints are (frames, 22, 3)"),
    (torch.zeros(22, 3), "walk.npy has shape (22, 3)"),
    (torch.zeros(9, 22, 2), "walk.npy has shape (9, 22, 2)"),
    (torch.zeros(9, 22, 3, dtype=torch.int64), "walk.npy has numbers of type torch.int64"),
    (torch.full((9, 22, 3), torch.nan), "walk.npy has 594 numbers that are NaN or infinite"),
]


@every_row(("joints", "words"), WRONG)
def test_what_are_no_joints_is_refused_with_its_name(joints, words):
    ways = [
        lambda: to_features(joints, T2M, "walk.npy"),
        lambda: process(joints, torch.ones(22, 3), T2M, "walk.npy"),
        *(lambda each=each: each.from_joints(joints, T2M, "walk.npy") for each in REPRESENTATIONS.values()),
    ]
    for way in ways:
        with pytest.raises(ValueError) as caught:
            way()
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_rows_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"features has shape \(9, 251\); rows are \(frames, 263\)"):
        joints_from_rotations(torch.zeros(9, 251), torch.zeros(22, 3), T2M)
    with pytest.raises(ValueError, match=r"rows has shape \(9, 60\); rows are \(frames, 67\)"):
        to_joints(torch.zeros(9, 60), T2M)
    with pytest.raises(ValueError, match=r"'positions' has shape \(9, 263\); rows are \(frames, 67\)"):
        REPRESENTATIONS["positions"].to_joints(torch.zeros(9, 263), T2M)


@every_row("skeleton", SKELETONS.values())
def test_two_frames_give_one_row(skeleton):
    joints = place(moving(skeleton, 2, seed=4), skeleton)
    rows = to_features(joints, skeleton)
    assert rows.shape == (1, skeleton.size)
    assert (to_joints(rows, skeleton) - joints[:1]).abs().max() < 1e-6


def flat(skeleton):
    """All joints on a line straight up: there is no line across."""
    joints = torch.zeros(12, skeleton.joints, 3)
    joints[..., 1] = torch.arange(skeleton.joints) / 10
    return joints


def equal_width(skeleton):
    """Hips as wide as shoulders: their lines, exchanged, cancel."""
    joints = pose(skeleton, standing(skeleton)).repeat(12, 1, 1)
    right_hip, left_hip, right_shoulder, left_shoulder = skeleton.face
    joints[:, [right_hip, right_shoulder], 0], joints[:, [left_hip, left_shoulder], 0] = -0.25, 0.25
    return joints


def turned(skeleton, *signs):
    """A body that stands, its axes with these signs: bones and facing may be the opposite of those at rest."""
    return pose(skeleton, standing(skeleton)).repeat(12, 1, 1) * torch.tensor(signs)


ODD = {
    "one point": lambda skeleton: torch.zeros(12, skeleton.joints, 3),
    "a line": flat,
    "equal width": equal_width,
    "upside down": lambda skeleton: turned(skeleton, 1.0, -1.0, 1.0),
    "backwards": lambda skeleton: turned(skeleton, -1.0, 1.0, -1.0),
    "huge": lambda skeleton: 1e4 * moving(skeleton, 12),
    "tiny": lambda skeleton: 1e-4 * moving(skeleton, 12),
}


@every_row("skeleton", SKELETONS.values())
@every_row("name", ODD)
def test_odd_bodies_have_finite_numbers_and_come_back(skeleton, name):
    joints = ODD[name](skeleton)
    size = joints.abs().max().clamp(min=1e-4)
    for clip in (joints, place(joints, skeleton)):
        rows = to_features(clip, skeleton)
        assert rows.isfinite().all()
        back = to_joints(rows, skeleton) + clip[:1, :1] * torch.tensor((1.0, 0.0, 1.0))
        assert (back - clip[:-1]).abs().max() < 1e-5 * max(1.0, size)
        assert joints_from_rotations(rows, skeleton.offsets(clip[0]), skeleton).isfinite().all()


def test_one_frame_that_has_no_facing_leaves_the_others_theirs():
    joints = moving(T2M, 40, degrees=2.0)
    other = joints.clone()
    other[20] = flat(T2M)[0]
    first, second = (to_features(each, T2M)[:, 0] for each in (joints, other))
    assert second.isfinite().all() and (first - second).abs().max() < 0.01


def test_legs_without_length_have_no_scale():
    with pytest.raises(ValueError, match="no length in the first frame"):
        retarget(torch.zeros(5, 22, 3), torch.ones(22, 3), T2M)


def test_directions_without_a_shortest_rotation_get_one():
    axes = torch.tensor([(1.0, 0, 0), (0, -1.0, 0), (0, 0, 1.0), (0.6, -0.8, 0), (3e-3, 2e-3, 1e-3)])
    half = between(axes, -axes)
    assert torch.allclose(half.norm(dim=-1), torch.ones(5)) and half[:, 0].abs().max() == 0
    assert (half[:, 1:] * axes).sum(-1).abs().max() < 1e-6
    assert torch.equal(between(axes, torch.zeros(5, 3)), torch.tensor((1.0, 0, 0, 0)).expand(5, 4))


@every_row("seed", range(12))
def test_any_clip_comes_back_and_its_mirror_is_its_own_mirror(seed):
    """Random poses, not bodies, of two frames and more."""
    source = torch.Generator().manual_seed(seed)
    for skeleton in (T2M, KIT):
        frames = int(torch.randint(2, 30, (), generator=source))
        joints = torch.randn(frames, skeleton.joints, 3, generator=source)
        assert torch.equal(mirror(mirror(joints, skeleton), skeleton), joints)
        for name, kind in REPRESENTATIONS.items():
            rows = kind.from_joints(joints, skeleton)
            assert rows.isfinite().all(), name
            again = kind.to_joints(rows, skeleton)
            bones = torch.cdist(joints[:-1], joints[:-1])
            assert (torch.cdist(again, again) - bones).abs().max() < 2e-3, name

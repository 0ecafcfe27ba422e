"""The published numbers of a frame: golden numbers, what each of them means, and the way back."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from motion.body.features import (
    BLOCKS,
    headings,
    joint_rotations,
    joints_from_rotations,
    quaternions_of,
    root_motion,
    slices,
    to_features,
    to_joints,
    turn,
    turn_back,
)
from motion.body.placing import place
from motion.body.quaternions import six_to_matrix
from motion.body.skeleton import KIT, SKELETONS, T2M
from tests.golden_files import load_golden, with_prefix
from tests.motion.bodies import moving, pose, standing
from tests.rows import every_row


@pytest.fixture(scope="module")
def golden():
    return load_golden("humanml_features")


def block(rows: Tensor, name: str, skeleton=T2M) -> Tensor:
    return rows[..., slices(skeleton)[name]]


def apart(first: Tensor, second: Tensor) -> float:
    return (first - second).abs().max().item()


@every_row("number", [0, 1, 2])
def test_rows_and_joints_are_the_published_ones(golden, number):
    tensors, config = golden
    wanted = with_prefix(tensors, f"seq{number}.")
    joints = wanted["global_joints"]
    rows = to_features(joints, T2M)
    assert rows.shape == wanted["features"].shape == (config["lengths"][number] - 1, 263)
    assert apart(rows, wanted["features"]) < 1e-5
    assert apart(block(rows, "velocity_xz"), wanted["root_linear_velocity_xz"]) < 1e-6
    facing = headings(joints, T2M)
    assert apart(quaternions_of(facing), wanted["root_quat"]) < 1e-6
    unsmoothed = headings(joints, T2M, smooth=False)
    assert apart(quaternions_of(unsmoothed), wanted["root_quat_unsmoothed"]) < 5e-6
    assert apart(joint_rotations(joints, facing, T2M)[:8], wanted["quat_first8"]) < 1e-5
    on_ground = joints - joints[:, :1] * torch.tensor((1.0, 0.0, 1.0))
    assert apart(turn(on_ground, facing[:, None]), wanted["local_joints"]) < 5e-6


@every_row("number", [0, 1, 2])
def test_the_way_back_is_the_published_one(golden, number):
    tensors, _ = golden
    wanted = with_prefix(tensors, f"seq{number}.")
    rows = wanted["features"]
    assert apart(to_joints(rows, T2M), wanted["recovered_ric"]) < 1e-6
    assert apart(to_joints(rows[:, :67], T2M), wanted["recovered_ric"]) < 1e-6
    assert apart(joints_from_rotations(rows, tensors["target_offsets"], T2M), wanted["recovered_rot"]) < 1e-6
    facing, path = root_motion(rows)
    assert apart(quaternions_of(facing), wanted["recovered_root_quat"]) < 1e-6
    assert apart(path[:, [0, 2]], wanted["recovered_root_pos"][:, [0, 2]]) < 1e-6


def test_blocks_are_those_of_the_published_layout(golden):
    _, config = golden
    assert [(place.start, place.stop) for place in slices(T2M).values()] == [(a, b) for _, a, b in config["layout"]]
    for skeleton, size in ((T2M, 263), (KIT, 251)):
        ends = [place.stop for place in slices(skeleton).values()]
        assert tuple(slices(skeleton)) == BLOCKS and ends[-1] == size == skeleton.size


@every_row("skeleton", SKELETONS.values())
@every_row(("degrees", "seed"), [(0.0, 0), (1.5, 1), (-2.0, 2), (7.0, 3)])
def test_joints_come_back(skeleton, degrees, seed):
    """Also over several whole turns, if the steps across -z are mended."""
    joints = place(moving(skeleton, 200, seed, degrees), skeleton)
    rows = to_features(joints, skeleton, mend_turns=True)
    assert rows.shape == (199, skeleton.size) and rows.dtype == torch.float32
    assert apart(to_joints(rows, skeleton), joints[:-1]) < 1e-5
    offsets = skeleton.offsets(joints[0])
    assert apart(joints_from_rotations(rows, offsets, skeleton), joints[:-1]) < 1e-5


def test_a_step_across_the_back_has_the_published_sign_unless_it_is_mended():
    """Its joints turn by twice the step: that is what the published `new_joints` hold."""
    joints = place(moving(T2M, 121, degrees=3.0, swing=0.0), T2M)
    published, mended = to_features(joints, T2M), to_features(joints, T2M, mend_turns=True)
    crossing = (published[:, 0] * mended[:, 0] < 0).nonzero().flatten()
    assert len(crossing) == 1
    assert published[crossing, 0] == -mended[crossing, 0] and abs(mended[crossing, 0]) > math.radians(1.4)
    assert torch.equal(published[:, 1:], mended[:, 1:])
    back = to_joints(published, T2M)
    assert apart(back[: crossing + 1], joints[: crossing + 1]) < 1e-5
    assert apart(back[crossing + 1], joints[crossing + 1]) > 0.01


def test_the_yaw_is_half_an_angle():
    """3 degrees a frame to the left are -1.5 degrees: the rotation is the one from the world to the body."""
    rows = to_features(moving(T2M, 361, degrees=3.0, swing=0.0), T2M, mend_turns=True)
    assert torch.allclose(rows[100:200, 0], torch.tensor(-math.radians(1.5)), atol=1e-6)


def test_the_path_is_seen_from_the_next_frame_and_joints_from_their_own():
    joints = moving(T2M, 50, degrees=2.0)
    rows, facing = to_features(joints, T2M), headings(joints, T2M).float()
    step = joints[1:] - joints[:-1]
    seen_next, seen_now = turn(step[:, 0], facing[1:]), turn(step[:, 0], facing[:-1])
    assert apart(block(rows, "velocity_xz"), seen_next[:, [0, 2]]) < 1e-6
    assert apart(block(rows, "velocities")[:, :3], seen_now) < 1e-6
    assert apart(seen_now, seen_next) > 1e-3


def test_the_hips_are_exchanged_in_the_heading_of_a_frame():
    """Of a body that stands still with its hips turned: hips count against the shoulders, which frame 0 does not do."""
    bones, angle = standing(T2M), math.radians(40.0)
    hips, shoulders = bones[1, 0] - bones[2, 0], bones[13, 0] + bones[16, 0] - bones[14, 0] - bones[17, 0]
    across = torch.tensor((math.cos(angle), 0.0, math.sin(angle)))
    bones[1], bones[2] = across * bones[1, 0], across * bones[2, 0]
    facing = headings(pose(T2M, bones).expand(30, -1, -1), T2M)
    correct = headings(pose(T2M, bones).expand(30, -1, -1), T2M, published=False)
    for sign, found in ((-1, facing[5]), (1, correct[5])):
        expected = math.atan2(sign * hips * math.sin(angle), shoulders + sign * hips * math.cos(angle))
        assert math.atan2(-found[0], found[1]) == pytest.approx(expected, abs=1e-6)
    assert facing[0].tolist() == [0.0, 1.0] and apart(facing[5], correct[5]) > 0.1


def test_arms_turn_from_the_root():
    """From the spine, which bears them, they would be somewhere else."""
    joints = place(moving(T2M, 40, swing=0.6), T2M)
    facing = headings(joints, T2M)[:-1]
    own = six_to_matrix(block(to_features(joints, T2M), "rotations").unflatten(-1, (21, 6)))
    collar = T2M.joint_names.index("left_collar")
    assert T2M.parents[collar] == 9 and T2M.relative_to[collar] == 0
    bone = torch.nn.functional.normalize(joints[:-1, collar] - joints[:-1, 9], dim=-1)
    turned = own[:, collar - 1, :, 0]  # of the bone at rest, which is +x
    spine = own[:, 2] @ own[:, 5] @ own[:, 8]
    assert apart(turn(turned, facing), bone) < 1e-5
    assert apart(turn((spine @ turned[..., None])[..., 0], facing), bone) > 0.1


@every_row("skeleton", SKELETONS.values())
def test_a_foot_stands_where_its_squared_step_is_small_at_any_height(skeleton):
    limit = math.sqrt(skeleton.contact_threshold) / skeleton.units
    for number, foot in enumerate(skeleton.feet):
        joints = pose(skeleton, standing(skeleton)).repeat(4, 1, 1)
        joints[:, :, 1] += 5.0
        joints[2:, foot, 0] += 0.9 * limit
        joints[3:, foot, 1] += 1.1 * limit
        stands = block(to_features(joints, skeleton), "contacts", skeleton)
        expected = torch.ones(3, 4)
        expected[2, number] = 0
        assert torch.equal(stands, expected), (foot, stands)
    order = {"t2m": ("left_ankle", "left_foot", "right_ankle", "right_foot")}
    order["kit"] = ("right_midfoot", "right_foot", "left_midfoot", "left_foot")
    assert tuple(skeleton.joint_names[foot] for foot in skeleton.feet) == order[skeleton.name]


@every_row("frames", [1, 2, 5, 80, 300])
def test_facing_is_smoothed_as_scipy_smooths(frames):
    from scipy.ndimage import gaussian_filter1d

    joints = moving(T2M, frames, degrees=2.0)
    across = (joints[:, 2] - joints[:, 1] + joints[:, 17] - joints[:, 16]).double().numpy()
    ahead = np.cross([[0, 1, 0]], across / np.linalg.norm(across, axis=-1, keepdims=True))
    smooth = torch.from_numpy(gaussian_filter1d(ahead, 20, axis=0, mode="nearest")[:, [0, 2]])
    found = headings(joints, T2M, published=False)
    assert apart(found, smooth / smooth.norm(dim=-1, keepdim=True)) < 1e-12


@every_row("skeleton", SKELETONS.values())
def test_clips_go_in_together_as_alone(skeleton):
    clips = torch.stack([moving(skeleton, 30, seed, degrees=3.0) for seed in range(4)]).unflatten(0, (2, 2))
    rows = to_features(clips, skeleton)
    back, offsets = to_joints(rows, skeleton), skeleton.offsets(clips[0, 0, 0])
    turned = joints_from_rotations(rows, offsets, skeleton)
    for first in range(2):
        for second in range(2):
            alone = to_features(clips[first, second], skeleton)
            assert apart(rows[first, second], alone) < 1e-6
            assert apart(back[first, second], to_joints(alone, skeleton)) < 1e-6
            assert apart(turned[first, second], joints_from_rotations(alone, offsets, skeleton)) < 1e-6


def test_rows_of_half_precision_give_joints_of_single():
    rows = to_features(place(moving(T2M, 60, degrees=3.0), T2M), T2M)
    back = to_joints(rows.half(), T2M)
    assert back.dtype == torch.float32 and apart(back, to_joints(rows.half().float(), T2M)) == 0


def test_turning_back_undoes_a_turn():
    facing = torch.nn.functional.normalize(torch.randn(10, 2), dim=-1)
    vectors = torch.randn(10, 3)
    assert apart(turn_back(turn(vectors, facing), facing), vectors) < 1e-6
    ahead = torch.stack((facing[:, 0], torch.zeros(10), facing[:, 1]), dim=-1)
    assert apart(turn(ahead, facing), torch.tensor((0.0, 0.0, 1.0)).expand(10, 3)) < 1e-6

"""What is done to a clip before its numbers are taken: golden numbers, and what stays as it was."""

import math

import pytest
import torch

from motion.body.features import headings, turn_back
from motion.body.placing import centred, facing_forward, mirror, on_floor, place, process, retarget
from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import SKELETONS, T2M
from tests.golden_files import load_golden, with_prefix
from tests.motion.bodies import moving, standing
from tests.rows import every_row


def apart(first, second):
    return (first - second).abs().max().item()


@pytest.fixture(scope="module")
def golden():
    return load_golden("humanml_features")


def test_the_skeleton_is_the_published_one(golden):
    tensors, config = golden
    assert list(T2M.parents) == tensors["parents"].tolist()
    assert torch.equal(torch.tensor(T2M.raw_offsets), tensors["raw_offsets"])
    assert [list(chain) for chain in T2M.chains] == config["kinematic_chains"]
    assert list(T2M.face) == config["face_joints_r_hip_l_hip_r_shoulder_l_shoulder"]
    assert list(T2M.feet) == config["foot_left"] + config["foot_right"]
    assert (T2M.joints, T2M.fps, T2M.contact_threshold) == (config["joints"], config["fps"], config["feet_threshold"])
    assert apart(T2M.offsets(tensors["target_first_frame"]), tensors["target_offsets"]) < 1e-6


@every_row("skeleton", SKELETONS.values())
def test_a_skeleton_fits_together(skeleton):
    assert skeleton.parents[0] == -1 and all(parent > -1 for parent in skeleton.parents[1:])
    assert [len(skeleton.raw_offsets), len(skeleton.mirrored)] == [skeleton.joints] * 2
    assert sorted(joint for chain in skeleton.chains for joint in chain[1:]) == list(range(1, skeleton.joints))
    for left, right in skeleton.left_right:
        assert skeleton.joint_names[left] == skeleton.joint_names[right].replace("right", "left")
        assert skeleton.raw_offsets[left][1:] == skeleton.raw_offsets[right][1:]
        assert skeleton.raw_offsets[left][0] == -skeleton.raw_offsets[right][0]
    sided = {joint for joint, name in enumerate(skeleton.joint_names) if name.startswith(("left", "right"))}
    assert skeleton.left | skeleton.right == sided and not skeleton.left & skeleton.right
    assert all(skeleton.joint_names[joint].startswith("left") for joint in skeleton.left)
    assert SKELETONS[skeleton.name] is skeleton


@every_row("skeleton", SKELETONS.values())
def test_a_mirror_twice_is_the_clip_itself(skeleton):
    joints = place(moving(skeleton, 40, seed=5, degrees=2.0), skeleton)
    seen = mirror(joints, skeleton)
    assert torch.equal(mirror(seen, skeleton), joints)
    hand, other = (skeleton.joint_names.index(f"{side}_wrist") for side in ("left", "right"))
    assert torch.equal(seen[:, hand], joints[:, other] * torch.tensor((-1.0, 1.0, 1.0)))
    assert (facing_forward(seen, skeleton) - seen).abs().max() < 1e-5


@every_row("number", [0, 1, 2])
def test_the_preparation_is_the_published_one(golden, number):
    tensors, _ = golden
    wanted = with_prefix(tensors, f"seq{number}.")
    other = retarget(wanted["joints"], tensors["target_offsets"], T2M)
    assert apart(other, wanted["uniform_joints"]) < 5e-6
    assert apart(place(other, T2M), wanted["global_joints"]) < 5e-6
    rows, joints = process(wanted["joints"], tensors["target_offsets"], T2M)
    assert apart(rows, wanted["features"]) < 2e-5
    assert apart(joints, wanted["recovered_ric"]) < 5e-6


@every_row("skeleton", SKELETONS.values())
def test_other_bones_keep_directions_and_take_lengths(skeleton):
    joints, offsets = moving(skeleton, 20, seed=1), skeleton.offsets(moving(skeleton, 1, seed=9)[0])
    other = retarget(joints, offsets, skeleton)
    assert apart(skeleton.bones(other), offsets.norm(dim=-1).expand(20, -1)) < 1e-5
    assert apart(retarget(other, skeleton.offsets(joints[0]), skeleton), joints) < 1e-5
    clips = torch.stack((joints, moving(skeleton, 20, seed=2)))
    assert apart(retarget(clips, offsets, skeleton)[0], other) < 1e-6


@every_row("degrees", [0.0, 4.0])
def test_a_placed_clip_stands_at_the_origin_and_faces_ahead(degrees):
    joints = moving(T2M, 40, degrees=degrees) + torch.tensor((3.0, -2.0, 1.0))
    turned = turn_back(joints, torch.tensor((math.sin(2.0), math.cos(2.0))))
    placed = place(turned, T2M)
    assert placed[..., 1].min() == 0 and placed[0, 0, [0, 2]].abs().max() < 1e-5
    assert apart(headings(placed[:1], T2M, smooth=False, published=False), torch.tensor((0.0, 1.0))) < 1e-6
    assert apart(placed, place(joints, T2M)) < 1e-5  # where it stood and looked does not matter
    assert apart(place(placed, T2M), placed) < 1e-5
    clips = torch.stack((turned, moving(T2M, 40, seed=3)))
    assert apart(place(clips, T2M)[0], placed) < 1e-6
    assert on_floor(turned)[..., 1].min() == 0 and centred(turned)[0, 0, 0] == 0
    left, right = (placed[0, T2M.joint_names.index(f"{side}_hip"), 0] for side in ("left", "right"))
    assert left > right


def test_units_of_the_rows_are_the_published_ones():
    """KIT-ML's rows are millimetres; joints are metres on either side."""
    for skeleton, height in ((T2M, 1.0), (SKELETONS["kit"], 1000.0)):
        joints = torch.zeros(4, skeleton.joints, 3) + standing(skeleton) + torch.tensor((0.0, 1.0, 0.0))
        rows = REPRESENTATIONS["full"].from_joints(joints, skeleton)
        assert rows[0, 3] == height
        assert REPRESENTATIONS["joints"].from_joints(joints, skeleton)[0, 1] == 1.0

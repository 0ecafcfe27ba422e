"""BVH files: read back by our reader and by a minimal one, for bodies that are rigid, not rigid, and odd."""

import re

import numpy as np
import pytest

from motion.body.bvh import read_bvh, to_angles, write_bvh
from motion.body.rigid import fit, matrices
from motion.body.skeleton import KIT, T2M
from tests.motion.walker import turned, walk
from tests.rows import every_row

FPS = 20.0


@every_row(
    ("skeleton", "tilt", "turn"),
    [
        (T2M, np.eye(3), 0.0),
        (KIT, np.eye(3), 0.1),
        (T2M, turned(0, np.pi / 2), 0.05),  # lying, where Z and Y turn about one axis
        (T2M, turned(2, np.pi) @ turned(1, 1.0), -0.2),
        (T2M, turned(0, -np.pi / 2), 0.0),
    ],
)
def test_a_rigid_body_is_read_back(tmp_path, skeleton, tilt, turn):
    joints = walk(skeleton, 30, turn) @ tilt.T
    told = write_bvh(joints, skeleton, FPS, tmp_path / "a.bvh")
    found = read_bvh(tmp_path / "a.bvh")
    assert np.abs(found.joints(skeleton) - joints).max() < 1e-5 and told < 1e-6
    assert found.fps == pytest.approx(FPS) and set(found.names) == set(skeleton.joint_names)


def test_who_faces_z_is_hardly_turned_from_the_rest_pose():
    """So that the limbs are not either, whatever the sides of the skeleton's rest pose."""
    for skeleton in (T2M, KIT):
        motion = fit(walk(skeleton, 1), skeleton)
        assert np.trace(motion.rotations[0, 0]) > 2.9, skeleton.name
        assert np.sign(motion.offsets[skeleton.face[1], 0]) == 1 and motion.offsets[skeleton.feet[1], 2] > 0


def test_a_body_that_is_not_rigid_keeps_its_mean_bones_and_the_distance_is_told(tmp_path):
    joints = walk(T2M, 40, 0.1) + np.random.default_rng(0).normal(size=(40, 22, 3)) * 0.01
    told = write_bvh(joints, T2M, FPS, tmp_path / "a.bvh")
    found = read_bvh(tmp_path / "a.bvh").joints(T2M)
    assert told == pytest.approx(np.linalg.norm(found - joints, axis=-1).mean(), abs=1e-5) and 0.005 < told < 0.02
    asked, kept = (np.linalg.norm(each[:, 1:] - each[:, T2M.parents[1:]], axis=-1) for each in (joints, found))
    assert np.abs(kept - kept[0]).max() < 1e-5 and kept[0] == pytest.approx(asked.mean(0), abs=1e-5)


def test_a_minimal_reader_finds_the_hierarchy_and_its_numbers(tmp_path):
    """As the format's description has it: braces that match, one line a frame with a number for each channel."""
    joints = walk(T2M, 7, 0.1)
    write_bvh(joints, T2M, FPS, tmp_path / "a.bvh")
    head, tail = (tmp_path / "a.bvh").read_text().split("MOTION\n")
    assert head.startswith("HIERARCHY\nROOT pelvis\n") and head.count("{") == head.count("}") == 22 + 5
    assert head.count("End Site") == 5 and head.count("OFFSET") == 27 and not re.search("nan|inf|-0.000000", head)
    channels = [int(number) for number in re.findall(r"CHANNELS (\d)", head)]
    assert channels == [6] + [3] * 21 and head.count("Zrotation Xrotation Yrotation") == 22
    frames, time, *rows = tail.splitlines()
    assert (frames, time) == ("Frames: 7", "Frame Time: 0.05000000") and len(rows) == 7
    numbers = np.array([row.split() for row in rows], dtype=float)
    assert numbers.shape == (7, sum(channels)) and numbers[:, :3] == pytest.approx(joints[:, 0], abs=1e-6)
    offset = np.array(re.search(r"JOINT left_hip\s*{\s*OFFSET (.*)", head).group(1).split(), dtype=float)
    z, x, y = np.radians(numbers[3, 3:6])
    pelvis = turned(2, z) @ turned(0, x) @ turned(1, y)
    assert numbers[3, :3] + pelvis @ offset == pytest.approx(joints[3, 1], abs=1e-5)


@every_row(("tilt", "fastest", "turns"), [(0.8, 0.4, 9), (1.7, 1.5, 0)])
def test_angles_do_not_jump(tilt, fastest, turns):
    """Turns about y add up; near poses whose middle angle is a right one Z and Y turn fast, and nothing jumps."""
    frames = np.stack([turned(1, 0.2 * k) @ turned(0, tilt * np.sin(0.1 * k)) for k in range(300)])[:, None]
    angles = to_angles(frames)
    assert np.abs(np.diff(angles, axis=0)).max() < fastest and np.abs(angles[-1]).max() >= turns * 2 * np.pi
    again = np.stack([turned(2, z) @ turned(0, x) @ turned(1, y) for z, x, y in angles[:, 0]])
    assert again == pytest.approx(frames[:, 0], abs=1e-6)


def test_matrices_of_quaternions():
    half = np.pi / 6
    assert matrices(np.array([np.cos(half), 0, np.sin(half), 0])) == pytest.approx(turned(1, 2 * half))


@every_row(
    "joints",
    [
        np.zeros((3, 22, 3)),
        walk(T2M, 1),
        np.repeat(walk(T2M, 1), 5, axis=0),
        walk(T2M, 4) * (0, 1, 0),  # all on one line
        np.concatenate([walk(T2M, 1), -walk(T2M, 1)]),  # every bone the other way
    ],
)
def test_odd_poses_have_finite_numbers(tmp_path, joints):
    write_bvh(joints, T2M, FPS, tmp_path / "a.bvh")
    assert np.isfinite(read_bvh(tmp_path / "a.bvh").positions).all()


def test_the_arms_turn_with_the_spine_that_bears_them():
    """A body that bows: its arms keep their rotations relative to the spine."""
    straight, bowed = walk(T2M, 1), walk(T2M, 1)
    above = [joint for joint, name in enumerate(T2M.joint_names) if joint > 8 and "foot" not in name]
    bowed[:, above] = (bowed[:, above] - bowed[:, [6]]) @ turned(0, 1.0).T + bowed[:, [6]]
    motion = fit(np.concatenate([straight, bowed]), T2M)
    assert motion.local()[1, [9, 16, 18]] == pytest.approx(motion.local()[0, [9, 16, 18]], abs=1e-6)
    assert motion.rotations[1, 9] == pytest.approx(turned(0, 1.0) @ motion.rotations[0, 9], abs=1e-6)


def test_what_is_no_motion_is_refused(tmp_path):
    broken = walk(T2M, 5)
    broken[3, 7, 1] = np.nan
    for joints, words in (
        (broken, "not finite at frame 3 of 5"),
        (walk(KIT, 5), r"the shape \(5, 21, 3\); needed: \(frames >= 1, 22, 3\)"),
        (np.zeros((0, 22, 3)), r"\(0, 22, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            write_bvh(joints, T2M, FPS, tmp_path / "a.bvh")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_bvh_is_refused_by_name(tmp_path):
    file = tmp_path / "a.bvh"
    write_bvh(walk(T2M, 3), T2M, FPS, file)
    whole = file.read_text()
    for text in (
        "",
        "HIERARCHY",
        whole[: len(whole) // 2],
        whole.rsplit(" ", 1)[0],
        whole.replace("Frames: 3", "Frames: x"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"a\.bvh is no BVH file"):
            read_bvh(file)
    file.write_text(whole.replace("spine2", "belly"))
    with pytest.raises(ValueError, match="has no joint spine2; it has pelvis"):
        read_bvh(file).joints(T2M)

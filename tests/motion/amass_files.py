"""Body models and recordings as tests write them: the real formats, with few vertices and random numbers."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from motion.body.smpl import PARENTS

VERTICES, JOINTS, SHAPES = 60, 52, 16


def kinematic_tree(joints=JOINTS):
    """Parents of SMPL's 24 or SMPL+H's 52 joints: five fingers of three joints at each wrist."""
    if joints == 24:
        return [*PARENTS, 20, 21]
    fingers = [wrist if joint == 0 else 22 + 15 * hand + 3 * finger + joint - 1
               for hand, wrist in enumerate((20, 21)) for finger in range(5) for joint in range(3)]  # fmt: skip
    return [*PARENTS, *fingers]


def body_arrays(seed=0, joints=JOINTS, vertices=VERTICES):
    """The arrays of a body model: a person's joints, about each of which some vertices lie."""
    rng = np.random.default_rng(seed)
    parents = kinematic_tree(joints)
    rest = np.zeros((joints, 3))
    for joint in range(1, joints):
        rest[joint] = rest[parents[joint]] + BONES.get(joint, (0.03 * (1 if joint % 2 else -1), -0.02, 0.0))
    template = rng.normal(size=(vertices, 3)) * 0.5
    regressor = np.linalg.lstsq(template.T, rest.T, rcond=None)[0].T  # so that regressor @ template is the rest pose
    weights = rng.random((vertices, joints)) ** 8
    tree = np.array([parents, range(joints)], dtype=np.int64)
    tree[0, 0] = 2**32 - 1
    return {
        "v_template": template,
        "shapedirs": rng.normal(size=(vertices, 3, SHAPES)) * 0.002,
        "posedirs": rng.normal(size=(vertices, 3, 9 * (joints - 1))) * 0.001,
        "J_regressor": regressor,
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": tree.astype(np.uint32),
        "f": rng.integers(0, vertices, (30, 3)).astype(np.uint32),
        "bs_type": np.array("lrotmin"),
    }


BONES = {
    **{1: (0.07, -0.08, 0), 2: (-0.07, -0.08, 0), 3: (0, 0.12, -0.02), 4: (0.02, -0.38, 0), 5: (-0.02, -0.38, 0)},
    **{6: (0, 0.13, 0.02), 7: (0, -0.4, -0.03), 8: (0, -0.4, -0.03), 9: (0, 0.06, 0.01), 10: (0.02, -0.06, 0.12)},
    **{11: (-0.02, -0.06, 0.12), 12: (0, 0.21, -0.03), 13: (0.08, 0.12, -0.02), 14: (-0.08, 0.12, -0.02)},
    **{15: (0, 0.09, 0.05), 16: (0.1, 0.04, 0), 17: (-0.1, 0.04, 0), 18: (0.25, -0.01, -0.02)},
    **{19: (-0.25, -0.01, -0.02), 20: (0.26, 0.01, 0), 21: (-0.26, 0.01, 0)},
}


def write_body_models(root, genders=("male", "female"), **options):
    """<root>/smplh/<gender>/model.npz of each; returns the root."""
    for seed, gender in enumerate(genders):
        path = Path(root) / "smplh" / gender / "model.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **body_arrays(seed, **options))
    return Path(root)


def recording_arrays(frames=240, fps=120.0, gender="male", seed=0, **changes):
    """The arrays of an .npz of AMASS: somebody who walks along x, z up, and swings every joint."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[:, None] / fps
    poses = 0.3 * np.sin(2 * np.pi * (time * rng.uniform(0.4, 1.2, 156) + rng.random(156)))
    poses[:, :3] = Rotation.from_euler("x", 90, degrees=True).as_rotvec() + 0.02 * poses[:, :3]
    trans = np.concatenate([0.8 * time, 0.1 * np.sin(time), 0.95 + 0.02 * np.sin(9 * time)], axis=1)
    found = {
        "poses": poses,
        "betas": rng.normal(size=16),
        "trans": trans,
        "dmpls": rng.normal(size=(frames, 8)),
        "gender": np.array(gender),
        "mocap_framerate": np.array(fps),
    }
    return {key: value for key, value in {**found, **changes}.items() if value is not None}


def write_recording(root, path, **options):
    """<root>/<path>.npz; returns it."""
    file = Path(root) / f"{path}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **recording_arrays(**options))
    return file


def write_index(path, rows):
    """index.csv of (source below pose_data without suffix, start, end, name); returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source_path", "start_frame", "end_frame", "new_name"])
        writer.writerows([f"./pose_data/{source}.npy", start, end, f"{name}.npy"] for source, start, end, name in rows)
    return path


def expected_joints(model, recording, stride):
    """Joints (F, 22, 3) by forward kinematics of our own in float64: y up, x as in HumanML3D."""
    betas = recording["betas"][:10]
    shaped = model["v_template"] + model["shapedirs"][..., :10] @ betas
    rest = model["J_regressor"] @ shaped
    parents = kinematic_tree(len(rest))
    found = []
    for pose, trans in zip(recording["poses"][::stride], recording["trans"][::stride], strict=True):
        turns = Rotation.from_rotvec(pose.reshape(-1, 3))
        turned, placed = [turns[0]], [rest[0]]
        for joint in range(1, 22):
            parent = parents[joint]
            turned.append(turned[parent] * turns[joint])
            placed.append(placed[parent] + turned[parent].apply(rest[joint] - rest[parent]))
        found.append(np.stack(placed) + trans)
    x, y, z = np.moveaxis(np.stack(found), -1, 0)
    return np.stack([-x, z, y], axis=-1)

"""A body of constant bone lengths that walks, turns and swings its limbs, of either skeleton."""

import numpy as np

THIGH, STEP = 0.4, 0.06  # metres


def turned(axis, angle):
    """The rotation (3, 3) about axis 0, 1 or 2."""
    found, a, b = np.eye(3), (axis + 1) % 3, (axis + 2) % 3
    found[[a, b], [a, b]] = np.cos(angle)
    found[b, a], found[a, b] = np.sin(angle), -np.sin(angle)
    return found


def offsets(skeleton):
    """Bones (J, 3) of a person of 1.7 m, about, who faces +z as the skeleton has it."""
    bones = np.array(skeleton.raw_offsets, dtype=float) * 0.12
    for name in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist"):
        for side in ("left", "right"):
            joint = skeleton.joint_names.index(f"{side}_{name}")
            sign = 1 if joint in skeleton.face[1::2] else -1
            across = {"hip": (0.1 * sign, -0.05, 0), "shoulder": (0.12 * sign, 0.02, 0)}
            bones[joint] = across.get(name, (0, -THIGH if name in ("knee", "ankle") else -0.26, 0))
    return bones


def walk(skeleton, frames=20, turn=0.0, speed=STEP):
    """Joints (F, J, 3) float64 in metres, the lowest foot of each frame on the floor."""
    bones, joints = offsets(skeleton), np.zeros((frames, skeleton.joints, 3))
    order = sorted(range(skeleton.joints), key=lambda joint: len(ancestors(skeleton, joint)))
    place, names = np.zeros(3), skeleton.joint_names
    for frame in range(frames):
        heading, phase = turned(1, turn * frame), 0.3 * frame
        rotations = {0: heading @ turned(0, 0.1 * np.sin(phase))}
        joints[frame, 0] = place
        for joint in order[1:]:
            parent = skeleton.parents[joint]
            joints[frame, joint] = joints[frame, parent] + rotations[parent] @ bones[joint]
            side = (joint in skeleton.left) - float(joint in skeleton.right)
            swing = side * 0.5 * np.sin(phase) * (1 if "hip" in names[joint] else -1)
            rotations[joint] = rotations[parent] @ turned(0, swing) @ turned(2, 0.1 * side * np.cos(phase))
        joints[frame, :, 1] -= joints[frame, :, 1].min()
        place = place + heading @ (0, 0, speed)
    return joints


def ancestors(skeleton, joint):
    """The joints between a joint and the root, the root included."""
    found = []
    while joint:
        joint = skeleton.parents[joint]
        found.append(joint)
    return found

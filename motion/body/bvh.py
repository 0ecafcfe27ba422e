"""BVH files of generated motion, for Blender and others, and the way back for checking.

Metres, y up, left on +x, the rest pose facing +z. The root has its position and rotations, every other joint rotations,
in degrees and in the order Z, X, Y: R = Rz Rx Ry.

Letters: F frames, J joints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.storage.atomic import write_atomic
from motion.body.rigid import RigidMotion, fit, from_root
from motion.body.skeleton import Skeleton

ROTATIONS = ("Zrotation", "Xrotation", "Yrotation")
POSITIONS = ("Xposition", "Yposition", "Zposition")
TIP = 0.35  # of the last bone's length has the bone that ends a limb
UPRIGHT = 1e-6  # the cosine of the middle angle below which the other two turn about one axis


def write_bvh(joints: np.ndarray, skeleton: Skeleton, fps: float, path: Path) -> float:
    """Joints (F, J, 3) in metres as a BVH file at `path`; returns the mean distance of what it shows from them, metres.

    Bones have their mean lengths over the clip, see `motion.body.rigid`. Raises ValueError for joints that are not
    finite, or of another skeleton.
    """
    motion = fit(joints, skeleton)
    lines = ["HIERARCHY", *_hierarchy(motion, skeleton.joint_names, 0, 0)]
    angles = np.degrees(to_angles(motion.local()))[:, from_root(motion.parents)]
    rows = np.concatenate([motion.root, angles.reshape(len(angles), -1)], axis=1)
    lines += ["MOTION", f"Frames: {len(rows)}", f"Frame Time: {1 / fps:.8f}"]
    lines += [" ".join(f"{value:.6f}" for value in row) for row in rows]
    write_atomic(path, "\n".join(lines) + "\n")
    return float(np.linalg.norm(motion.joints - joints, axis=-1).mean())


def _hierarchy(motion: RigidMotion, names: tuple[str, ...], joint: int, depth: int) -> list[str]:
    """The lines of a joint and of all that hangs on it."""
    channels = (*POSITIONS, *ROTATIONS) if joint == 0 else ROTATIONS
    children = [child for child, parent in enumerate(motion.parents) if parent == joint]
    inside = [_offset(motion.offsets[joint]), f"CHANNELS {len(channels)} {' '.join(channels)}"]
    for child in children:
        inside += _hierarchy(motion, names, child, 0)
    if not children:
        inside += ["End Site", "{", f"\t{_offset(TIP * motion.offsets[joint])}", "}"]
    lines = [f"{'JOINT' if joint else 'ROOT'} {names[joint]}", "{", *(f"\t{line}" for line in inside), "}"]
    return [depth * "\t" + line for line in lines]


def _offset(offset: np.ndarray) -> str:
    return "OFFSET " + " ".join(f"{value:.6f}" for value in np.round(offset, 6) + 0.0)


def to_angles(rotations: np.ndarray) -> np.ndarray:
    """Angles (F, J, 3) about z, x and y, radians, of matrices (F, J, 3, 3) = Rz Rx Ry, without jumps between frames."""
    sine = np.clip(rotations[..., 2, 1], -1.0, 1.0)
    z = np.arctan2(-rotations[..., 0, 1], rotations[..., 1, 1])
    y = np.arctan2(-rotations[..., 2, 0], rotations[..., 2, 2])
    angles = np.stack([z, np.arcsin(sine), y], axis=-1)
    upright = np.abs(rotations[..., 2, 1]) > 1 - UPRIGHT
    turned = np.arctan2(rotations[..., 1, 0], rotations[..., 0, 0])  # z + y or z - y, where only that is known
    for frame in range(len(angles)):
        before = angles[max(0, frame - 1)]
        known = np.where(upright[frame], 0.0 if frame == 0 else before[..., 2], angles[frame, ..., 2])
        angles[frame, ..., 0] = np.where(
            upright[frame], turned[frame] - np.sign(sine[frame]) * known, angles[frame, ..., 0]
        )
        angles[frame, ..., 2] = known
        angles[frame] = _nearest(angles[frame], before)
    return angles


def _nearest(angles: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Of the angles (J, 3) that mean the same rotations those nearest to the angles before."""
    other = angles * (1, -1, 1) + np.pi
    either = [each + 2 * np.pi * np.round((before - each) / (2 * np.pi)) for each in (angles, other)]
    first, second = (np.abs(each - before).sum(-1, keepdims=True) for each in either)
    return np.where(first <= second + 1e-9, *either)


# --- back


@dataclass(frozen=True)
class Bvh:
    """What a BVH file says.

    names      of its J joints, in the order of the file
    parents    (J,) -1 for the root
    positions  (F, J, 3) of the joints in the world
    fps        frames a second
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    positions: np.ndarray
    fps: float

    def joints(self, skeleton: Skeleton) -> np.ndarray:
        """The joints (F, J, 3) in a skeleton's order; ValueError naming those that are missing."""
        missing = [name for name in skeleton.joint_names if name not in self.names]
        if missing:
            raise ValueError(f"the BVH file has no joint {', '.join(missing)}; it has {', '.join(self.names)}")
        return self.positions[:, [self.names.index(name) for name in skeleton.joint_names]]


def read_bvh(path: Path) -> Bvh:
    """Joints of a BVH file with channels in any order; ValueError, naming it, for a file of another kind."""
    head, found, tail = path.read_text(encoding="utf-8").partition("MOTION")
    words = iter(head.split())
    if not found or next(words, None) != "HIERARCHY":
        raise ValueError(f"{path} is no BVH file: it needs the parts HIERARCHY and MOTION")
    try:
        names, parents, offsets, channels = _read_hierarchy(words)
        lines = [line.split() for line in tail.strip().splitlines()]
        frames, seconds = int(lines[0][1]), float(lines[1][2])
        rows = np.array(lines[2:], dtype=float).reshape(frames, sum(map(len, channels)))
    except (ValueError, IndexError, StopIteration) as error:
        raise ValueError(f"{path} is no BVH file, or a damaged one: {error}") from error
    return Bvh(tuple(names), tuple(parents), _posed(rows, parents, np.array(offsets), channels), 1 / seconds)


def _read_hierarchy(words: Iterator[str]) -> tuple[list[str], list[int], list[list[float]], list[list[str]]]:
    """Names, parents, offsets and channels of the joints; end sites are left out."""
    names, parents, offsets, channels, open_joints = [], [], [], [], []
    for word in words:
        if word in ("ROOT", "JOINT"):
            parents.append(open_joints[-1] if open_joints else -1)
            open_joints.append(len(names))
            names.append(next(words))
            offsets.append([0.0] * 3)
            channels.append([])
        elif word == "End":
            open_joints.append(-1)
        elif word == "OFFSET":
            offset = [float(next(words)) for _ in range(3)]
            if open_joints[-1] >= 0:
                offsets[open_joints[-1]] = offset
        elif word == "CHANNELS":
            channels[open_joints[-1]] = [next(words) for _ in range(int(next(words)))]
        elif word == "}":
            open_joints.pop()
    return names, parents, offsets, channels


def _posed(rows: np.ndarray, parents: list[int], offsets: np.ndarray, channels: list[list[str]]) -> np.ndarray:
    """Positions (F, J, 3) from the rows (F, channels) of the file."""
    positions, turned, column = np.zeros((len(rows), len(parents), 3)), [], 0
    for joint, parent in enumerate(parents):
        place, rotation = np.repeat(offsets[joint][None], len(rows), axis=0), np.eye(3)[None]
        for channel in channels[joint]:
            axis = "XYZ".index(channel[0])
            if channel.endswith("position"):
                place[:, axis] += rows[:, column]
            else:
                rotation = rotation @ _about(axis, np.radians(rows[:, column]))
            column += 1
        if parent >= 0:
            place, rotation = (
                positions[:, parent] + (turned[parent] @ place[..., None])[..., 0],
                turned[parent] @ rotation,
            )
        positions[:, joint] = place
        turned.append(rotation)
    return positions


def _about(axis: int, angles: np.ndarray) -> np.ndarray:
    """Rotations (F, 3, 3) about axis 0, 1 or 2."""
    found = np.zeros((len(angles), 3, 3))
    a, b = (axis + 1) % 3, (axis + 2) % 3
    found[:, axis, axis] = 1.0
    found[:, a, a] = found[:, b, b] = np.cos(angles)
    found[:, b, a] = np.sin(angles)
    found[:, a, b] = -found[:, b, a]
    return found

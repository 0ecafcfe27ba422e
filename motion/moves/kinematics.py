"""From what a body does to where its joints are: forward kinematics of trunk and arms, and legs that reach their feet.

Letters: n clips, F frames, J = 22 joints. y is up, +z is where a body looks, its left is on +x. Angles are in radians,
lengths in metres. A pair is (left, right).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The joints of a body of 1.7 m, each seen from its parent, with arms that hang down; about as in the SMPL model.
OFFSETS = np.array(
    [
        [0, 0, 0],
        [0.06, -0.09, -0.01],  # hips: left, right
        [-0.06, -0.09, -0.01],
        [0, 0.115, -0.02],  # spine
        [0, -0.385, 0],  # knees
        [0, -0.385, 0],
        [0, 0.135, 0.005],  # spine
        [0, -0.405, 0],  # ankles
        [0, -0.405, 0],
        [0, 0.055, 0.02],  # chest
        [0.02, -0.06, 0.125],  # feet
        [-0.02, -0.06, 0.125],
        [0, 0.21, -0.03],  # neck
        [0.075, 0.115, -0.02],  # collars
        [-0.075, 0.115, -0.02],
        [0, 0.095, 0.04],  # head
        [0.115, 0.03, -0.01],  # shoulders
        [-0.115, 0.03, -0.01],
        [0, -0.265, 0],  # elbows
        [0, -0.265, 0],
        [0, -0.25, 0],  # wrists
        [0, -0.25, 0],
    ]
)
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)
HIPS, KNEES, ANKLES, FEET = (1, 2), (4, 5), (7, 8), (10, 11)
COLLARS, SHOULDERS, ELBOWS, WRISTS = (13, 14), (16, 17), (18, 19), (20, 21)
SPINE, NECK, HEAD = (3, 6, 9), 12, 15
MIRRORED = (0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20)
STRAIGHTEST = 0.995  # how much of its length a leg reaches: a knee is never locked
SLACK = 4.0  # metres that a foot may be out of reach for each that it is above the floor
CALM = 3  # frames before and after over which the pelvis is drawn down together


@dataclass(frozen=True)
class Bodies:
    """`offsets` (n, J, 3) of bodies, as `OFFSETS`."""

    offsets: np.ndarray

    @property
    def legs(self) -> np.ndarray:
        """Length of a straight leg from hip to ankle (n,)."""
        return np.linalg.norm(self.offsets[:, KNEES[0]], axis=-1) + np.linalg.norm(self.offsets[:, ANKLES[0]], axis=-1)

    @property
    def ankle_height(self) -> np.ndarray:
        """Of the ankle above a foot that stands on the floor (n,)."""
        return -self.offsets[:, FEET[0], 1]

    @property
    def stand(self) -> np.ndarray:
        """Height of the pelvis above the floor, standing with nearly straight legs (n,)."""
        return 0.985 * self.legs + self.ankle_height - self.offsets[:, HIPS[0], 1]

    @property
    def hip_width(self) -> np.ndarray:
        """From the middle to a hip (n,)."""
        return self.offsets[:, HIPS[0], 0]


@dataclass
class Pose:
    """What a body does, frame by frame.

    pelvis      (n, F, 3) its place; it is lowered where a planted foot would be out of reach
    yaw         (n, F) heading of the pelvis, positive to the left
    lean, roll  (n, F) of the pelvis: forward, and to the right
    bend        (n, F, 3) of the spine from pelvis to chest: forward, to the right, turned to the left
    head        (n, F, 2) nods, turns to the left
    arms        (n, F, 2, 4) forward, outward, inward twist of the upper arm, and bend of the elbow
    toes        (n, F, 2, 3) place of the foot joints
    foot_yaw    (n, F, 2) heading of the feet
    foot_pitch  (n, F, 2) heel up
    """

    pelvis: np.ndarray
    yaw: np.ndarray
    lean: np.ndarray
    roll: np.ndarray
    bend: np.ndarray
    head: np.ndarray
    arms: np.ndarray
    toes: np.ndarray
    foot_yaw: np.ndarray
    foot_pitch: np.ndarray


def about(axis: int, angle: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) by `angle` (...) about an axis of x, y, z, by the right-hand rule."""
    cos, sin = np.cos(angle), np.sin(angle)
    one, two = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.zeros((*angle.shape, 3, 3))
    rotation[..., axis, axis] = 1
    rotation[..., one, one] = rotation[..., two, two] = cos
    rotation[..., two, one], rotation[..., one, two] = sin, -sin
    return rotation


def turn(rotation: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) of vectors (..., 3)."""
    return (rotation * vector[..., None, :]).sum(-1)


def bent(forward: np.ndarray, side: np.ndarray, left: np.ndarray) -> np.ndarray:
    """The rotation (..., 3, 3) of a trunk that leans forward, to the right, and is turned to the left."""
    return about(1, left) @ about(0, forward) @ about(2, -side)


def joints_of(pose: Pose, bodies: Bodies) -> np.ndarray:
    """Joints (n, F, J, 3): bones as long as the bodies', feet where they are to be."""
    offsets = bodies.offsets[:, None]
    joints = np.empty((*pose.yaw.shape, len(PARENTS), 3))
    hips_turn = about(1, pose.yaw) @ bent(pose.lean, pose.roll, np.zeros_like(pose.yaw))
    ankles = pose.toes - np.stack([turn(_foot(pose, s), offsets[:, :, FEET[s]]) for s in (0, 1)], axis=2)
    hips = [turn(hips_turn, offsets[:, :, joint]) for joint in HIPS]
    joints[:, :, 0] = pose.pelvis
    joints[:, :, 0, 1] = _height(pose, hips, ankles, bodies)
    for side in (0, 1):
        joints[:, :, HIPS[side]] = joints[:, :, 0] + hips[side]
        _place_leg(joints, side, ankles[:, :, side], pose, hips_turn, offsets)
    _place_trunk(joints, pose, hips_turn, offsets)
    return joints


def two_bones(start: np.ndarray, end: np.ndarray, lengths: tuple, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle and the end (..., 3) of two bones from `start` towards `end`; out of reach it is the nearest place.

    axis  (..., 3) about which the middle bends: forward, for the body's left and a leg that hangs down
    """
    first, second = lengths
    way = end - start
    distance = np.linalg.norm(way, axis=-1, keepdims=True)
    along = way / distance
    least = np.abs(first - second) * 1.05 + 1e-3
    distance = np.clip(distance, least, STRAIGHTEST * (first + second))
    out = np.cross(along, axis)
    out /= np.linalg.norm(out, axis=-1, keepdims=True)
    near = (first**2 - second**2 + distance**2) / (2 * distance)
    far = np.sqrt(np.maximum(first**2 - near**2, 0))
    return start + near * along + far * out, start + distance * along


def mirror(joints: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Joints (n, F, J, 3), left and right exchanged in the `chosen` (n,) clips."""
    flipped = joints[:, :, list(MIRRORED)] * np.array([-1, 1, 1])
    return np.where(chosen[:, None, None, None], flipped, joints)


def _foot(pose: Pose, side: int) -> np.ndarray:
    return about(1, pose.foot_yaw[:, :, side]) @ about(0, pose.foot_pitch[:, :, side])


def _height(pose: Pose, hips: list, ankles: np.ndarray, bodies: Bodies) -> np.ndarray:
    """The pelvis' height (n, F): as wanted, or as low as the legs with their feet on the floor need, without a jerk."""
    wanted = pose.pelvis[:, :, 1]
    lacking = np.zeros_like(wanted)
    for side in (0, 1):
        hip = pose.pelvis + hips[side]
        away = np.square(hip - ankles[:, :, side])[..., [0, 2]].sum(-1)
        reach = np.sqrt(np.maximum((STRAIGHTEST * bodies.legs[:, None]) ** 2 - away, 1e-4))
        slack = SLACK * np.maximum(pose.toes[:, :, side, 1], 0)
        limit = ankles[:, :, side, 1] + reach - hips[side][..., 1] + slack
        lacking = np.maximum(lacking, wanted - limit)
    return wanted - _calm(lacking)


def _calm(values: np.ndarray) -> np.ndarray:
    """A smooth curve (n, F) nowhere below `values`: the average of their greatest over windows of 2 CALM + 1 frames."""

    def windows(of: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(
            np.pad(of, ((0, 0), (CALM, CALM)), "edge"), 2 * CALM + 1, axis=1
        )

    weights = 1 - np.abs(np.arange(-CALM, CALM + 1)) / (CALM + 1)
    return (windows(windows(values).max(-1)) * (weights / weights.sum())).sum(-1)


def _place_leg(joints, side: int, ankle: np.ndarray, pose: Pose, hips_turn: np.ndarray, offsets: np.ndarray) -> None:
    lengths = tuple(np.linalg.norm(offsets[:, :, joint[side]], axis=-1)[..., None] for joint in (KNEES, ANKLES))
    heading = pose.foot_yaw[:, :, side]
    axis = hips_turn[..., 0] + np.stack([np.cos(heading), np.zeros_like(heading), -np.sin(heading)], axis=-1)
    hip = joints[:, :, HIPS[side]]
    joints[:, :, KNEES[side]], joints[:, :, ANKLES[side]] = two_bones(hip, ankle, lengths, axis)
    joints[:, :, FEET[side]] = joints[:, :, ANKLES[side]] + turn(_foot(pose, side), offsets[:, :, FEET[side]])


def _place_trunk(joints: np.ndarray, pose: Pose, hips_turn: np.ndarray, offsets: np.ndarray) -> None:
    rotation, third = hips_turn, bent(*np.moveaxis(pose.bend / 3, -1, 0))
    for joint in SPINE:
        joints[:, :, joint] = joints[:, :, PARENTS[joint]] + turn(rotation, offsets[:, :, joint])
        rotation = rotation @ third
    joints[:, :, NECK] = joints[:, :, SPINE[-1]] + turn(rotation, offsets[:, :, NECK])
    nods, turns = np.moveaxis(pose.head, -1, 0)
    joints[:, :, HEAD] = joints[:, :, NECK] + turn(rotation @ bent(nods, 0 * nods, turns), offsets[:, :, HEAD])
    for side, sign in enumerate((1, -1)):
        forward, outward, inward, elbow = np.moveaxis(pose.arms[:, :, side], -1, 0)
        upper = rotation @ about(0, -forward) @ about(2, sign * outward) @ about(1, -sign * inward)
        for joint, turned in (
            (COLLARS, rotation),
            (SHOULDERS, rotation),
            (ELBOWS, upper),
            (WRISTS, upper @ about(0, -elbow)),
        ):
            parent = joints[:, :, PARENTS[joint[side]]]
            joints[:, :, joint[side]] = parent + turn(turned, offsets[:, :, joint[side]])

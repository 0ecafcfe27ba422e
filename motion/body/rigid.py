"""A rigid body that moves as given joints do: bones of constant length and one rotation for each joint.

The rotations are found from positions and the true parents, so the arms hang on the spine; those of the published
numbers, whose arms are relative to the root, cannot be used by other programs. A joint with several children turns as
a whole (least squares, Kabsch 1976); one with a single child takes the shortest rotation from its parent's, so there is
no twist about a bone that the positions do not show.

Letters: F frames, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from motion.body.quaternions import between
from motion.body.skeleton import Skeleton

ROUNDS = 8  # of the fit of a joint's children: rest directions and rotations in turn


@dataclass(frozen=True)
class RigidMotion:
    """Bones of constant length, turned. Metres, y up.

    parents    (J,) -1 for the root
    offsets    (J, 3) from the parent in the rest pose; 0 for the root
    root       (F, 3) positions of joint 0
    rotations  (F, J, 3, 3) of each joint in the world
    joints     (F, J, 3) where it puts the joints
    """

    parents: tuple[int, ...]
    offsets: np.ndarray
    root: np.ndarray
    rotations: np.ndarray
    joints: np.ndarray

    def local(self) -> np.ndarray:
        """Rotations (F, J, 3, 3) relative to the parent's."""
        found = self.rotations.copy()
        for joint, parent in enumerate(self.parents):
            if parent >= 0:
                found[:, joint] = self.rotations[:, parent].swapaxes(-1, -2) @ self.rotations[:, joint]
        return found


def from_root(parents: tuple[int, ...]) -> list[int]:
    """The joints, depth first: the root, and each joint after its parent."""
    order, ahead = [], [0]
    while ahead:
        order.append(ahead.pop())
        ahead += [joint for joint in reversed(range(len(parents))) if parents[joint] == order[-1]]
    return order


def fit(joints: np.ndarray, skeleton: Skeleton) -> RigidMotion:
    """The rigid motion nearest to joints (F, J, 3) in metres; bones have their mean lengths.

    The rest pose is the skeleton's, but for the children of a joint with several: their directions are the clip's own,
    so a body that is rigid is met exactly. Raises ValueError for joints of another number, none, or not finite.
    """
    joints = _checked(joints, skeleton)
    lengths = np.linalg.norm(joints - joints[:, np.maximum(skeleton.parents, 0)], axis=-1).mean(0)
    rests = np.array(skeleton.raw_offsets, dtype=float) * lengths[:, None]
    rests[:, 0] *= skeleton.raw_offsets[skeleton.face[1]][0]  # KIT-ML's has its sides the other way than its rows
    return turn(joints, skeleton.parents, rests, adapt=True)


def turn(joints: np.ndarray, parents: tuple[int, ...], rests: np.ndarray, *, adapt: bool) -> RigidMotion:
    """A body with bones `rests` (J, 3) turned so that it comes near to joints (F, J, 3).

    adapt: whether the children of a joint with several get the directions that they have among themselves in the clip.
    Where the joints are not those of such a body, each bone aims at its joint's place, so that errors do not add up
    along a limb.
    """
    offsets, rotations, placed = rests.copy(), np.zeros((*joints.shape, 3)), joints.copy()
    for joint in from_root(parents):
        children = [child for child, parent in enumerate(parents) if parent == joint]
        parent = rotations[:, parents[joint]] if joint else np.eye(3)[None]
        bones, own = joints[:, children] - placed[:, [joint]], rests[children]
        if len(children) < 2:
            rotations[:, joint] = _shortest(parent, own, bones)
        elif adapt:
            own, rotations[:, joint] = _together(own, bones)
        else:
            rotations[:, joint] = kabsch(own, bones)
        offsets[children] = own
        placed[:, children] = placed[:, [joint]] + own @ rotations[:, joint].swapaxes(-1, -2)
    return RigidMotion(parents, offsets, joints[:, 0], rotations, placed)


def _checked(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    joints = np.asarray(joints, dtype=np.float64)
    if joints.ndim != 3 or joints.shape[1:] != (skeleton.joints, 3) or not len(joints):
        raise ValueError(f"joints have the shape {joints.shape}; needed: (frames >= 1, {skeleton.joints}, 3)")
    if not np.isfinite(joints).all():
        frame = int(np.argmin(np.isfinite(joints).all((1, 2))))
        raise ValueError(f"joints are not finite at frame {frame} of {len(joints)}")
    return joints


def _together(rests: np.ndarray, bones: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rest offsets (n, 3) with the directions that bones (F, n, 3) have among themselves, and rotations (F, 3, 3)."""
    lengths, first = np.linalg.norm(rests, axis=1, keepdims=True), rests
    for _ in range(ROUNDS):
        rotations = kabsch(rests, bones)
        rests = (rotations.swapaxes(-1, -2) @ bones.swapaxes(-1, -2)).swapaxes(-1, -2).mean(0)
        rests *= lengths / np.maximum(np.linalg.norm(rests, axis=1, keepdims=True), 1e-9)
    rests = rests @ kabsch(rests, first[None])[0].T
    return rests, kabsch(rests, bones)


def kabsch(start: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The rotations (F, 3, 3) that take vectors (n, 3) nearest to vectors (F, n, 3), in least squares."""
    left, _, right = np.linalg.svd(np.einsum("fni,nj->fij", ends, start))
    left[..., -1] *= np.linalg.det(left @ right)[:, None]
    return left @ right


def _shortest(parent: np.ndarray, rests: np.ndarray, bones: np.ndarray) -> np.ndarray:
    """Rotations (F, 3, 3): those of the parent, turned no further than the only bone needs; none: the parent's."""
    if not len(rests):
        return parent
    start, end = torch.from_numpy(parent @ rests[0]), torch.from_numpy(bones[:, 0])
    return matrices(between(start, end).numpy()) @ parent


def matrices(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternions (..., 4), w first, as matrices (..., 3, 3)."""
    w, x, y, z = np.moveaxis(rotation, -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

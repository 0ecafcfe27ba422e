"""Clips of made-up bodies that move smoothly: bones of constant length that swing, a root that walks and turns."""

import itertools
import math

import torch
from torch import Tensor

from motion.body.features import turn_back
from motion.body.skeleton import Skeleton


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def directions(skeleton: Skeleton) -> Tensor:
    """(J, 3) where the bones of a body that stands and faces +z point: as at rest, but for hips and shoulders."""
    rest = torch.tensor(skeleton.raw_offsets, dtype=torch.float32)
    negative = {"left", "right"} - {skeleton.joint_names[skeleton.face[1]].split("_")[0]}
    for joint, name in enumerate(skeleton.joint_names):
        side, _, part = name.partition("_")
        if part in ("hip", "collar", "shoulder"):
            rest[joint] = torch.tensor((-1.0 if side in negative else 1.0, 0.0, 0.0))
    return rest


def standing(skeleton: Skeleton, seed: int = 0) -> Tensor:
    """(J, 3) bones of a body of some size, its shoulders wider than its hips."""
    lengths = 0.2 + 0.2 * torch.rand(skeleton.joints, generator=random(seed))
    for joint, name in enumerate(skeleton.joint_names):
        lengths[joint] *= 0.3 if "hip" in name else 1.0
    return directions(skeleton) * lengths[:, None]


def pose(skeleton: Skeleton, bones: Tensor) -> Tensor:
    """Joints (..., J, 3) of bones (..., J, 3), the root 1 m high."""
    placed = [torch.tensor((0.0, 1.0, 0.0)).expand_as(bones[..., 0, :])] * skeleton.joints
    for chain in skeleton.chains:
        for before, joint in itertools.pairwise(chain):
            placed[joint] = placed[before] + bones[..., joint, :]
    return torch.stack(placed, dim=-2)


def moving(skeleton: Skeleton, frames: int = 60, seed: int = 0, degrees: float = 0.0, swing: float = 0.3) -> Tensor:
    """Joints (F, J, 3) of a body whose bones swing while it walks ahead and turns left, so many degrees a frame."""
    bones, source = standing(skeleton, seed), random(seed + 1)
    lengths = bones.norm(dim=-1)[:, None]
    speeds, starts = torch.rand(2, skeleton.joints, 3, generator=source)
    times = torch.arange(frames, dtype=torch.float32)[:, None, None]
    waves = swing * ((0.05 + 0.2 * speeds) * times + 6.3 * starts).sin()
    bones = torch.nn.functional.normalize(directions(skeleton) + waves, dim=-1) * lengths
    angles = math.radians(degrees) * torch.arange(frames, dtype=torch.float32)
    facing = torch.stack((angles.sin(), angles.cos()), dim=-1)
    path = torch.stack((0.05 * facing[:, 0], 0.02 * angles.sin(), 0.05 * facing[:, 1]), dim=-1).cumsum(0)
    return turn_back(pose(skeleton, bones), facing[:, None]) + path[:, None]

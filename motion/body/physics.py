"""Placeholder."""

import torch
from torch import Tensor


def skate_ratio(joints: Tensor, skeleton) -> float:
    """Share of frames in which a foot near the ground slides faster than 2.5 cm a frame."""
    toes = joints[:, [skeleton.feet[1], skeleton.feet[3]]]
    near = (toes[:-1, :, 1] < 0.05) & (toes[1:, :, 1] < 0.05)
    moved = (toes[1:, :, [0, 2]] - toes[:-1, :, [0, 2]]).norm(dim=-1) > 0.025
    return float((near & moved).any(1).float().mean()) if len(joints) > 1 else 0.0

"""How near clips come back from a tokenizer: their numbers, their joints, and whether feet slide more than before.

Letters: B batch, C numbers of a frame, F frames, J joints.
"""

from __future__ import annotations

import torch
from torch import Tensor

MM_PER_M = 1000.0


def joint_errors_mm(joints: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distances of joints (..., F, J, 3) in metres, in millimetres: (...,) each.

    The first is in space, the root's way included; the second is relative to the root, pose against pose.
    """
    roots = joints[..., :1, :], decoded[..., :1, :]
    in_space = (joints - decoded).norm(dim=-1)
    of_pose = ((joints - roots[0]) - (decoded - roots[1])).norm(dim=-1)[..., 1:]
    return MM_PER_M * in_space.mean((-1, -2)), MM_PER_M * of_pose.mean((-1, -2))


def every_nth(clip: Tensor, stride: int) -> Tensor:
    """A clip (C, F) of which each `stride`-th frame and the last are kept, and those between lie on straight lines."""
    frames = torch.arange(clip.shape[-1])
    before = frames // stride * stride
    after = (before + stride).clamp_max(len(frames) - 1)
    weight = (frames - before) / (after - before).clamp_min(1)
    return torch.lerp(clip[:, before], clip[:, after], weight.to(clip))


def explained_variance(x: Tensor, decoded: Tensor, real: Tensor) -> Tensor:
    """The share of the variance of numbers (B, C, F) normalised to mean 0 that comes back in real frames, (B,)."""
    error = ((x - decoded).square() * real).sum((1, 2))
    return 1 - error / (x.square() * real).sum((1, 2)).clamp_min(torch.finfo(x.dtype).tiny)

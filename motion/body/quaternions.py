"""Rotations as quaternions (w, x, y, z) and as 6 numbers, the first two columns of their matrix one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-12


def multiply(first: Tensor, second: Tensor) -> Tensor:
    """The rotation (..., 4) that turns by `second` (..., 4) and then by `first` (..., 4)."""
    w, x, y, z = first.unbind(-1)
    a, b, c, d = second.unbind(-1)
    return torch.stack(
        (
            w * a - x * b - y * c - z * d,
            w * b + x * a + y * d - z * c,
            w * c - x * d + y * a + z * b,
            w * d + x * c - y * b + z * a,
        ),
        dim=-1,
    )


def inverse(rotation: Tensor) -> Tensor:
    """The rotation (..., 4) that undoes a unit quaternion (..., 4)."""
    return rotation * rotation.new_tensor((1.0, -1.0, -1.0, -1.0))


def between(start: Tensor, end: Tensor) -> Tensor:
    """The shortest rotation (..., 4) that takes directions (..., 3) to directions (..., 3) of any length.

    Opposite directions have no shortest one: half a turn about an axis across them is taken. A direction of length 0
    is taken as the other one: no rotation.
    """
    start, end = torch.broadcast_tensors(start, end)
    lengths = (start.square().sum(-1) * end.square().sum(-1)).sqrt()
    real = lengths + (start * end).sum(-1)
    rotation = torch.cat((real[..., None], torch.linalg.cross(start, end)), dim=-1)
    norm = rotation.norm(dim=-1, keepdim=True)
    unclear = norm[..., 0] <= SMALLEST
    if bool(unclear.any()):
        rotation = torch.where(unclear[..., None], _half_turn(start, lengths), rotation)
        norm = rotation.norm(dim=-1, keepdim=True)
    return rotation / norm


def _half_turn(start: Tensor, lengths: Tensor) -> Tensor:
    """(..., 4) half a turn about an axis across `start`; no rotation where the lengths are 0."""
    axis = torch.nn.functional.one_hot(start.abs().argmin(-1), 3).to(start.dtype)
    across = torch.nn.functional.pad(torch.linalg.cross(start, axis), (1, 0))
    across = across / across.norm(dim=-1, keepdim=True).clamp(min=SMALLEST)
    nothing = start.new_tensor((1.0, 0.0, 0.0, 0.0)).expand_as(across)
    return torch.where((lengths <= SMALLEST)[..., None], nothing, across)


def to_six(rotation: Tensor) -> Tensor:
    """The first column and then the second (..., 6) of the matrices of unit quaternions (..., 4)."""
    w, x, y, z = rotation.unbind(-1)
    return torch.stack(
        (
            1 - 2 * (y * y + z * z),
            2 * (x * y + w * z),
            2 * (x * z - w * y),
            2 * (x * y - w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z + w * x),
        ),
        dim=-1,
    )


def six_to_matrix(six: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of 6 numbers (..., 6): the first column is kept, the second made square to it."""
    x = torch.nn.functional.normalize(six[..., :3], dim=-1)
    z = torch.nn.functional.normalize(torch.linalg.cross(x, six[..., 3:]), dim=-1)
    return torch.stack((x, torch.linalg.cross(z, x), z), dim=-1)

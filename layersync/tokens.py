"""Arithmetic of tokens that alignment methods share: cosines and means that leave padding out.

Letters: B batch, N tokens, F frames, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor

Similarity = Literal["cosine", "l2", "smooth_l1"]


def token_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of tokens (..., D) along D, in float32 or better whatever the autocast; norms have a floor of 1e-12.

    The tokens are read, not normalised: three reductions instead of two more copies of (B, N, D).
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = (x.float() if x.dtype.itemsize < 4 else x for x in (a, b))
        norms = [torch.linalg.vector_norm(x, dim=-1).clamp_min(1e-12) for x in (a, b)]
        return torch.linalg.vecdot(a, b) / (norms[0] * norms[1])


def token_closeness(
    a: Tensor,
    b: Tensor,
    similarity: Similarity = "cosine",
    beta: float = 0.05,
    cosine: Callable[[Tensor, Tensor], Tensor] = token_cosine,
) -> tuple[Tensor, Tensor]:
    """How close tokens (..., D) are, which an alignment maximises, and their cosine, both (...).

    cosine     cos(a, b)
    l2         minus the squared distance of the normalised tokens: 2 cos(a, b) - 2
    smooth_l1  minus the smooth L1 distance of the tokens as they are, quadratic up to `beta`, its mean over D
    """
    cosines = cosine(a, b)
    if similarity == "cosine":
        return cosines, cosines
    if similarity == "l2":
        return 2 * cosines - 2, cosines
    a, b = (x.float() if x.dtype.itemsize < 4 else x for x in (a, b))
    return -F.smooth_l1_loss(a, b, reduction="none", beta=beta).mean(-1), cosines.detach()


def neighbour_cosine(
    weak: Tensor,
    strong: Tensor,
    reach: int,
    decay: float,
    cosine: Callable[[Tensor, Tensor], Tensor] = token_cosine,
) -> Tensor:
    """Cosines of the tokens of a frame with those at the same place of the frames around it, summed: (B, F, N).

    For weak and strong tokens (B, F, N, D) it is the sum over frames k, 1 to `reach` away from f, of
    exp(-|k - f| / decay) cos(weak of f, strong of k). Frames beyond the ends add nothing, and neither does padding,
    whose tokens are zero.
    """
    total = weak.new_zeros(weak.shape[:-1], dtype=torch.promote_types(weak.dtype, torch.float32))
    rest = [0, 0] * (weak.ndim - 3)  # axes behind that of frames are not padded
    for distance in range(1, min(reach, weak.shape[1] - 1) + 1):
        factor = math.exp(-distance / decay)
        after = cosine(weak[:, :-distance], strong[:, distance:])
        before = cosine(weak[:, distance:], strong[:, :-distance])
        total = total + factor * (F.pad(after, [*rest, 0, distance]) + F.pad(before, [*rest, distance, 0]))
    return total


def hide_padding(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens (..., D) with zeros where the mask is false: a NaN there would come back through the gradient."""
    if mask is None or mask.flatten(1).shape != tokens[..., 0].flatten(1).shape:
        return tokens  # the means refuse a mask of another length
    return torch.where(mask.bool().reshape(tokens.shape[:-1]).unsqueeze(-1), tokens, 0)


def masked_token_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean (B,) over the tokens of values (B, N) or (B, F, N); with a mask, over the tokens where it is true.

    It is 0 for a sample without a real token, which counts in no mean over samples: see `masked_mean`.
    """
    values = values.flatten(1)
    if mask is None:
        return values.mean(1)
    mask = _real(values, mask)
    return torch.where(mask, values, 0).sum(1) / mask.sum(1).clamp_min(1)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over samples, a scalar, of the mean over their real tokens; values (B, N) or (B, F, N).

    Samples without a real token are left out; of none at all, as of an empty batch, it is 0.
    """
    means = masked_token_mean(values, mask)
    if mask is None:
        return means.mean() if len(means) else means.sum()
    return means.sum() / _real(values.flatten(1), mask).any(1).sum().clamp_min(1)


def _real(values: Tensor, mask: Tensor) -> Tensor:
    """The mask (B, N) as bool, for values of that shape. Raises ValueError for one of another."""
    mask = mask.flatten(1).bool()
    if mask.shape != values.shape:
        raise ValueError(f"alignment mask has {tuple(mask.shape)} tokens, the layers gave {tuple(values.shape)}")
    return mask

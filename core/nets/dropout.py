"""Dropout whose zeros are a function of the step's streams: a continued run, or one on more processes, drops the same.

Each row of a batch has a seed, and the bits of an element are a hash (the finaliser of MurmurHash3) of that seed, the
place in the network and the position in the row. So there is no generator to save, and a block that is recomputed in
backward, or compiled, drops the same.

Letters: B rows of the batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.draws import Random

STRIDE, FIRST, SECOND = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35
HALF = 2**16


def draw_seeds(random: Random, rows: int) -> Tensor:
    """Seeds (B,) int32 of the rows of a batch, by the stream "dropout"."""
    high, low = (random.uniform("dropout", (rows, 2)) * HALF).int().unbind(1)
    return (high - HALF // 2) * HALF + low


def seeds_of_part(seeds: Tensor | None, number: int) -> Tensor | None:
    """Seeds (B,) of the part of a network that has that number, such as a block; None stays None.

    Parts that are alike but for a number of their own would be compiled one by one.
    """
    return None if seeds is None else _mixed(_mixed(seeds) + _signed(number * STRIDE))


def drop(x: Tensor, share: float, seeds: Tensor | None, place: int) -> Tensor:
    """x (B, ...) of which about `share` are zeros and the others divided by 1 - share.

    seeds: (B,) int32; None: x stays as it is. place: a number of its own for each use of the seeds.
    """
    if seeds is None or share == 0:
        return x
    rows = seeds_of_part(seeds, place)
    positions = torch.arange(math.prod(x.shape[1:]), dtype=torch.int32, device=x.device)
    bits = _mixed(rows[:, None] + positions * _signed(STRIDE))
    kept = bits >= math.floor(share * 2**32) - 2**31
    return torch.where(kept.view(x.shape), x / (1 - share), 0)


def _mixed(bits: Tensor) -> Tensor:
    """Every bit of the result depends on every bit of an int32."""
    bits = (bits ^ _shifted(bits, 16)) * _signed(FIRST)
    bits = (bits ^ _shifted(bits, 13)) * _signed(SECOND)
    return bits ^ _shifted(bits, 16)


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Bits moved to the right, zeros in their place."""
    return (bits >> count) & (2 ** (32 - count) - 1)


def _signed(number: int) -> int:
    """The lowest 32 bits of a number as an int32."""
    return (number + 2**31) % 2**32 - 2**31

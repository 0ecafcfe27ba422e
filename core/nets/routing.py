"""Token routing (TREAD, arXiv 2501.04765): a random share of the tokens skips some blocks and rejoins as it was.

In training only; another share each step and sample, from the step's streams. Every token has its loss.

Letters: B batch, N tokens, K tokens that the routed blocks see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from core.draws import Random


@dataclass(frozen=True)
class Routing:
    """A share of a sample's tokens, rounded down to a whole number, skips blocks `first` to `last`, counted from 1."""

    share: float = 0.5
    first: int = 2
    last: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"trainer.routing.share is {self.share}; it must lie in (0, 1)")
        if not 1 <= self.first <= self.last:
            raise ValueError(
                f"trainer.routing.first is {self.first} and last {self.last}; needed: block numbers from 1, in order"
            )

    def kept(self, tokens: int) -> int:
        """K of N tokens; ValueError where the share is less than one token."""
        skipping = math.floor(self.share * tokens)
        if skipping == 0:
            raise ValueError(
                f"trainer.routing.share is {self.share}, of {tokens} tokens none; needed: {1 / tokens:.3g}"
            )
        return tokens - skipping

    def draw(self, random: Random, shape: tuple[int, int], mask: Tensor | None = None) -> Tensor:
        """Which tokens of shape (B, N) the routed blocks see: (B, K) int64, ascending, by the stream "routing".

        mask (B, N), true where a token is real: of a sample's real tokens the share skips, too, and one stays at least.
        """
        order = random.uniform("routing", shape)  # the smallest stay
        if mask is not None:
            order = self._real_first(order, mask.bool())
        kept = order.argsort(dim=1, stable=True)[:, : self.kept(shape[1])]
        return kept.sort(dim=1).values

    def _real_first(self, order: Tensor, mask: Tensor) -> Tensor:
        """Keys (B, N): below 1 of real tokens that stay, below 2 of padding, which fills up, then of the others."""
        rank = order.masked_fill(~mask, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
        real = mask.sum(1, keepdim=True)
        stay = rank < real - torch.floor(self.share * real.double()).long()
        return order + torch.where(mask, torch.where(stay, 0.0, 2.0), 1.0)


def take_tokens(values: Tensor, kept: Tensor) -> Tensor:
    """Values (B, N, ...) of the tokens `kept` (B, K): (B, K, ...)."""
    where = kept.reshape(*kept.shape, *[1] * (values.ndim - 2))
    return values.gather(1, where.expand(*kept.shape, *values.shape[2:]))


def put_tokens(values: Tensor, kept: Tensor, tokens: Tensor) -> Tensor:
    """`tokens` (B, N, D), of which those at `kept` (B, K) are replaced by values (B, K, D)."""
    return tokens.scatter(1, kept[..., None].expand_as(values), values.to(tokens.dtype))

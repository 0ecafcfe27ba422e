"""No condition at all: an unconditional model. Letters: B batch, n rows of a data set, D width of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from core.draws import Random


@dataclass(frozen=True)
class NoneConfig:
    """Nothing: an unconditional model."""

    kind: ClassVar[str] = "none"
    lacking: ClassVar[str] = ""

    @property
    def drop(self) -> float:
        """There is nothing to drop."""
        return 0.0

    def has(self, dataset: Any) -> bool:
        """Any data set will do."""
        return True

    def assign(self, dataset: Any, device: torch.device) -> None:
        """The conditions of a data set are zeros (n,) that nobody looks at."""
        dataset.conditions, dataset.class_names = torch.zeros(len(dataset), dtype=torch.int64), []
        dataset.labels = None

    def build(self, names: Sequence[str], device: torch.device) -> Unconditional:
        """The conditioning that asks for nothing."""
        return Unconditional()


class Unconditional:
    """No condition; conditions (B,) int64 of zeros, which are not looked at."""

    config = NoneConfig()

    def embedder(self, width: int, null: bool) -> nn.Module:
        """Nothing is added to the time."""
        return NothingEmbedder(width)

    def drop(self, condition: Tensor, random: Random) -> Tensor:
        """There is nothing to drop."""
        return condition

    def null(self, condition: Tensor) -> Tensor:
        """The same rows (B,)."""
        return condition

    def requests(self, num: int, seed: int) -> Tensor:
        """Zeros (num,)."""
        return torch.zeros(num, dtype=torch.int64)


class NothingEmbedder(nn.Module):
    """Zeros (B, D) for any condition (B, ...)."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("zero", torch.zeros(width), persistent=False)

    def initialize(self) -> None:
        """It has no weights."""

    def forward(self, condition: Tensor) -> Tensor:
        """(B, ...) -> (B, D)."""
        return self.zero.expand(len(condition), -1)

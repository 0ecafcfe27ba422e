"""Class labels: dropped in training for guidance, made up when sampling. B batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.draws import Random, numpy_rng


@dataclass(frozen=True)
class LabelConfig:
    """How labels are dropped and made up.

    drop: share of labels replaced by the null label in training. labels: balanced gives every class the same number of
    samples, random draws each label uniformly; an FID of one differs from an FID of the other, so say which.
    """

    drop: float = 0.1
    labels: Literal["balanced", "random"] = "balanced"

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"conditioning.drop is {self.drop}; it must lie in [0, 1)")


class LabelConditioning:
    """Labels 0..num_classes-1; the null label is num_classes."""

    def __init__(self, config: LabelConfig, num_classes: int):
        self.config, self.num_classes = config, num_classes

    def drop(self, condition: Tensor, random: Random) -> Tensor:
        """Labels (B,) with a share of them null."""
        if self.config.drop == 0:
            return condition
        dropped = random.uniform("condition drop", tuple(condition.shape)) < self.config.drop
        return torch.where(dropped, self.null(condition), condition)

    def null(self, condition: Tensor) -> Tensor:
        """The null label for each row (B,)."""
        return torch.full_like(condition, self.num_classes)

    def requests(self, num: int, seed: int) -> Tensor:
        """Labels (num,) of the samples 0..num-1.

        Balanced: sample i has class i mod num_classes. Random: a draw from (seed, i).
        """
        if self.config.labels == "balanced":
            return torch.arange(num) % self.num_classes
        return torch.tensor([int(numpy_rng(seed, "label", i).integers(self.num_classes)) for i in range(num)])

    def chosen(self, labels: int | list[int], num: int, key: str = "labels") -> Tensor:
        """Labels (num,) that cycle through the ones asked for; ValueError for one out of range."""
        wanted = [labels] if isinstance(labels, int) else list(labels)
        bad = [label for label in wanted if not 0 <= label < self.num_classes]
        if bad or not wanted:
            raise ValueError(f"{key} is {labels}; allowed: 0 to {self.num_classes - 1}")
        return torch.tensor([wanted[i % len(wanted)] for i in range(num)])

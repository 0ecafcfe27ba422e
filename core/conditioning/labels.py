"""Class labels: dropped in training for guidance, made up when sampling. Letters: B batch, D width of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from core.conditioning.contract import check_drop, drop_rows, position_of
from core.draws import Random, numpy_rng
from core.nets.layers import LabelEmbedder


@dataclass(frozen=True)
class LabelConfig:
    """How labels are dropped and made up.

    drop: share of labels replaced by the null label in training. labels: balanced gives every class the same number of
    samples, random draws each label uniformly; an FID of one differs from an FID of the other, so say which.
    """

    kind: ClassVar[str] = "labels"
    lacking: ClassVar[str] = "no classes (data=folder: data.classes=folders)"
    drop: float = 0.1
    labels: Literal["balanced", "random"] = "balanced"

    def __post_init__(self) -> None:
        check_drop(self.drop)

    def has(self, dataset: Any) -> bool:
        """Whether the data set has classes."""
        return dataset.labels is not None

    def assign(self, dataset: Any, device: torch.device) -> None:
        """The conditions of a data set are its labels (n,) int64."""
        dataset.conditions = torch.as_tensor(dataset.labels).long()

    def build(self, names: Sequence[str], device: torch.device) -> LabelConditioning:
        """The conditioning over classes called `names`."""
        return LabelConditioning(self, len(names), names)


class LabelConditioning:
    """Labels 0..num_classes-1, conditions (B,) int64; the null label is num_classes. `names` default to the numbers."""

    def __init__(self, config: LabelConfig, num_classes: int, names: Sequence[str] | None = None):
        self.config, self.num_classes = config, num_classes
        self.names = [str(number) for number in range(num_classes)] if names is None else list(names)

    def embedder(self, width: int, null: bool) -> nn.Module:
        """A table of vectors (num_classes, D), and one for no class where `null` asks for it."""
        return LabelEmbedder(self.num_classes, width, null_row=null)

    def drop(self, condition: Tensor, random: Random) -> Tensor:
        """Labels (B,) with a share of them null."""
        return drop_rows(condition, self.null(condition), self.config.drop, random)

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

    def requested(self, labels: int | list[int] | None, num: int, seed: int) -> Tensor:
        """Labels (num,) of the samples to make: those asked for in turn, or by the config's own rule over all."""
        return self.requests(num, seed) if labels is None else self.chosen(labels, num)

    def chosen(self, labels: int | list[int], num: int, key: str = "labels") -> Tensor:
        """Labels (num,) that cycle through the ones asked for; ValueError for one out of range."""
        wanted = [labels] if isinstance(labels, int) else list(labels)
        bad = [label for label in wanted if not 0 <= label < self.num_classes]
        if bad or not wanted:
            raise ValueError(f"{key} is {labels}; allowed: 0 to {self.num_classes - 1}")
        return torch.tensor([wanted[i % len(wanted)] for i in range(num)])

    def named(self, wanted: Sequence[int | str], num: int) -> Tensor:
        """Labels (num,) that cycle through classes given by number or name; ValueError for an unknown one."""
        numbers = [each if isinstance(each, int) else position_of(each, self.names, "labels") for each in wanted]
        return self.chosen(numbers, num)

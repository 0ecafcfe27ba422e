"""Class labels: dropped in training for guidance, made up when sampling. Letters: B batch, D width of the backbone."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from core.conditioning.contract import check_drop, drop_rows, position_of
from core.draws import Random, numpy_rng
from core.nets.layers import LabelEmbedder

log = logging.getLogger(__name__)


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
        mixed = next((number for number in range(num_classes) if namesake_of(number, self.names) != number), None)
        if mixed is not None:
            log.info("classes are numbered in the order of their names: number %d is %r", mixed, self.names[mixed])

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

    def requested(self, labels: int | str | list[int | str] | None, num: int, seed: int) -> Tensor:
        """Labels (num,) of the samples to make: those asked for in turn, or by the config's own rule over all."""
        return self.requests(num, seed) if labels is None else self.chosen(labels, num)

    def chosen(self, labels: int | str | Sequence[int | str], num: int, key: str = "labels") -> Tensor:
        """Labels (num,) that cycle through classes given by number or name.

        Raises ValueError for an unknown one, and for a number that is the name of another class.
        """
        wanted = [labels] if isinstance(labels, int | str) else list(labels)
        out_of_range = [each for each in wanted if isinstance(each, int) and not 0 <= each < self.num_classes]
        if out_of_range or not wanted:
            raise ValueError(f"{key} is {labels}; allowed: 0 to {self.num_classes - 1}{self._names_too()}")
        numbers = [each if isinstance(each, int) else position_of(each, self.names, key) for each in wanted]
        self._refuse_other_names([each for each in wanted if isinstance(each, int)], key)
        return torch.tensor([numbers[i % len(numbers)] for i in range(num)])

    def named(self, wanted: Sequence[int | str], num: int) -> Tensor:
        """Labels (num,) that cycle through classes given by number or name; see `chosen`."""
        return self.chosen(wanted, num)

    def _refuse_other_names(self, numbers: Sequence[int], key: str) -> None:
        for number in numbers:
            namesake = namesake_of(number, self.names)
            if namesake != number:
                one, other = (json.dumps(self.names[place]) for place in (number, namesake))
                raise ValueError(
                    f"{key} has {number}, the number of class {one}, but class {namesake} is called {other}; "
                    f"ask for them by name: {key}='{one}' or {key}='{other}'"
                )

    def _names_too(self) -> str:
        named = [name for place, name in enumerate(self.names) if name != str(place)]
        return f", or names in quotes, such as '{json.dumps(named[0])}'" if named else ""


def namesake_of(number: int, names: Sequence[str]) -> int:
    """The class that is called by the number of a class: itself where none is, or where it is called so itself."""
    called = [place for place, name in enumerate(names) if name.isdecimal() and int(name) == number]
    return number if number in called or not called else called[0]


def by_name(labels: int | str | list[int | str], names: Sequence[str]) -> int | str | list[int | str]:
    """Classes as records say them: by name, or by number where that is the name, or where names are not known.

    What `LabelConditioning.chosen` refuses stays as it is.
    """
    if isinstance(labels, list):
        return [by_name(each, names) for each in labels]
    if isinstance(labels, str):
        return int(labels) if labels in names and names.index(labels) == _number(labels) else labels
    unclear = not 0 <= labels < len(names) or namesake_of(labels, names) != labels or names[labels] == str(labels)
    return labels if unclear else names[labels]


def _number(name: str) -> int | None:
    """The number that a class is called by, as it is written without leading zeros."""
    return int(name) if name.isdecimal() and name == str(int(name)) else None

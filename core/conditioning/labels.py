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
    samples, random draws each label uniformly; an FID of one differs from an FID of the other, so say which. words:
    the vector of a class is the sum of those of the words in its name, so that "3 left" shares with "3 right".
    """

    kind: ClassVar[str] = "labels"
    lacking: ClassVar[str] = "no classes (data=folder: data.classes=folders)"
    drop: float = 0.1
    labels: Literal["balanced", "random"] = "balanced"
    words: bool = False

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
        mixed = next(iter(sorted(namesakes(self.names))), None)
        if mixed is not None:
            log.info(
                "classes are numbered by their places, not by their names: number %d is %r", mixed, self.names[mixed]
            )

    def embedder(self, width: int, null: bool) -> nn.Module:
        """Vectors of classes, or of the words in their names, and one for no class where `null` asks for it."""
        if self.config.words:
            return WordEmbedder(self.names, width, null_row=null)
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
        numbers = [each if isinstance(each, int) else self._place_of(each, key) for each in wanted]
        self._refuse_other_names([each for each in wanted if isinstance(each, int)], key)
        return torch.tensor([numbers[i % len(numbers)] for i in range(num)])

    def named(self, wanted: Sequence[int | str], num: int) -> Tensor:
        """Labels (num,) that cycle through classes given by number or name; see `chosen`."""
        return self.chosen(wanted, num)

    def _place_of(self, name: str, key: str) -> int:
        places = [place for place, each in enumerate(self.names) if each == name]
        if len(places) > 1:
            raise ValueError(f"{key} has {name!r}, the name of the classes {places}; ask for them by number")
        return position_of(name, self.names, key)

    def _refuse_other_names(self, numbers: Sequence[int], key: str) -> None:
        others = namesakes(self.names)
        for number in numbers:
            if number in others:
                one, other = (json.dumps(self.names[place], ensure_ascii=False) for place in (number, others[number]))
                raise ValueError(
                    f"{key} has {number}, the number of class {one}, but class {others[number]} is called {other}; "
                    f"ask for them by name: {key}='{one}' or {key}='{other}'"
                )

    def _names_too(self) -> str:
        named = [name for place, name in enumerate(self.names) if name != str(place)]
        return f", or names in quotes, such as '{json.dumps(named[0], ensure_ascii=False)}'" if named else ""


class WordEmbedder(nn.Module):
    """Labels (B,) as the sum of the vectors of the words in their class's name, over the root of their number."""

    def __init__(self, names: Sequence[str], width: int, null_row: bool):
        super().__init__()
        words = list(dict.fromkeys(word for name in names for word in name.split()))
        shares = torch.zeros(len(names) + null_row, len(words) + null_row)
        for row, name in enumerate(names):
            own = [words.index(word) for word in dict.fromkeys(name.split())]
            shares[row, own] = len(own) ** -0.5
        if null_row:
            shares[-1, -1] = 1
        self.register_buffer("shares", shares, persistent=False)
        self.embedding_table = nn.Embedding(len(words) + null_row, width)

    def initialize(self) -> None:
        """Normal, 0.02, as for classes."""
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        """(B,) -> (B, D)."""
        return self.shares[labels] @ self.embedding_table.weight


def namesakes(names: Sequence[str]) -> dict[int, int]:
    """The classes whose number is the name of another class, with that one; 2, 002, 2.0 and 2e0 name one number."""
    called: dict[float, list[int]] = {}
    for place, name in enumerate(names):
        try:
            called.setdefault(float(name), []).append(place)
        except ValueError:  # not called by a number
            continue
    return {int(n): places[0] for n, places in called.items() if n in range(len(names)) and n not in places}


def by_name(labels: int | str | list[int | str], names: Sequence[str]) -> int | str | list[int | str]:
    """Classes as records say them: by name; by number where that is the name, or names are not known or not unique.

    What `LabelConditioning.chosen` refuses stays as it is.
    """
    if isinstance(labels, list):
        return [by_name(each, names) for each in labels]
    if isinstance(labels, str):
        return names.index(labels) if labels in names and labels == str(names.index(labels)) else labels
    if not 0 <= labels < len(names) or labels in namesakes(names) or names.count(names[labels]) > 1:
        return labels
    return labels if names[labels] == str(labels) else names[labels]

"""Sets of tags, such as genres, instruments and moods, as conditions.

Letters: B batch, n rows of a data set, K tags, D width of the backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from core.conditioning.contract import check_drop, drop_rows, position_of
from core.draws import Random, numpy_rng


@dataclass(frozen=True)
class TagsConfig:
    """Sets of tags, such as MTG-Jamendo's genres, instruments and moods.

    drop      share of the sets replaced by none in training, for guidance
    requests  which sets samples are asked for where none are named: single, one tag each, in turn; or random, one tag
              drawn for each sample
    """

    kind: ClassVar[str] = "tags"
    lacking: ClassVar[str] = "no tags (data=jamendo has)"
    drop: float = 0.1
    requests: Literal["single", "random"] = "single"

    def __post_init__(self) -> None:
        check_drop(self.drop)

    def has(self, dataset: Any) -> bool:
        """Whether the data set has tags."""
        return dataset.tag_sets is not None

    def assign(self, dataset: Any, device: torch.device) -> None:
        """The conditions of a data set are its sets (n, K) uint8, its class names those of the tags."""
        dataset.conditions, dataset.class_names = torch.as_tensor(dataset.tag_sets), list(dataset.tag_names)
        dataset.labels = None

    def build(self, names: Sequence[str], device: torch.device) -> TagConditioning:
        """The conditioning over tags called `names`."""
        return TagConditioning(self, names)


class TagConditioning:
    """Sets of tags as rows of zeros and ones; conditions (B, K) uint8."""

    def __init__(self, config: TagsConfig, names: Sequence[str]):
        if not names:
            raise ValueError("conditioning is 'tags' but the vocabulary is empty")
        self.config, self.names = config, list(names)

    def embedder(self, width: int, null: bool) -> nn.Module:
        """The sum of the tags' vectors over the root of their number."""
        return TagEmbedder(len(self.names), width)

    def drop(self, condition: Tensor, random: Random) -> Tensor:
        """Sets (B, K) of which a share is empty."""
        return drop_rows(condition, self.null(condition), self.config.drop, random)

    def null(self, condition: Tensor) -> Tensor:
        """No tag, for each row."""
        return torch.zeros_like(condition)

    def requests(self, num: int, seed: int) -> Tensor:
        """Sets (num, K) of one tag each."""
        count = len(self.names)
        if self.config.requests == "single":
            chosen = torch.arange(num) % count
        else:
            chosen = torch.tensor([int(numpy_rng(seed, "tag", i).integers(count)) for i in range(num)])
        return torch.nn.functional.one_hot(chosen, count).to(torch.uint8)

    def named(self, wanted: Sequence[str], num: int) -> Tensor:
        """The set of the tags `wanted`, for each of num samples (num, K); ValueError for an unknown tag."""
        row = torch.zeros(len(self.names), dtype=torch.uint8)
        row[[position_of(tag, self.names, "tags") for tag in wanted]] = 1
        return row.expand(num, -1).clone()


class TagEmbedder(nn.Module):
    """Sets of tags (B, K) as vectors: the sum of the tags' vectors over the root of their number.

    So the length of a vector does not grow with the set. No tag has a vector of its own, the last row of the table.
    """

    def __init__(self, num_tags: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(num_tags + 1, width)

    def initialize(self) -> None:
        """Normal, 0.02, as for classes."""
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, tags: Tensor) -> Tensor:
        """(B, K) of zeros and ones -> (B, D)."""
        table = self.embedding_table.weight
        chosen = tags.to(table.dtype)
        count = chosen.sum(1, keepdim=True)
        total = (chosen / count.clamp_min(1).sqrt()) @ table[:-1]
        return torch.where(count > 0, total, table[-1])

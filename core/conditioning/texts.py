"""Captions, as vectors that a frozen text encoder makes of them, as conditions.

A domain knows text encoders: it gives `TextConfig` its `embed`. Embeddings are kept in a cache, see
`core.conditioning.embeddings`.

Letters: B batch, n rows of a data set, E numbers of a text's embedding, D width of the backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from core.conditioning.contract import check_drop, drop_rows
from core.conditioning.encoders import PACKAGED
from core.draws import Random
from core.schema import FREE


@dataclass(frozen=True)
class TextConfig:
    """Captions through a frozen text encoder, which is read from a local directory; its embeddings are cached.

    encoder    which encoder: the domain knows some by name
    path       directory of the encoder; null for one whose weights come as a package (minilm)
    drop       share of the captions replaced by none in training, for guidance
    prompts    texts that previews and evaluations are asked for, in turn; a domain may take them of its data for null
    cache_dir  where embeddings are kept
    """

    kind: ClassVar[str] = "text"
    lacking: ClassVar[str] = "no captions (data=folder: data.captions)"
    encoder: str
    path: str | None = field(metadata=FREE)
    prompts: list[str]
    drop: float = 0.1
    cache_dir: str = field(default="runs/cache", metadata=FREE)

    def __post_init__(self) -> None:
        check_drop(self.drop)
        if not self.path and (self.path is not None or self.encoder not in PACKAGED):
            raise ValueError(f"conditioning.path is {self.path!r}; needed: the directory of the text encoder")
        if self.prompts is not None and not (self.prompts and all(prompt.strip() for prompt in self.prompts)):
            raise ValueError(f"conditioning.prompts is {self.prompts}; needed: one text or more, none of them empty")

    def embed(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Embeddings (n, E) float32 on the CPU of n texts: a domain's encoder."""
        raise NotImplementedError

    def has(self, dataset: Any) -> bool:
        """Whether the data set has captions."""
        return dataset.captions is not None

    def assign(self, dataset: Any, device: torch.device) -> None:
        """The conditions of a data set are the embeddings (n, E) of its captions."""
        dataset.conditions = self.embed(dataset.captions, device)
        dataset.class_names, dataset.labels = [], None

    def build(self, names: Sequence[str], device: torch.device) -> TextConditioning:
        """The conditioning; its prompts are embedded now."""
        return TextConditioning(self, lambda texts: self.embed(texts, device))


class TextConditioning:
    """Embeddings of captions; conditions (B, E) float32."""

    def __init__(self, config: TextConfig, embed: Callable[[Sequence[str]], Tensor]):
        self.config, self.embed = config, embed
        self._prompts = embed(config.prompts)

    @property
    def size(self) -> int:
        """Numbers E of an embedding."""
        return self._prompts.shape[1]

    def embedder(self, width: int, null: bool) -> nn.Module:
        """A small network on the embedding."""
        return VectorEmbedder(self.size, width)

    def drop(self, condition: Tensor, random: Random) -> Tensor:
        """Embeddings (B, E) of which a share is zero."""
        return drop_rows(condition, self.null(condition), self.config.drop, random)

    def null(self, condition: Tensor) -> Tensor:
        """No text, for each row."""
        return torch.zeros_like(condition)

    def requests(self, num: int, seed: int) -> Tensor:
        """Embeddings (num, E) of the config's prompts, in turn."""
        return self._prompts[torch.arange(num) % len(self._prompts)]

    def named(self, wanted: Sequence[str], num: int) -> Tensor:
        """Embeddings (num, E) of the texts `wanted`, in turn."""
        return self.embed(wanted)[torch.arange(num) % len(wanted)]


class VectorEmbedder(nn.Module):
    """Embeddings of texts (B, E) as vectors: Linear, SiLU, Linear; a row of zeros has a vector of its own."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.empty(width))

    def initialize(self) -> None:
        """Normal, 0.02, as for times and classes."""
        for weight in (self.mlp[0].weight, self.mlp[2].weight, self.null):
            nn.init.normal_(weight, std=0.02)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, E) -> (B, D)."""
        given = (embeddings != 0).any(1, keepdim=True)
        return torch.where(given, self.mlp(embeddings.to(self.mlp[0].weight.dtype)), self.null)

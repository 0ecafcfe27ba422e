"""What a domain hands to the core: a data set, a tokenizer, a backbone, conditioning, a preview and an evaluator.

Core never asks which domain it serves. Letters: B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from core.draws import Random


@dataclass(frozen=True)
class Batch:
    """What a data set gives for B positions.

    media      (B, ...) what `Tokenizer.encode` takes: pixels, samples, features, or cached moments
    condition  (B, ...) what `Conditioning` takes: class labels, tags, text embeddings
    index      (B,) int64 rows of the data set: they name a sample in an error
    mask       (B, N) bool, True where a token is real, or None when all are
    """

    media: Tensor
    condition: Tensor
    index: Tensor
    mask: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        mask = None if self.mask is None else self.mask.to(device, non_blocking=True)
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("media", "condition", "index")}
        return replace(self, mask=mask, **moved)

    def part(self, first: int, last: int) -> Batch:
        """Its samples first <= i < last."""
        mask = None if self.mask is None else self.mask[first:last]
        return Batch(self.media[first:last], self.condition[first:last], self.index[first:last], mask)


class Dataset(Protocol):
    """Map-style data whose augmentation comes from the generator that is handed in, never from global state.

    Two more members are used where a data set has them:

    labels                (n,) integers, the class of each row, known without reading any media
    items(indices, rngs)  what `item` gives for each index (B,) and its generator, stacked: (B, ...); for data that is
                          read faster a batch at a time
    """

    media_shape: tuple[int, ...]
    class_names: list[str]

    def __len__(self) -> int: ...

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """`media` (tensor), `condition` (tensor or int) and optionally `mask` of one sample, augmented with `rng`."""
        ...

    def name(self, index: int) -> str:
        """Where a person finds the sample: a file, a row of a shard, "digit 17 of train"."""
        ...


class Tokenizer(Protocol):
    """Raw media to and from the normalised latents that the backbone sees; the one owner of scale and shift."""

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one latent for one item of media, without the batch axis."""
        ...

    def encode(self, media: Tensor, random: Random) -> Tensor:
        """(B, *media) in [-1, 1] -> (B, *latent); a posterior is sampled with the stream "posterior" of `random`."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, *latent) -> (B, *media) in [-1, 1]."""
        ...

    def constants(self) -> dict[str, Any]:
        """What a checkpoint or a latent shard must record to be read again: name, scale, shift, hash of the weights."""
        ...

    def to(self, device: torch.device | str) -> Tokenizer:
        """The tokenizer on another device."""
        ...


class Backbone(Protocol):
    """A transformer whose blocks can be listened to; an `nn.Module`.

    `forward(x, t, condition, mask=None)`: x (B, *latent), t (B,) or (B, N), condition as made by `Conditioning`;
    returns a prediction of x's shape. A token has `width` features in the blocks and stands for `token_size` numbers of
    a latent.
    """

    blocks: nn.ModuleList
    num_tokens: int
    width: int
    token_size: int

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor: ...

    def expand(self, values: Tensor, x: Tensor) -> Tensor:
        """Times or a mask, (B,) or (B, N), laid out so that they broadcast over x (B, *latent)."""
        ...

    def patches(self, x: Tensor) -> Tensor:
        """The numbers of x (B, *latent) that each token stands for, (B, N, token_size)."""
        ...


class Conditioning(Protocol):
    """What a sample is asked to be: dropped in training, made up when sampling."""

    def drop(self, condition: Tensor, random: Random) -> Tensor:
        """Replace a share of the rows (B, ...) by the null condition, with the stream "condition drop" of `random`."""
        ...

    def null(self, condition: Tensor) -> Tensor:
        """The null condition for each row (B, ...), for guidance."""
        ...

    def requests(self, num: int, seed: int) -> Tensor:
        """Conditions (num, ...) of the samples 0..num-1: row i depends on (seed, i, num) only."""
        ...


class Preview(Protocol):
    """Writes what a person looks at."""

    def save(self, media: Tensor, condition: Tensor, path: Path) -> Path:
        """Media (B, *media) in [-1, 1] as one file at `path` (the suffix is the preview's choice); returns the file."""
        ...


class Evaluator(Protocol):
    """Measures samples of the default task at the end of a run."""

    num_samples: int

    def evaluate(self, media: Tensor, condition: Tensor) -> Mapping[str, float]:
        """Metrics by name for media (B, *media) in [-1, 1] made under `condition`."""
        ...


@dataclass(frozen=True)
class Domain:
    """All components of one run, built from its config; `unit` is what a sample is called in records."""

    name: str
    unit: str
    dataset: Dataset
    tokenizer: Tokenizer
    backbone: nn.Module
    conditioning: Conditioning
    preview: Preview
    evaluator: Evaluator | None = None

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent, without the batch axis."""
        return tuple(self.tokenizer.latent_shape(self.dataset.media_shape))

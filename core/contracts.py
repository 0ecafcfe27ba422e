"""What a domain hands to the core: a data set, a tokenizer, a backbone, conditioning, a preview and an evaluator.

Core never asks which domain it serves. Letters: B batch, N tokens, L tokens of a text, E features of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from core.draws import Random


class Rows:
    """A base of frozen dataclasses whose fields have the same B rows: tensors (B, ...), other `Rows`, or None.

    They are moved and cut as one tensor is: `rows.to(device)`, `rows[first:last]`, `len(rows)`.
    """

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, rows: slice | Tensor) -> Self:
        return map_rows(lambda values: values[rows], self)

    def to(self, device: torch.device | str) -> Self:
        """The same rows on another device."""
        return map_rows(lambda values: values.to(device, non_blocking=True), self)


@dataclass(frozen=True)
class TokenSequence(Rows):
    """Conditions that are sequences, such as the tokens of texts.

    tokens  (B, L, E)
    mask    (B, L) bool, True where a token is real
    """

    tokens: Tensor
    mask: Tensor


Condition = Tensor | TokenSequence
AnyRows = TypeVar("AnyRows", bound=Tensor | Rows | None)


def map_rows(function: Callable[..., Tensor], *values: AnyRows) -> AnyRows:
    """`function` of tensors or, field by field, of `Rows` of one kind; None stays None.

    Raises ValueError where some have a field, such as a mask, and others None.
    """
    first, missing = values[0], [value is None for value in values]
    if any(missing):
        if not all(missing):
            raise ValueError(f"{sum(missing)} of {len(values)} have no value, such as a mask; needed: all or none")
        return None
    if not isinstance(first, Rows):
        return function(*values)
    names = [field.name for field in fields(first)]
    return type(first)(*(map_rows(function, *(getattr(value, name) for value in values)) for name in names))


def concatenate(*parts: AnyRows) -> AnyRows:
    """The rows of all parts, one after the other."""
    return map_rows(lambda *tensors: torch.cat(tensors), *parts)


def stack(items: Sequence[AnyRows]) -> AnyRows:
    """Single rows, or numbers, as a batch."""
    return map_rows(lambda *rows: torch.stack([torch.as_tensor(row) for row in rows]), *items)


def where_rows(chosen: Tensor, one: AnyRows, other: AnyRows) -> AnyRows:
    """Rows of `one` where `chosen` (B,) is true, of `other` elsewhere."""
    return map_rows(lambda a, b: torch.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b), one, other)


@dataclass(frozen=True)
class Batch(Rows):
    """What a data set gives for B positions.

    media      (B, ...) what `Tokenizer.encode` takes: pixels, samples, features, or cached moments
    condition  (B, ...) what `Conditioning` takes: class labels, tags, embeddings or token sequences of texts
    index      (B,) int64 rows of the data set: they name a sample in an error
    mask       (B, N) bool, True where a token is real, or None when all are
    features   (B, E, *grid) what a frozen encoder made of the media, where a cache has them and they are asked for
    """

    media: Tensor
    condition: Condition
    index: Tensor
    mask: Tensor | None = None
    features: Tensor | None = None


@dataclass(frozen=True)
class Requests(Rows):
    """What samples are asked to be.

    condition  (B, ...) what `Conditioning` takes
    mask       (B, N) bool, True for the tokens that a sample is to have, or None for all: samples of a given length
    """

    condition: Condition
    mask: Tensor | None = None

    @classmethod
    def of(cls, requests: Condition | Requests) -> Requests:
        """Conditions alone ask for samples that have all tokens."""
        return requests if isinstance(requests, Requests) else cls(requests)

    @property
    def labels(self) -> Tensor | None:
        """Classes (B,), where the conditions are that."""
        return self.condition if isinstance(self.condition, Tensor) and self.condition.ndim == 1 else None


class Dataset(Protocol):
    """Map-style data whose augmentation comes from the generator that is handed in, never from global state.

    More members are used where a data set has them:

    labels                (n,) integers, the class of each row, known without reading any media
    heldout()             the rows that are kept out of training, as a data set, or None; for measurements
    stored(index, rng)    what `item` gives, with media as they are stored: bytes x (uint8) that stand for x / 127.5 - 1
    items(indices, rngs)  what `item` gives for each index (B,) and its generator, stacked: (B, ...); for data that is
                          read faster a batch at a time
    """

    media_shape: tuple[int, ...]
    class_names: list[str]

    def __len__(self) -> int: ...

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """`media` (tensor), `condition` (tensor, int or a row of `TokenSequence`) and optionally `mask` of one sample.

        They are augmented with `rng`.
        """
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

    `forward(x, t, condition, mask=None)`: x (B, *latent), t (B,) or (B, N), condition as made by `Conditioning`, mask
    (B, N) true where a token is real, or integers: the group inside which each attends, 0 for padding;
    returns a prediction of x's shape. A token has `width` features in the blocks and stands for `token_size` numbers of
    a latent.

    More members are used where a backbone has them:

    token_dim           the axes of a block's output that count tokens, where they are not (B, N, D): (1, 2) for
                        (B, F, N, D)
    prefix_tokens       how many tokens stand in a block's output before the N of the latents; nobody else sees them
    frame_tokens        the number of tokens of a frame, frames being the slowest axis of N
    output_layer        what makes the numbers of their patches of the tokens that stand for latents, called last with
                        (tokens, *what conditions them); `as_latents(numbers, x)` is then the prediction, as x
    routed              set to the first and last block, from 1, that see some tokens alone, those of a fifth argument
                        of `forward`, kept (B, K); a config says by `token_routing` that its backbone can
    two_times           set where a t (B, N) has at most two values in a row, of which a backbone may make use
    draw(random, rows)  takes what the next forward pass in training drops, for a batch of so many rows, from the step's
                        streams; see `core.nets.dropout`
    """

    blocks: nn.ModuleList
    num_tokens: int
    width: int
    token_size: int

    def __call__(self, x: Tensor, t: Tensor, condition: Condition, mask: Tensor | None = None) -> Tensor: ...

    def expand(self, values: Tensor, x: Tensor) -> Tensor:
        """Times or a mask, (B,) or (B, N), laid out so that they broadcast over x (B, *latent)."""
        ...

    def parts(self) -> list[nn.Module]:
        """The modules that are worth compiling each by itself: the blocks, and what follows them."""
        ...

    def patches(self, x: Tensor) -> Tensor:
        """The numbers of x (B, *latent) that each token stands for, (B, N, token_size)."""
        ...


class FeatureEncoder(Protocol):
    """A frozen network that makes features of clean media, a target of an alignment.

    width: features E of a place; flops: of one sample's pass.
    """

    width: int
    flops: int

    def __call__(self, batch: Batch) -> Tensor:
        """Its media, in [-1, 1] -> (B, E, *grid) without gradient, on as many axes as the backbone's tokens have."""
        ...


class Conditioning(Protocol):
    """What a sample is asked to be: dropped in training, made up when sampling."""

    def drop(self, condition: Condition, random: Random) -> Condition:
        """Replace a share of the rows (B, ...) by the null condition, with the stream "condition drop" of `random`."""
        ...

    def null(self, condition: Condition) -> Condition:
        """The null condition for each row (B, ...), for guidance."""
        ...

    def requests(self, num: int, seed: int) -> Condition | Requests:
        """Conditions (num, ...) of the samples 0..num-1, with masks where they are of a given length.

        Row i depends on (seed, i, num) only. Preview and evaluator get them as they are.
        """
        ...


class Preview(Protocol):
    """Writes what a person looks at."""

    def save(self, media: Tensor, condition: Condition | Requests, path: Path) -> Path:
        """Media (B, *media) in [-1, 1] as one file at `path` (the suffix is the preview's choice); returns the file."""
        ...


class Evaluator(Protocol):
    """Measures samples of the default task at the end of a run.

    More members are used where an evaluator has them:

    measure_heldout(num, change)  the metrics of `num` real pieces of media that nothing was trained on, or of all
                                  where there are fewer, with `num_samples`; `change` gets them, (n, *media) in [-1, 1],
                                  and gives what is measured in their place
    """

    num_samples: int

    def evaluate(self, media: Tensor, condition: Condition | Requests) -> Mapping[str, float]:
        """Metrics by name for media (B, *media) in [-1, 1] made under `condition`."""
        ...


@dataclass(frozen=True)
class Domain:
    """All components of one run, built from its config; `unit` is what a sample is called in records.

    encoders  makes an encoder of its name, kind:folder or kind; None: the domain has none
    """

    name: str
    unit: str
    dataset: Dataset
    tokenizer: Tokenizer
    backbone: nn.Module
    conditioning: Conditioning
    preview: Preview
    evaluator: Evaluator | None = None
    encoders: Callable[[str], FeatureEncoder] | None = None

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent, without the batch axis."""
        return tuple(self.tokenizer.latent_shape(self.dataset.media_shape))

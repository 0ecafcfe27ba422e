"""Media to be measured: n pieces in a fixed order, read a batch at a time, whatever they are.

Letters: n pieces of media, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from core.storage.provenance import json_sha256


class Piece(Protocol):
    """A piece of media that is more than a tensor: samples with their rate, say."""

    def same(self, other: Any) -> bool:
        """Say whether it is equal to another piece in all that it holds."""
        ...


# (B, *media), or B pieces where they are not of one shape
MediaRows = Tensor | list[Tensor] | list[Piece]


class Media:
    """n pieces of media in a fixed order.

    name    what to call them in an error and in a record
    kind    "folder", "npz", ...
    unit    what a piece is called: "image"
    labels  (n,) int64, the class of each piece, or None where they are not known
    texts   n, the text that each piece was made of, or None
    names   n, by which pieces of two sets are paired, or None: by their place
    repeats other media, several of each of some conditions, for multimodality; None: there are none
    """

    name: str
    kind: str
    unit: str
    labels: Tensor | None = None
    texts: list[str] | None = None
    names: list[str] | None = None
    repeats: Repeats | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def rows(self, first: int, last: int) -> MediaRows:
        """The pieces first <= i < last; ValueError for a broken one, or one that does not fit the others."""
        raise NotImplementedError

    @cached_property
    def sha256(self) -> str:
        """The SHA-256, hex, over all that is read."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """A record's entries for a reference."""
        return {"name": self.name, "kind": self.kind, "sha256": self.sha256, "num_samples": len(self)}


@dataclass(frozen=True)
class Repeats:
    """Media that were made several times for the same condition: `count` of the first, as many of the second, ..."""

    media: Media
    count: int


class FirstMedia(Media):
    """The first `count` of other media; ValueError, naming the config key `num`, where there are fewer."""

    def __init__(self, media: Media, count: int):
        if count > len(media):
            raise ValueError(f"num is {count}, but {media.name} holds {len(media)} {media.unit}s")
        self.media, self.count, self.name, self.kind, self.unit = media, count, media.name, media.kind, media.unit
        for each in ("labels", "texts", "names"):
            values = getattr(media, each)
            setattr(self, each, None if values is None else values[:count])

    def __len__(self) -> int:
        return self.count

    def rows(self, first: int, last: int) -> MediaRows:
        """The pieces of the other media."""
        return self.media.rows(first, min(last, self.count))

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the other media's, and how many of them."""
        return json_sha256([self.media.sha256, self.count])


class PlannedSamples(Media):
    """Samples that are to be made, and what is known of them before.

    size      as in `eval.measure.reference.Reference`
    labelled  whether their classes will be known
    """

    name, kind = "samples", "samples"

    def __init__(self, count: int, unit: str, size: Any, labelled: bool = True, texts: list[str] | None = None):
        self.count, self.unit, self.size, self.texts = count, unit, size, texts
        self.labels = torch.zeros(count, dtype=torch.int64) if labelled else None

    def __len__(self) -> int:
        return self.count


class ArrayMedia(Media):
    """Media in memory: (n, *media), or a list of n tensors, as a data set of ours has them."""

    kind = "data set"

    def __init__(self, name: str, unit: str, media: Tensor | list[Tensor], labels: Tensor | None = None):
        self.name, self.unit, self.media, self.labels = name, unit, media, labels

    def __len__(self) -> int:
        return len(self.media)

    def rows(self, first: int, last: int) -> MediaRows:
        """(B, *media), or a list of B."""
        return self.media[first:last]

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 over their values."""
        return json_sha256(_values(self.media) if isinstance(self.media, Tensor) else list(map(_values, self.media)))


def _values(array: Tensor) -> list[Any]:
    return [list(array.shape), array.numpy().tobytes().hex()]

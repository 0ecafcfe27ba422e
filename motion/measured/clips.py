"""Clips to be measured: real frames of one representation of one skeleton, and sets of them in a fixed order.

Letters: n clips, F frames, C numbers of a frame, J joints, T texts, R repeats of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.draws import numpy_rng
from core.storage.provenance import json_sha256
from eval.measure.generated import ChunkMedia, Chunks
from eval.measure.media import Media
from motion.body.features import to_features
from motion.body.placing import centred, facing_forward
from motion.body.representations import REPRESENTATIONS, Representation, conversion
from motion.body.skeleton import Skeleton

UNIT = "clip"


@dataclass(frozen=True)
class Clip:
    """One clip: rows (F, C) of its real frames, in the representation's own units."""

    rows: Tensor
    representation: str
    skeleton: Skeleton

    def same(self, other: Any) -> bool:
        """Say whether it is equal to another clip."""
        return self.representation == other.representation and torch.equal(self.rows, other.rows)

    def joints(self) -> Tensor:
        """(F, J, 3) in metres."""
        return self.kind.to_joints(self.rows, self.skeleton)

    def as_rows(self, representation: str) -> Tensor:
        """The rows of another representation; of one that holds less a frame is lost, see `conversion`.

        Rows that are found from joints are the published ones, headings with their turns as they are published.
        """
        if self.representation == representation or conversion(self.representation, representation).frames_lost == 0:
            return self.kind.convert(self.rows, REPRESENTATIONS[representation], self.skeleton)
        rows = to_features(facing_forward(centred(self.joints()), self.skeleton), self.skeleton, "a clip")
        return rows[:, : REPRESENTATIONS[representation].size(self.skeleton)]

    @property
    def kind(self) -> Representation:
        """The representation."""
        return REPRESENTATIONS[self.representation]

    def check_skeleton(self, needed: Skeleton, what: str) -> None:
        """Raises ValueError for a clip of another skeleton than `what` takes."""
        if self.skeleton.name != needed.name:
            raise ValueError(
                f"{what} takes motion of {needed.joints} joints ({needed.name}); this is of {self.skeleton.joints} "
                f"({self.skeleton.name})"
            )


class Clips(Media):
    """Clips in a fixed order.

    skeleton        of all
    representation  of all
    main            how many of them, the first, are what is measured; those behind are for multimodality only
    groups          (T, R) numbers of clips that were made for the same text, or None
    """

    unit = UNIT
    skeleton: Skeleton
    representation: str
    groups: np.ndarray | None = None

    @property
    def main(self) -> int:
        """The clips that are measured."""
        return len(self)

    def rows(self, first: int, last: int) -> list[Clip]:
        """The clips first <= i < last."""
        raise NotImplementedError


class ListedClips(Clips):
    """Clips in memory: rows (F, C) each, of one representation."""

    def __init__(self, name: str, kind: str, rows: Sequence[Tensor], representation: str, skeleton: Skeleton):
        self.name, self.kind, self.clips = name, kind, list(rows)
        self.representation, self.skeleton = representation, skeleton

    def __len__(self) -> int:
        return len(self.clips)

    def rows(self, first: int, last: int) -> list[Clip]:
        """The clips first <= i < last."""
        return [Clip(rows, self.representation, self.skeleton) for rows in self.clips[first:last]]

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 over the numbers."""
        return json_sha256([[list(rows.shape), rows.numpy().tobytes().hex()] for rows in self.clips])


class ShuffledClips(Clips):
    """Other clips in an order that a seed draws, so that pools of neighbours and the first `num` are drawn by it."""

    def __init__(self, clips: Clips, seed: int):
        self.clips, self.name, self.kind = clips, clips.name, clips.kind
        self.skeleton, self.representation = clips.skeleton, clips.representation
        self.order = numpy_rng("order of samples", seed).permutation(len(clips))
        for each in ("texts", "names"):
            values = getattr(clips, each)
            setattr(self, each, None if values is None else [values[place] for place in self.order])
        if clips.groups is not None:
            self.groups = np.argsort(self.order)[clips.groups]

    def __len__(self) -> int:
        return len(self.clips)

    def rows(self, first: int, last: int) -> list[Clip]:
        """The clips at these places of the order."""
        return [self.clips.rows(int(place), int(place) + 1)[0] for place in self.order[first:last]]

    @cached_property
    def sha256(self) -> str:
        """That of the clips."""
        return self.clips.sha256


class ChunkClips(ChunkMedia, Clips):
    """Samples of a run in chunks that are all there, cut to the frames that each was asked to have.

    lengths  n
    texts    n, or None
    repeats  (T, R) of the last T * R samples; None: all are measured
    """

    def __init__(self, chunks: Chunks, name: str, lengths: Sequence[int], texts: list[str] | None):
        super().__init__(chunks, name, UNIT)
        self.lengths, self.texts = list(lengths), texts

    def of_kind(self, representation: str, skeleton: Skeleton, repeats: tuple[int, int] | None) -> ChunkClips:
        """The same, of that representation; the last T * R are R repeats of T texts."""
        self.representation, self.skeleton = representation, skeleton
        if repeats is not None:
            count = repeats[0] * repeats[1]
            self.groups = np.arange(len(self) - count, len(self)).reshape(repeats)
        return self

    @property
    def main(self) -> int:
        """All but the repeats."""
        return len(self) if self.groups is None else int(self.groups[0, 0])

    def rows(self, first: int, last: int) -> list[Clip]:
        """Clips of their own lengths; ValueError, naming the first, for numbers that are not finite."""
        media = self.chunks.read(first, last)  # (B, C, F)
        found = []
        for place, (clip, length) in enumerate(zip(media, self.lengths[first:last], strict=True), start=first):
            if not clip[:, :length].isfinite().all():
                raise ValueError(f"sample {place} of {self.name} holds NaN or infinity")
            found.append(Clip(clip[:, :length].T.contiguous(), self.representation, self.skeleton))
        return found

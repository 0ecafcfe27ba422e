"""Clips to be measured: real frames of one representation of one skeleton, and sets of them in a fixed order.

Letters: n clips, B batch, F frames, C numbers of a frame, J joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from core.draws import numpy_rng
from core.storage.provenance import json_sha256
from eval.measure.generated import Chunks
from eval.measure.media import Media, Repeats
from motion.body.features import to_features
from motion.body.placing import centred, facing_forward
from motion.body.representations import REPRESENTATIONS, conversion
from motion.body.skeleton import Skeleton
from motion.data import UNIT, MotionFormat, lengths_of


@dataclass(frozen=True)
class Clip:
    """One clip: rows (F, C) of its real frames, in the representation's own units."""

    rows: Tensor
    representation: str
    skeleton: Skeleton

    def __post_init__(self) -> None:
        if not self.rows.isfinite().all():
            raise ValueError(f"a clip {tuple(self.rows.shape)} holds NaN or infinity")

    def same(self, other: Any) -> bool:
        """Say whether it is equal to another clip."""
        return self.representation == other.representation and torch.equal(self.rows, other.rows)

    def joints(self) -> Tensor:
        """(F, J, 3) in metres."""
        return REPRESENTATIONS[self.representation].to_joints(self.rows, self.skeleton)

    def as_rows(self, representation: str) -> Tensor:
        """The rows of another representation; where it holds more, a frame is lost, see `conversion`.

        Rows that are found from joints are the published ones, with headings as they are published.
        """
        if conversion(self.representation, representation).frames_lost == 0:
            kind = REPRESENTATIONS[self.representation]
            return kind.convert(self.rows, REPRESENTATIONS[representation], self.skeleton)
        rows = to_features(facing_forward(centred(self.joints()), self.skeleton), self.skeleton, "a clip")
        return rows[:, : REPRESENTATIONS[representation].size(self.skeleton)]

    def check_skeleton(self, needed: Skeleton, what: str) -> None:
        """Raises ValueError for a clip of another skeleton than `what` takes."""
        check_skeleton(self.skeleton, needed, what)


def check_skeleton(found: Skeleton, needed: Skeleton, what: str) -> None:
    """Raises ValueError where `what` takes motion of another skeleton than there is."""
    if found.name != needed.name:
        raise ValueError(
            f"{what} takes motion of skeleton {needed.name!r} ({needed.joints} joints, {needed.size} numbers a frame); "
            f"there is motion of {found.name!r} ({found.joints} joints, {found.size} numbers)"
        )


class Clips(Media):
    """Clips of one representation of one skeleton, in a fixed order."""

    unit = UNIT
    skeleton: Skeleton
    representation: str

    def rows(self, first: int, last: int) -> list[Clip]:
        """The clips first <= i < last."""
        raise NotImplementedError


class ListedClips(Clips):
    """Clips in memory: rows (F, C) each."""

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
        self.clips, self.name, self.kind, self.repeats = clips, clips.name, clips.kind, clips.repeats
        self.skeleton, self.representation = clips.skeleton, clips.representation
        self.order = numpy_rng("order of samples", seed).permutation(len(clips)).tolist()
        self.texts, self.names = (self._ordered(values) for values in (clips.texts, clips.names))

    def _ordered(self, values: list[str] | None) -> list[str] | None:
        return None if values is None else [values[place] for place in self.order]

    def __len__(self) -> int:
        return len(self.clips)

    def rows(self, first: int, last: int) -> list[Clip]:
        """The clips at these places of the order."""
        return [self.clips.rows(place, place + 1)[0] for place in self.order[first:last]]

    @property
    def sha256(self) -> str:
        """That of the clips."""
        return self.clips.sha256


class ChunkClips(Clips):
    """Samples first <= i < last of a run, in chunks that are all there, each cut to the frames it was asked to have."""

    kind = "samples"

    def __init__(self, chunks: Chunks, name: str, form: MotionFormat, bounds: tuple[int, int]):
        self.chunks, self.name, self.bounds = chunks, name, bounds
        self.representation, self.skeleton = form.representation, form.skeleton

    def __len__(self) -> int:
        return self.bounds[1] - self.bounds[0]

    def rows(self, first: int, last: int) -> list[Clip]:
        """Clips of their own lengths; ValueError, naming the sample, for numbers that are not finite."""
        first, last = (min(self.bounds[0] + place, self.bounds[1]) for place in (first, last))
        media = self.chunks.read(first, last)
        lengths = lengths_of(media, self.chunks.conditions[first:last])
        found = []
        for place, (clip, length) in enumerate(zip(media, lengths, strict=True), start=first):
            if not clip[:, :length].isfinite().all():
                raise ValueError(f"sample {place} of {self.name} holds NaN or infinity")
            found.append(Clip(clip[:, :length].T.contiguous(), self.representation, self.skeleton))
        return found

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the protocol that made them, and which of them."""
        return json_sha256([self.chunks.identity, list(self.bounds)])


def samples_of(chunks: Chunks, name: str, form: MotionFormat, main: int, repeats: int) -> ChunkClips:
    """The first `main` samples, with those behind them as `repeats` of each of some texts."""
    clips = ChunkClips(chunks, name, form, (0, main))
    if len(chunks) > main:
        clips.repeats = Repeats(ChunkClips(chunks, f"{name}, repeats", form, (main, len(chunks))), repeats)
    return clips

"""Clips to be measured: samples of a run, and clips of a data set, each cut to its length.

Letters: n clips, C numbers of a frame, F frames.
"""

from __future__ import annotations

from torch import Tensor

from eval.measure.generated import ChunkMedia, Chunks
from motion.data import UNIT, lengths_of

KEY = "real"
__all__ = ["KEY", "UNIT", "ChunkClips"]


class ChunkClips(ChunkMedia):
    """The clips in chunks that are all there, and what each was asked to be."""

    def __init__(self, chunks: Chunks, name: str, texts: list[str] | None):
        super().__init__(chunks, name, UNIT)
        self.texts = texts

    def rows(self, first: int, last: int) -> list[Tensor]:
        """Clips (C, F), as long as they were asked to be."""
        last = min(last, len(self))
        media = super().rows(first, last)
        lengths = lengths_of(media, self.chunks.conditions[first:last])
        return [clip[:, :length] for clip, length in zip(media, lengths, strict=True)]

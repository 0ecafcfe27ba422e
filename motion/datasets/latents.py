"""Cached latents of clips, each with all of its captions.

conditions.npy of such a cache is (n, M, E): the embeddings of a clip's captions, and rows of zeros where it has fewer
than M, the most of any clip.

Letters: n clips, B batch, M captions, E numbers of a caption's embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.latents.cache import CONDITIONS, LatentShards


class CaptionedLatents(LatentShards):
    """A cache of which an item has one of its clip's captions, drawn as the data set that was encoded draws it.

    caption_rows  (n + 1,) where in `conditions` those of each clip begin, or None where conditions are no captions

    ValueError, naming the file, for a clip without a caption.
    """

    caption_rows: Tensor | None = None

    def __init__(self, *args: Any, **keys: Any):
        super().__init__(*args, **keys)
        if self.conditions.dim() == 3:
            given = (self.conditions != 0).any(-1)
            counts = given.sum(1)
            if not torch.equal(given, torch.arange(given.shape[1]) < counts[:, None]) or not counts.all():
                raise ValueError(f"{self.root / CONDITIONS} is damaged: needed are captions of every clip, one first")
            self.caption_rows = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            self.conditions = self.conditions[given]

    def items(self, indices: np.ndarray, rngs: Iterable[np.random.Generator]) -> dict[str, Tensor]:
        """As of every cache, with the `condition` of a caption that a row's generator draws."""
        rngs = list(rngs)
        found = super().items(indices, rngs)
        if self.caption_rows is None or len(self.conditions) != int(self.caption_rows[-1]):  # or replaced by none
            return found
        spans = [self.caption_rows[index : index + 2].tolist() for index in indices.tolist()]
        chosen = [int(rng.integers(*span)) for rng, span in zip(rngs, spans, strict=True)]
        return found | {"condition": self.conditions[chosen]}


def by_clip(conditions: Tensor, caption_rows: Tensor) -> Tensor:
    """Embeddings (captions, E) of all captions as (n, M, E), with rows of zeros where a clip has fewer than M."""
    counts = caption_rows.diff()
    padded = conditions.new_zeros(len(counts), int(counts.max()), conditions.shape[1])
    padded[torch.arange(padded.shape[1]) < counts[:, None]] = conditions
    return padded

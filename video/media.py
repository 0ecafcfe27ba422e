"""Clips that are there already, to be measured, read a batch at a time.

Letters: n clips, B batch, F frames, H height, W width in pixels, C channels.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.storage.arrays import npz_array, npz_keys
from core.storage.atomic import sha256_file
from eval.measure.media import ArrayMedia, Media
from eval.measure.reference import MediaReference, Reference, Size
from video.datasets.digits import DigitsDataset

DIGITS = {"digits": "train", "digits_heldout": "heldout"}  # reference=NAME -> the split
UNIT = "clip"


class NpzClips(Media):
    """`arr_0` uint8 (n, F, H, W, C) of an .npz, and classes in `arr_1` where it has them."""

    kind, unit = "npz", UNIT

    def __init__(self, path: Path):
        self.path, self.name = path, path.name
        self.array = npz_array(path, "arr_0")
        if self.array.dtype != np.uint8 or self.array.ndim != 5 or self.array.shape[-1] not in (1, 3):
            found = f"{self.array.dtype} {self.array.shape}"
            raise ValueError(f"arr_0 of {path} is {found}; needed: uint8 (n, frames, height, width, 1 or 3)")
        if not self.array.size:
            raise ValueError(f"arr_0 of {path} holds no clip")
        if "arr_1" in npz_keys(path):
            labels = npz_array(path, "arr_1")
            if labels.shape != (len(self.array),) or labels.dtype.kind not in "iu":
                found = f"{labels.dtype} {labels.shape}"
                raise ValueError(f"arr_1 of {path} is {found}; needed: classes from 0, one for each clip")
            self.labels = torch.from_numpy(labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, first: int, last: int) -> Tensor:
        """Clips first <= i < last: (B, F, H, W, C) uint8."""
        return torch.from_numpy(np.array(self.array[first:last]))

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file."""
        return sha256_file(self.path)


def of_digits(split: str, dataset: DigitsDataset) -> Reference:
    """Moving digits in [-1, 1] to compare with."""
    media = ArrayMedia(f"moving digits, {split}", UNIT, dataset.all(), dataset.labels)
    return MediaReference(media, size_of(media))


def size_of(clips: Media) -> Size:
    """(F, H, W) of the first clip."""
    row = clips.rows(0, 1)[0]
    return tuple(row.shape[1:]) if row.is_floating_point() else tuple(row.shape[:3])

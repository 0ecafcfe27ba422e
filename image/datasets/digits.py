"""scikit-learn's handwritten digits: real images that need no download.

Letters: n images of a data set, C channels, H height, W width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.draws import fold_seed
from image.datasets.images import ImageDataset

SPLITS = ("train", "heldout", "all")


HELDOUT_SHARE = 0.2


@dataclass(frozen=True)
class DigitsConfig:
    """scikit-learn's handwritten digits: 1797 real grey images of 8x8 pixels, a small stand-in that needs no download.

    split  "train" (80 %), "heldout" (20 % of each digit) or "all"
    """

    split: Literal["train", "heldout", "all"] = "train"

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"data.split is {self.split!r}; allowed: {list(SPLITS)}")

    def build(self) -> DigitsDataset:
        """The digits of the split."""
        return DigitsDataset(self)

    @property
    def media_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image, known without the data."""
        return 1, 8, 8

    @property
    def transform(self) -> dict[str, Any]:
        """What decides the pixels of a given image."""
        return {"crop": "none", "channels": 1, "size": 8, "flip": False}


class DigitsDataset(ImageDataset):
    """Digits of 8x8 pixels, all of a split in memory: `images` (n, 1, 8, 8) in [-1, 1] and `labels` (n,).

    No flip: a mirrored digit is no digit. The same people wrote both splits, so `heldout` measures new images, not new
    hands.
    """

    def __init__(self, config: DigitsConfig):
        from sklearn.datasets import load_digits  # a second to import, and of no use to the other data sets

        digits = load_digits()
        rows = _digit_rows(digits.target, config.split)
        self._split = config.split
        self.images = torch.from_numpy(digits.images[rows]).float()[:, None] / 8 - 1  # 0..16 -> [-1, 1]
        labels = torch.from_numpy(digits.target[rows]).long()
        super().__init__(config.media_shape, [str(name) for name in digits.target_names], labels, flip=False)

    def pixels(self, index: int, mirror: bool = False) -> Tensor:
        """Image `index`, a (1, 8, 8) copy."""
        return self.images[index].flip(-1) if mirror else self.images[index].clone()

    def heldout(self) -> DigitsDataset | None:
        """The digits that the split "train" leaves out."""
        return DigitsConfig("heldout").build() if self._split == "train" else None

    def name(self, index: int) -> str:
        """The row of the split."""
        return f"digit {index} of {self._split}"


def _digit_rows(labels: np.ndarray, split: str) -> np.ndarray:
    """Rows of a split in ascending order; which rows are held out depends on hashes, not on a library's generator."""
    heldout = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label).tolist(), key=lambda row: fold_seed("digits heldout", row))
        heldout[rows[: round(HELDOUT_SHARE * len(rows))]] = True
    return np.flatnonzero({"train": ~heldout, "heldout": heldout, "all": np.full_like(heldout, True)}[split])

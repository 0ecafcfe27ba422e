"""scikit-learn's handwritten digits and their split: 1797 real grey images of 8x8 pixels that need no download.

Letters: n digits of a split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.data.collection import SPLITS
from core.draws import fold_seed

HELDOUT_SHARE = 0.2
SIDE = 8  # pixels


@dataclass(frozen=True)
class HandwrittenDigits:
    """Digits of a split.

    images  (n, 8, 8) float32 in [-1, 1], the strokes bright
    labels  (n,) int64, 0 to 9
    names   of the ten classes
    """

    images: Tensor
    labels: Tensor
    names: list[str]


def check_split(split: str) -> None:
    """Raises ValueError, naming the config key data.split, for another than train, heldout and all."""
    if split not in SPLITS:
        raise ValueError(f"data.split is {split!r}; allowed: {list(SPLITS)}")


def read_digits(split: str) -> HandwrittenDigits:
    """The digits of the split "train" (80 %), "heldout" (20 % of each digit) or "all".

    The same people wrote both splits, so `heldout` measures new drawings, not new hands.
    """
    from sklearn.datasets import load_digits  # a second to import, and of no use to other data sets

    digits = load_digits()
    rows = _rows(digits.target, split)
    images = torch.from_numpy(digits.images[rows]).float() / 8 - 1  # 0..16 -> [-1, 1]
    labels = torch.from_numpy(digits.target[rows]).long()
    return HandwrittenDigits(images, labels, [str(name) for name in digits.target_names])


def _rows(labels: np.ndarray, split: str) -> np.ndarray:
    """Rows of a split in ascending order; which rows are held out depends on hashes, not on a library's generator."""
    heldout = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label).tolist(), key=lambda row: fold_seed("digits heldout", row))
        heldout[rows[: round(HELDOUT_SHARE * len(rows))]] = True
    return np.flatnonzero({"train": ~heldout, "heldout": heldout, "all": np.full_like(heldout, True)}[split])

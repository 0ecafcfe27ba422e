"""scikit-learn's handwritten digits: real images that need no download.

Letters: n images of a data set, C channels, H height, W width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from core.data.digits import SIDE, check_split, read_digits
from image.datasets.images import ImageDataset


@dataclass(frozen=True)
class DigitsConfig:
    """scikit-learn's handwritten digits: 1797 real grey images of 8x8 pixels, a small stand-in that needs no download.

    split  "train" (80 %), "heldout" (20 % of each digit) or "all"
    """

    split: Literal["train", "heldout", "all"] = "train"

    def __post_init__(self):
        check_split(self.split)

    def build(self) -> DigitsDataset:
        """The digits of the split."""
        return DigitsDataset(self)

    @property
    def media_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image, known without the data."""
        return 1, SIDE, SIDE

    @property
    def transform(self) -> dict[str, Any]:
        """What decides the pixels of a given image."""
        return {"crop": "none", "channels": 1, "size": SIDE, "flip": False}


class DigitsDataset(ImageDataset):
    """Digits of 8x8 pixels, all of a split in memory: `images` (n, 1, 8, 8) in [-1, 1] and `labels` (n,).

    No flip: a mirrored digit is no digit.
    """

    def __init__(self, config: DigitsConfig):
        digits = read_digits(config.split)
        self._split, self.images = config.split, digits.images[:, None]
        super().__init__(config.media_shape, digits.names, digits.labels, flip=False)

    def pixels(self, index: int, mirror: bool = False) -> Tensor:
        """Image `index`, a (1, 8, 8) copy."""
        return self.images[index].flip(-1) if mirror else self.images[index].clone()

    def heldout(self) -> DigitsDataset | None:
        """The digits that the split "train" leaves out."""
        return DigitsConfig("heldout").build() if self._split == "train" else None

    def name(self, index: int) -> str:
        """The row of the split."""
        return f"digit {index} of {self._split}"

"""What all data sets of pixels share.

Letters: n images of a data set, C channels, H height, W width in pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


class ImageDataset:
    """What all data sets of pixels share; fulfils `core.contracts.Dataset`.

    media_shape  (C, H, W)
    class_names  one name per label
    labels       (n,) int64
    flip         True when `item` mirrors at random, so that a cache needs both `pixels(i, False)` and `pixels(i, True)`
    num_broken   images that were left out because they could not be decoded
    """

    num_broken = 0

    def __init__(self, media_shape: tuple[int, int, int], class_names: list[str], labels: Tensor, flip: bool):
        self.media_shape, self.class_names = media_shape, class_names
        self.labels, self.flip = labels, flip

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int, mirror: bool = False) -> Tensor:
        """Image `index` (C, H, W) float32 in [-1, 1]; ValueError, naming the file, when it cannot be decoded."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Where a person finds image `index`."""
        raise NotImplementedError

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """`media` (C, H, W) float32 in [-1, 1] and `condition`, the int label; `rng` decides the flip."""
        return {"media": self.pixels(index, self.draw(rng)), "condition": int(self.labels[index])}

    def draw(self, rng: np.random.Generator) -> bool:
        """Whether an item is mirrored, as its generator decides."""
        return self.flip and bool(rng.random() < 0.5)

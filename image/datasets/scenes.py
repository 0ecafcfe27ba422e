"""Rendered scenes: pictures of 120 classes that need no download, each a function of (seed, split, row).

Letters: n pictures of a split, B of them, C = 3 channels, H = W pixels of a side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.digits import check_split
from core.data.pixels import from_uint8
from image.datasets.images import ImageDataset
from image.scenes.classes import CLASS_NAMES
from image.scenes.layout import draw_scenes
from image.scenes.picture import render

HELDOUT_PART = 25  # the held-out split has so many times fewer pictures than the train split
SMALLEST, LARGEST = 16, 512  # pixels of a side
AT_ONCE = 2**17  # pixels that are rendered together


@dataclass(frozen=True)
class ScenesConfig:
    """Rendered scenes of 120 classes: solids by shape, texture, material, count and relation, and lighting.

    split       train, heldout (others, a twenty-fifth as many), or all
    num_images  of the train split
    size        side of a picture, pixels
    seed        of the scenes: another one gives other pictures of the same classes
    """

    split: Literal["train", "heldout", "all"] = "train"
    num_images: int = 60_000
    size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_split(self.split)
        if self.num_images < HELDOUT_PART:
            raise ValueError(f"data.num_images is {self.num_images}; it must be at least {HELDOUT_PART}")
        if not SMALLEST <= self.size <= LARGEST:
            raise ValueError(f"data.size is {self.size}; allowed: {SMALLEST} to {LARGEST} pixels")

    @property
    def media_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a picture, known without the data."""
        return 3, self.size, self.size

    @property
    def transform(self) -> dict[str, Any]:
        """What decides the pixels of a given row."""
        return {"crop": "none", "channels": 3, "size": self.size, "flip": False, "seed": self.seed}

    def build(self) -> ScenesDataset:
        """The pictures of the split."""
        return ScenesDataset(self)


class ScenesDataset(ImageDataset):
    """Scenes of a split, rendered when they are asked for; no flip: it would exchange the light's left and right."""

    def __init__(self, config: ScenesConfig):
        self.config, self._rows = config, list(_rows(config))
        labels = torch.tensor([row % len(CLASS_NAMES) for _, row in self._rows])
        super().__init__(config.media_shape, list(CLASS_NAMES), labels, flip=False)

    def bytes_at(self, indices: Sequence[int]) -> Tensor:
        """Pictures (B, C, H, W) uint8."""
        step = max(1, AT_ONCE // self.config.size**2)
        parts = [self._render(indices[first : first + step]) for first in range(0, len(indices), step)]
        return torch.from_numpy(np.concatenate(parts))

    def _render(self, indices: Sequence[int]) -> np.ndarray:
        pictures = np.empty((len(indices), *self.media_shape), np.uint8)
        for split in ("train", "heldout"):
            own = [place for place, index in enumerate(indices) if self._rows[index][0] == split]
            if own:
                rows = [self._rows[indices[place]][1] for place in own]
                labels = np.array(rows) % len(CLASS_NAMES)
                pictures[own] = render(draw_scenes(self.config.seed, split, rows, labels), self.config.size)
        return pictures

    def pixels(self, index: int, mirror: bool = False) -> Tensor:
        """Picture `index`, (C, H, W) float32 in [-1, 1]."""
        picture = from_uint8(self.bytes_at([index])[0])
        return picture.flip(-1) if mirror else picture

    def items(self, indices: np.ndarray, rngs: Iterable[np.random.Generator]) -> dict[str, Tensor]:
        """`media` (B, C, H, W) float32 in [-1, 1] and `condition` (B,); nothing is drawn."""
        return {"media": from_uint8(self.bytes_at(indices.tolist())), "condition": self.labels[indices]}

    def heldout(self) -> ScenesDataset | None:
        """The scenes that the split "train" leaves out."""
        return replace(self.config, split="heldout").build() if self.config.split == "train" else None

    def name(self, index: int) -> str:
        """The row of its split and its class: "scene 17 of train: one plain metal cube alone at sunset"."""
        split, row = self._rows[index]
        return f"scene {row} of {split}: {CLASS_NAMES[row % len(CLASS_NAMES)]}"


def _rows(config: ScenesConfig) -> Iterator[tuple[str, int]]:
    counts = {"train": config.num_images, "heldout": config.num_images // HELDOUT_PART}
    for split, count in counts.items():
        if config.split in (split, "all"):
            yield from ((split, row) for row in range(count))

"""Labelled images: digits and rendered scenes that need no download, class folders, parquet shards, cached latents.

Every data set gives square images in [-1, 1] and takes its one augmentation, the horizontal flip, from the generator
that is handed in. A file that cannot be decoded is an error, or is counted and left out if `data.max_broken` allows it;
no image ever stands in for another.

Letters: n images of a data set, C channels, H height, W width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.latents.cache import LatentShards
from core.schema import FREE
from image.datasets.digits import DigitsConfig
from image.datasets.files import FolderConfig, ParquetConfig
from image.datasets.scenes import ScenesConfig

CACHE_KIND = "image"
CACHE_COMMAND = "python -m image.cache"


@dataclass(frozen=True)
class LatentsConfig:
    """A latent cache, written by `python -m image.cache`.

    root      the folder of the cache
    size      side of the images that were encoded, pixels
    channels  of those images
    flip      take a mirrored image's latent with probability 1/2; needs a cache of both mirrors
    """

    root: str = field(metadata=FREE)
    size: int = 256
    channels: Literal[1, 3] = 3
    flip: bool = True

    def __post_init__(self):
        if not self.root:
            raise ValueError(f"data.root is {self.root!r}; needed: the folder of a latent cache")
        if self.size < 1:
            raise ValueError(f"data.size is {self.size!r}; allowed: 1 pixel or more")
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels is {self.channels!r}; allowed: 1 (grey) or 3 (RGB)")

    @property
    def media_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that were encoded, known without the cache."""
        return self.channels, self.size, self.size

    def build(self) -> LatentShards:
        """The cache; ValueError, naming the config key, for a root that holds none, or one of other images."""
        cache = LatentShards(self.root, kind=CACHE_KIND, flip=self.flip, make_command=CACHE_COMMAND)
        if cache.media_shape != self.media_shape:
            channels, height, _ = cache.media_shape
            raise ValueError(
                f"data.size is {self.size} and data.channels {self.channels}, but the cache {self.root} was made of "
                f"images with data.size={height} data.channels={channels}"
            )
        return cache


PIXEL_DATASETS: dict[str, type] = {
    "digits": DigitsConfig,
    "scenes": ScenesConfig,
    "folder": FolderConfig,
    "parquet": ParquetConfig,
}
DATASETS: dict[str, type] = {**PIXEL_DATASETS, "latents": LatentsConfig}
PixelsDataConfig = DigitsConfig | ScenesConfig | FolderConfig | ParquetConfig

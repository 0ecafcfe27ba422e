"""Labelled images: handwritten digits that need no download, class folders, parquet shards, and cached latents.

Every data set gives square images in [-1, 1] and takes its one augmentation, the horizontal flip, from the generator
that is handed in. A file that cannot be decoded is an error, or is counted and left out if `data.max_broken` allows it;
no image ever stands in for another.

Letters: n images of a data set, C channels, H height, W width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.data.files import existing_folder
from core.latents.cache import LatentShards
from core.schema import FREE
from image.datasets.digits import DigitsConfig, DigitsDataset
from image.datasets.files import FileDataset, FolderConfig, FolderSource, ParquetConfig, ParquetSource
from image.datasets.images import ImageDataset

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
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels is {self.channels!r}; allowed: 1 (grey) or 3 (RGB)")

    @property
    def media_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that were encoded, known without the cache."""
        return self.channels, self.size, self.size


PIXEL_DATASETS: dict[str, type] = {"digits": DigitsConfig, "folder": FolderConfig, "parquet": ParquetConfig}
DATASETS: dict[str, type] = {**PIXEL_DATASETS, "latents": LatentsConfig}
PixelsDataConfig = DigitsConfig | FolderConfig | ParquetConfig


def build_dataset(config: PixelsDataConfig | LatentsConfig) -> ImageDataset | LatentShards:
    """The data set that `config` describes; ValueError, naming the config key, for a root that does not hold one."""
    if isinstance(config, DigitsConfig):
        return DigitsDataset(config)
    if isinstance(config, FolderConfig):
        return FileDataset(FolderSource(existing_folder(config.root)), config)
    if isinstance(config, ParquetConfig):
        return FileDataset(ParquetSource(existing_folder(config.root), config.split, config.cache_dir), config)
    if isinstance(config, LatentsConfig):
        return _open_cache(config)
    raise ValueError(f"data is a {type(config).__name__}; allowed: {', '.join(DATASETS)}")


def _open_cache(config: LatentsConfig) -> LatentShards:
    cache = LatentShards(config.root, flip=config.flip, make_command=CACHE_COMMAND)
    if cache.spec.kind != CACHE_KIND:
        raise ValueError(f"data.root is {config.root!r}, a cache of kind {cache.spec.kind!r}; allowed: {CACHE_KIND!r}")
    if cache.media_shape != config.media_shape:
        channels, height, _ = cache.media_shape
        raise ValueError(
            f"data.size is {config.size} and data.channels {config.channels}, but the cache {config.root} was made of "
            f"images with data.size={height} data.channels={channels}"
        )
    return cache

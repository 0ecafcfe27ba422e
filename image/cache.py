"""`python -m image.cache`: encode a data set once, so that a run with `data=latents` needs no encoder and no images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from core.commands.cache import CacheOptions, Caching, run_cache
from core.commands.entry import Entry
from core.schema import choice
from core.storage.run_folder import RunDirectory
from image.data import CACHE_KIND, PIXEL_DATASETS
from image.data import PixelsDataConfig as DataConfig
from image.datasets.digits import DigitsConfig
from image.encoder import ENCODERS, encoder_sha256, make_encoder
from image.tokenizer import TOKENIZERS, ConvKLConfig, PixelsConfig, TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class ImageCacheConfig(CacheOptions):
    """What `python -m image.cache` takes; the keys are explained in conf/cache.yaml."""

    encoders: ClassVar[tuple[str, ...]] = ENCODERS
    data: DataConfig = choice(PIXEL_DATASETS, default_factory=DigitsConfig)
    tokenizer: TokenizerConfig = choice(TOKENIZERS, default_factory=ConvKLConfig)
    out: str = "runs/latents/digits"

    def __post_init__(self):
        if isinstance(self.tokenizer, PixelsConfig):
            raise ValueError(
                "tokenizer is 'pixels', which encodes nothing: there is nothing to cache; allowed: conv_kl, sd_vae"
            )
        super().__post_init__()


def main(config: ImageCacheConfig) -> None:
    """Encode a data set once into a latent cache, for runs with data=latents.

    Keeps mean and standard deviation of every image's posterior, and of its mirror image's where data.flip is true;
    a run draws from them anew in each step. The same command again continues a cache that was interrupted.
    torchrun --nproc-per-node=N -m image.cache ... divides the work among N GPUs. verify=true reads a cache again.
    """
    run_cache(config, ImageCaching, print)


class ImageCaching(Caching):
    """Images, both mirrors of them where the data set mirrors at random, and their labels."""

    kind, unit = CACHE_KIND, "image"
    config: ImageCacheConfig

    def __init__(self, config: ImageCacheConfig, device: torch.device):
        data, tokenizer = config.data.build(), config.tokenizer.build(device)
        super().__init__(config, data, tokenizer, data.labels.numpy(), config.data.transform)
        self.mirrors = 2 if data.flip else 1
        root = getattr(config.data, "root", None)
        self.set_encoder(partial(make_encoder, device=device), encoder_sha256)
        self.notes |= {"tokenizer_path": tokenizer.constants()["path"], "data_root": root}

    def read(self, row: int) -> Tensor:
        """Pixels (C, H, W) in [-1, 1]."""
        return self.dataset.pixels(row)

    def views(self, media: Tensor) -> Sequence[Tensor]:
        """The images, and their mirror images where there are two."""
        return (media, media.flip(-1))[: self.mirrors]

    def use_command(self, root: Path) -> str:
        """The command that trains on the cache; experiment, backbone and evaluation are the reader's choice."""
        data = self.config.data
        channels, size, _ = data.media_shape
        where = f"data=latents data.root={RunDirectory(root).shown()} data.size={size} data.channels={channels}"
        flip = str(data.transform["flip"]).lower()
        choice = tokenizer_choice(self.config.tokenizer)
        return f"python -m image.train {where} data.flip={flip} {choice} evaluation=none"


def tokenizer_choice(tokenizer: TokenizerConfig) -> str:
    """The overrides that select the tokenizer."""
    if isinstance(tokenizer, ConvKLConfig):
        return f"tokenizer=conv_kl tokenizer.path={tokenizer.path}"
    subfolder = f" tokenizer.subfolder={tokenizer.subfolder}" if tokenizer.subfolder else ""
    return f"tokenizer=sd_vae tokenizer.path={tokenizer.path}{subfolder}"


ENTRY = Entry(main, "image.conf", "cache", ImageCacheConfig)

if __name__ == "__main__":
    ENTRY.run()

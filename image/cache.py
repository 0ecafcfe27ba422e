"""`python -m image.cache`: encode a data set once, so that a run with `data=latents` needs no encoder and no images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from core.commands.cache import CacheJob, CacheOptions, run_cache
from core.commands.entry import Entry
from core.schema import choice
from core.storage.run_folder import RunDirectory
from image.data import CACHE_KIND, PIXEL_DATASETS, build_dataset
from image.data import PixelsDataConfig as DataConfig
from image.datasets.digits import DigitsConfig
from image.tokenizer import TOKENIZERS, ConvKLConfig, PixelsConfig, TokenizerConfig, build_tokenizer


@dataclass(frozen=True, kw_only=True)
class CacheConfig(CacheOptions):
    """What `python -m image.cache` takes; the keys are explained in conf/cache.yaml."""

    data: DataConfig = choice(PIXEL_DATASETS, default_factory=DigitsConfig)
    tokenizer: TokenizerConfig = choice(TOKENIZERS, default_factory=ConvKLConfig)
    out: str = "runs/latents/digits"

    def __post_init__(self):
        if isinstance(self.tokenizer, PixelsConfig):
            raise ValueError(
                "tokenizer is 'pixels', which encodes nothing: there is nothing to cache; allowed: conv_kl, sd_vae"
            )
        super().__post_init__()


def main(config: CacheConfig) -> None:
    """Encode a data set once into a latent cache, for runs with data=latents.

    Keeps mean and standard deviation of every image's posterior, and of its mirror image's where data.flip is true;
    a run draws from them anew in each step. The same command again continues a cache that was interrupted.
    torchrun --nproc-per-node=N -m image.cache ... divides the work among N GPUs. verify=true reads a cache again.
    """
    run_cache(config, lambda device: cache_job(config, device), print)


def cache_job(config: CacheConfig, device: torch.device) -> CacheJob:
    """Images, both mirrors of them where the data set mirrors at random, and their labels."""
    dataset, tokenizer = build_dataset(config.data), build_tokenizer(config.tokenizer, device)
    mirrors = 2 if dataset.flip else 1
    return CacheJob(
        kind=CACHE_KIND,
        unit="image",
        dataset=dataset,
        conditions=dataset.labels.numpy(),
        tokenizer=tokenizer,
        read=dataset.pixels,
        transform=config.data.transform,
        use=lambda root: use_command(config, root),
        views=lambda media: (media, media.flip(-1))[:mirrors],
        mirrors=mirrors,
        notes={"tokenizer_path": tokenizer.constants()["path"], "data_root": getattr(config.data, "root", None)},
    )


def use_command(config: CacheConfig, root: Path) -> str:
    """The command that trains on the cache; experiment, backbone and evaluation are the reader's choice."""
    channels, size, _ = config.data.media_shape
    where = f"data=latents data.root={RunDirectory(root).shown()} data.size={size} data.channels={channels}"
    flip = str(config.data.transform["flip"]).lower()
    return f"python -m image.train {where} data.flip={flip} {tokenizer_choice(config.tokenizer)} evaluation=none"


def tokenizer_choice(tokenizer: TokenizerConfig) -> str:
    """The overrides that select the tokenizer."""
    if isinstance(tokenizer, ConvKLConfig):
        return f"tokenizer=conv_kl tokenizer.path={tokenizer.path}"
    subfolder = f" tokenizer.subfolder={tokenizer.subfolder}" if tokenizer.subfolder else ""
    return f"tokenizer=sd_vae tokenizer.path={tokenizer.path}{subfolder}"


ENTRY = Entry(main, "image.conf", "cache", CacheConfig)

if __name__ == "__main__":
    ENTRY.run()

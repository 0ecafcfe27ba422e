"""`python -m video.cache`: encode a data set once, so that a run with `data=latents` needs no encoder and no files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from core.commands.cache import CacheOptions, Caching, reader_words, run_cache
from core.commands.entry import Entry
from core.commands.overrides import override
from core.conditioning.contract import assign_conditions
from core.schema import choice, plain
from core.storage.run_folder import RunDirectory
from video.codecs.trained import check_tokenizer
from video.conditioning import CONDITIONINGS, ConditioningConfig
from video.data import CACHE_KIND, CLIP_DATASETS, ClipsConfig
from video.datasets.digits import DigitsConfig
from video.datasets.windows import WindowsConfig
from video.encoder import ENCODERS, encoder_sha256, make_encoder
from video.tokenizer import TOKENIZERS, Conv3dKLConfig, PixelsConfig, TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class VideoCacheConfig(CacheOptions):
    """What `python -m video.cache` takes; the keys are explained in conf/cache.yaml."""

    encoders: ClassVar[tuple[str, ...]] = ENCODERS
    data: ClipsConfig = choice(CLIP_DATASETS, default_factory=DigitsConfig)
    tokenizer: TokenizerConfig = choice(TOKENIZERS, default_factory=Conv3dKLConfig)
    conditioning: ConditioningConfig = choice(CONDITIONINGS)
    runs_dir: str = "runs"

    def __post_init__(self):
        if isinstance(self.tokenizer, PixelsConfig):
            kinds = ", ".join(sorted(set(TOKENIZERS) - {"pixels"}))
            raise ValueError(
                f"tokenizer is 'pixels', which encodes nothing: there is nothing to cache; allowed: {kinds}"
            )
        super().__post_init__()


def main(config: VideoCacheConfig) -> None:
    """Encode a data set once into a latent cache, for runs with data=latents.

    Files are cut into consecutive clips, whatever data.window says. The moments of each clip's posterior, and of its
    mirror image's where data.flip is true, are kept with its condition; a run draws from them anew in each step. One
    clip goes the whole way first. The same command again continues a cache that was interrupted.
    torchrun --nproc-per-node=N -m video.cache ... divides the work. verify=true reads a cache again.
    """
    run_cache(config, VideoCaching, print)


class VideoCaching(Caching):
    """Clips with their conditions, both mirrors of them where they are mirrored at random, and their real frames."""

    kind, unit = CACHE_KIND, "clip"
    config: VideoCacheConfig

    def __init__(self, config: VideoCacheConfig, device: torch.device):
        data = replace(config.data, window="tiled") if isinstance(config.data, WindowsConfig) else config.data
        tokenizer, dataset = config.tokenizer.build(device), data.build()
        tokenizer.latent_shape(dataset.media_shape)  # clips that do not fit are refused before any is read
        assign_conditions(dataset, config.conditioning, CONDITIONINGS, device)
        check_tokenizer(config.tokenizer, tokenizer, dataset, Path(config.runs_dir) / "cache")
        super().__init__(config, dataset, tokenizer, dataset.conditions.numpy(), data.transform)
        real = getattr(dataset, "real_frames", None)
        self.lengths = real if real is not None and (real < data.clip.frames).any() else None
        self.mirrors = 2 if getattr(data, "flip", False) else 1
        make = partial(make_encoder, device=device, frames=dataset.media_shape[1])
        self.set_encoder(make, encoder_sha256)
        self.notes |= {"tokenizer_path": tokenizer.constants()["path"], "data_root": getattr(data, "root", None)}

    def read(self, row: int) -> Tensor:
        """A clip (C, F, H, W) in [-1, 1]."""
        return self.dataset.clip_at(row)

    def views(self, media: Tensor) -> Sequence[Tensor]:
        """The clips (B, C, F, H, W), and their mirror images where there are two."""
        return (media, media.flip(-1))[: self.mirrors]

    def use_command(self, root: Path) -> str:
        """The command that trains on the cache; experiment, backbone and evaluation are the reader's choice."""
        config = self.config
        channels, _, height, width = config.data.media_shape
        values = {"root": RunDirectory(root).shown(), "channels": channels, "size": [height, width]}
        words = [override(f"data.{key}", value) for key, value in values.items()]
        words += [override(f"data.clip.{key}", value) for key, value in plain(config.data.clip).items()]
        words += ["data.flip=true"] * (self.mirrors == 2)
        words += reader_words(config)
        return f"python -m video.train data=latents {' '.join(map(shlex.quote, words))} evaluation=none"


ENTRY = Entry(main, "video.conf", "cache", VideoCacheConfig)

if __name__ == "__main__":
    ENTRY.run()

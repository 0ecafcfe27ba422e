"""The latents of a fine-tuning's clips, encoded once, under a name made of all that decides them.

So runs with the same clips and the same VAE share them, and a changed size, rate or caption makes others.

Letters: n clips, C channels, F frames, H height, W width in pixels.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.commands.cache import CacheOptions, Caching, fill_cache
from core.latents.cache import LatentShards, StoredType
from core.latents.tokenizer import KLTokenizer
from core.processes.world import Place

log = logging.getLogger(__name__)

KIND = "wan"
COMMAND = "python -m video.finetune"


@dataclass(frozen=True)
class LatentFilesConfig:
    """Where latents are kept, and how they are made.

    root            a folder; null: <runs_dir>/cache/wan_latents
    dtype           of the moments
    rows_per_shard  clips of a file
    batch_size      clips read at once
    num_workers     processes that decode video; null: one for each core, 8 at most
    only            encode and stop: torchrun --nproc-per-node=N divides the work
    """

    root: str | None = None
    dtype: StoredType = "float16"
    rows_per_shard: int = 64
    batch_size: int = 1
    num_workers: int | None = None
    only: bool = False

    def options(self, folder: Path, device: str) -> CacheOptions:
        """The options of a cache in `folder`."""
        return CacheOptions(
            out=str(folder),
            rows_per_shard=self.rows_per_shard,
            dtype=self.dtype,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            device=device,
        )


class WanCaching(Caching):
    """Clips with the numbers of their captions as conditions."""

    kind, unit = KIND, "clip"

    def read(self, row: int) -> Tensor:
        """A clip (C, F, H, W) in [-1, 1]: the middle of its file, or its tile."""
        return self.dataset.clip_at(row)

    def use_command(self, root: Path) -> str:
        """The same command, which trains next time."""
        return f"{COMMAND}, without latents.only"


class CachedClips(LatentShards):
    """Cached latents that are named by their clips."""

    def __init__(self, root: Path, clips: Any):
        super().__init__(root, kind=KIND, make_command=COMMAND)
        self.clips = clips

    def name(self, index: int) -> str:
        """The clip's file."""
        return self.clips.name(index)


def cached_clips(
    config: LatentFilesConfig, folder: Path, clips: Any, tokenizer: KLTokenizer, facts: dict[str, Any], place: Place
) -> CachedClips:
    """The latents of `clips`, whose `conditions` are set, from below `folder`; what is missing is encoded first.

    facts  what decides the media of the clips, as JSON
    place  which of several processes this is: each encodes its part
    """
    options = config.options(folder, str(tokenizer.device))
    transform = {**facts, "files_sha256": names_sha256(clips.name, len(clips))}
    caching = WanCaching(options, clips, tokenizer, np.asarray(clips.conditions), transform)
    root = folder / caching.spec().identity()[:16]
    fill_cache(caching, root, place, log.info)
    return root if config.only else CachedClips(root, clips)


def names_sha256(name: Callable[[int], str], count: int) -> str:
    """Hex SHA-256 over the names of all clips, without the folders above their own."""
    names = "\n".join("/".join(Path(name(row)).parts[-2:]) for row in range(count))
    return hashlib.sha256(names.encode(errors="surrogatepass")).hexdigest()


def device_of(config: str) -> torch.device:
    """The device that a config names."""
    return torch.device(config)

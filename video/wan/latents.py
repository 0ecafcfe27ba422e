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
from torch import Tensor

from core.commands.cache import CacheOptions, Caching, fill_cache
from core.latents.cache import LatentShards, StoredType, missing_shards
from core.latents.tokenizer import KLTokenizer
from video.datasets.windows import Window

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
        """The command that trains on it."""
        return f"{COMMAND} ..., the same command"


class CachedClips(LatentShards):
    """Cached latents that are named by their clips."""

    def __init__(self, root: Path, clips: Any):
        super().__init__(root, kind=KIND, make_command=COMMAND)
        self.clips = clips

    def name(self, index: int) -> str:
        """The clip's file."""
        return self.clips.name(index)


class AsEncoded:
    """A data set of clips whose windows are those that are encoded, for a contact sheet."""

    def __init__(self, clips: Any):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.clips, name)

    def draw(self, row: int, rng: np.random.Generator) -> Window:
        """The one window of a row."""
        return self.clips.window_at(row)


@dataclass(frozen=True)
class Clips:
    """What is encoded: a data set whose `conditions` are set, by what, and what decides the media of its files."""

    dataset: Any
    tokenizer: KLTokenizer
    transform: dict[str, Any]

    def caching(self, options: CacheOptions) -> WanCaching:
        """The writer of a cache."""
        facts = {**self.transform, "files_sha256": names_sha256(self.dataset.name, len(self.dataset))}
        return WanCaching(options, self.dataset, self.tokenizer, np.asarray(self.dataset.conditions), facts)


def cached_clips(config: LatentFilesConfig, folder: Path, clips: Clips, part: tuple[int, int] = (0, 1)) -> Path:
    """The cache of clips, below `folder`; what is missing of it is encoded first.

    part  (k, W): this is process k of W that share the work
    """
    device = str(clips.tokenizer.device)
    spec = clips.caching(config.options(folder, device)).spec()
    root = folder / spec.identity()[:16]
    if missing_shards(root, spec):
        fill_cache(clips.caching(config.options(root, device)), part, log.info)
    else:
        log.info("latents of %d clips are in %s already", spec.rows, root)
    return root


def names_sha256(name: Callable[[int], str], count: int) -> str:
    """Hex SHA-256 over the names of all clips, each with its own folder."""
    names = "\n".join("/".join(Path(name(row)).parts[-2:]) for row in range(count))
    return hashlib.sha256(names.encode(errors="surrogatepass")).hexdigest()

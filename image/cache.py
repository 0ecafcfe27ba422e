"""`python -m image.cache`: encode a data set once, so that a run with `data=latents` needs no encoder and no images.

Letters: B batch, C image channels, Z latent channels, H height, W width, f downsampling, M mirrors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from core.config import Entry
from core.data import fingerprint
from core.distributed import Place, pick_device
from core.latent_writer import LatentWriter, Source, encode_shards
from core.latents import CacheSpec, StoredType, array_facts, damaged_files, missing_shards, read_spec
from core.provenance import json_sha256
from core.rundir import RunDirectory
from core.schema import choice
from image.data import CACHE_KIND, PIXEL_DATASETS, DigitsConfig, ImageDataset, build_dataset
from image.data import PixelsDataConfig as DataConfig
from image.tokenizer import (
    TOKENIZERS,
    ConvKLConfig,
    KLTokenizer,
    PixelsConfig,
    TokenizerConfig,
    build_tokenizer,
    cache_constants,
)

MAX_WORKERS = 8
MAX_LISTED = 5  # damaged files in an error


@dataclass(frozen=True)
class CacheConfig:
    """What `python -m image.cache` takes; the keys are explained in conf/cache.yaml."""

    data: DataConfig = choice(PIXEL_DATASETS, default_factory=DigitsConfig)
    tokenizer: TokenizerConfig = choice(TOKENIZERS, default_factory=ConvKLConfig)
    out: str = "runs/latents/digits"
    rows_per_shard: int = 8192
    dtype: StoredType = "float16"
    batch_size: int = 64
    num_workers: int | None = None
    device: str = "auto"
    verify: bool = False

    def __post_init__(self):
        if isinstance(self.tokenizer, PixelsConfig):
            raise ValueError(
                "tokenizer is 'pixels', which encodes nothing: there is nothing to cache; allowed: conv_kl, sd_vae"
            )
        if not self.out:
            raise ValueError(f"out is {self.out!r}; needed: the folder of the cache")
        for key, least in (("rows_per_shard", 1), ("batch_size", 1), ("num_workers", 0)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise ValueError(f"{key} is {value!r}; allowed: {least} or more")


def main(config: CacheConfig) -> None:
    """Encode a data set once into a latent cache, for runs with data=latents.

    Keeps mean and standard deviation of every image's posterior, and of its mirror image's where data.flip is true;
    a run draws from them anew in each step. The same command again continues a cache that was interrupted.
    torchrun --nproc-per-node=N -m image.cache ... divides the work among N GPUs. verify=true reads a cache again.
    """
    place = Place.from_environment()
    if config.verify:
        print(verify(Path(config.out).expanduser(), place))
        return
    dataset = build_dataset(config.data)
    tokenizer = build_tokenizer(config.tokenizer, pick_device(config.device, place.local_rank))
    spec = make_spec(config, dataset, tokenizer)
    notes = {"tokenizer_path": tokenizer.constants()["path"], "data_root": getattr(config.data, "root", None)}
    writer = LatentWriter(config.out, spec, dataset.labels.numpy(), notes, (place.rank, place.size))
    shards, started = writer.missing(), time.perf_counter()
    rows = sum(last - first for first, last in map(spec.shard_rows, shards))
    source = Source(dataset.pixels, moments_of(tokenizer, spec.mirrors), dataset.name)
    with tqdm(total=rows, desc="encoding", unit="image", disable=True if place.rank else None) as bar:
        for count in encode_shards(writer, shards, source, config.batch_size, workers(config.num_workers)):
            bar.update(count)
    print(report(config, writer, rows, time.perf_counter() - started))


def make_spec(config: CacheConfig, dataset: ImageDataset, tokenizer: KLTokenizer) -> CacheSpec:
    """What the cache will hold; ValueError for images that the tokenizer does not take."""
    transform = config.data.transform
    return CacheSpec(
        kind=CACHE_KIND,
        rows=len(dataset),
        rows_per_shard=config.rows_per_shard,
        mirrors=2 if dataset.flip else 1,
        latent_shape=tuple(tokenizer.latent_shape(dataset.media_shape)),
        media_shape=tuple(dataset.media_shape),
        dtype=config.dtype,
        class_names=list(dataset.class_names),
        conditions=array_facts(dataset.labels.numpy()),
        data=fingerprint(dataset),
        transform={**transform, "sha256": json_sha256(transform)},
        tokenizer={**cache_constants(tokenizer.constants()), "precision": tokenizer.precision},
    )


def moments_of(tokenizer: KLTokenizer, mirrors: int) -> Callable[[Tensor], Tensor]:
    """(B, C, H, W) in [-1, 1] -> mean and standard deviation (B, M, 2, Z, H/f, W/f) float32 of each mirror."""

    def encode(media: Tensor) -> Tensor:
        views = (media, media.flip(-1))[:mirrors]
        return torch.stack([torch.stack(tokenizer.moments(view), dim=1) for view in views], dim=1)

    return encode


def workers(wanted: int | None) -> int:
    """Processes that read images: as many as asked for, else this process's share of the machine's cores."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(MAX_WORKERS, max(1, cores))


def verify(root: Path, place: Place) -> str:
    """Read every file of this process's part again; what to say when all is well. ValueError names what is not."""
    try:
        spec = read_spec(root)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"out is {str(root)!r}, which holds no latent cache: there is nothing to verify") from None
    own = range(place.rank, spec.num_shards, place.size)
    damaged = damaged_files(root, spec, own)
    if damaged:
        names = " ".join(str(file) for file in damaged[:MAX_LISTED])
        raise ValueError(
            f"{len(damaged)} files of {root} are damaged: {names}; delete them, and the command that made the cache "
            "writes them again"
        )
    missing = len(set(missing_shards(root, spec)) & set(own))
    return f"verified          {len(own) - missing} shards of {root} are as they were written, {missing} are missing"


def report(config: CacheConfig, writer: LatentWriter, rows: int, seconds: float) -> str:
    """What an encoding prints at its end: what was written, how large, how fast, and how to use it."""
    spec, root = writer.spec, writer.root
    left = len(missing_shards(root, spec))
    size = sum(file.stat().st_size for file in root.glob("*.npy")) / 1e6
    mirrored = " and their mirror images" if spec.mirrors == 2 else ""
    speed = f", {rows / seconds:.0f} images/s" if rows else ""
    lines = [
        f"encoded           {rows} images{speed}",
        f"cache             {RunDirectory(root).shown()}: {spec.rows} images{mirrored}, "
        f"{spec.num_shards - left} of {spec.num_shards} shards, {size:.1f} MB of {spec.dtype}",
    ]
    if left:
        return "\n".join(
            [*lines, f"left              {left} shards: other processes write them, or the same command does"]
        )
    return "\n".join([*lines, f"use               {use_command(config, root)}"])


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

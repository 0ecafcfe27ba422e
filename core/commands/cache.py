"""The command that encodes a data set into a latent cache, for every domain (`core.latents.cache` has the files).

A domain's `Caching` says which rows are encoded by what, how one is read, and which views of it are kept.

Letters: B batch, M mirrors, n rows.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from core.commands.overrides import override
from core.contracts import Batch, Dataset, FeatureEncoder
from core.data.stream import check_workers, fingerprint
from core.draws import StepRandom
from core.latents.cache import (
    FEATURES,
    LATENTS,
    CacheSpec,
    StoredFeatures,
    StoredType,
    array_facts,
    damaged_files,
    missing_shards,
    read_spec,
)
from core.latents.features import check_encoder
from core.latents.tokenizer import FromMoments, KLTokenizer, cache_constants
from core.latents.writer import LatentWriter, Source, encode_rows, encode_shards
from core.processes.world import Place, pick_device
from core.schema import plain
from core.storage.provenance import json_sha256
from core.storage.run_folder import RunDirectory
from core.train.progress import Progress

MAX_WORKERS = 8
MAX_LISTED = 5  # damaged files in an error
OTHERS = "shards: other processes write them, or the same command does"


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """How a cache is written; a domain adds data and tokenizer, and explains the keys in its conf/cache.yaml."""

    encoders: ClassVar[tuple[str, ...]] = ()  # the kinds that the domain has, for `encoder`
    out: str
    rows_per_shard: int = 8192
    dtype: StoredType = "float16"
    batch_size: int = 64
    num_workers: int | None = None
    device: str = "auto"
    verify: bool = False
    encoder: str | None = None

    def __post_init__(self):
        if not self.out:
            raise ValueError(f"out is {self.out!r}; needed: the folder of the cache")
        for key, least in (("rows_per_shard", 1), ("batch_size", 1), ("num_workers", 0)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise ValueError(f"{key} is {value!r}; allowed: {least} or more")
        check_workers("num_workers", self.num_workers)
        if self.encoder is not None:
            check_encoder("encoder", self.encoder, self.encoders)


class Caching(ABC):
    """A data set that is encoded; a domain's constructor opens it, its methods say how a row is read and used.

    kind        what an item is, the domain's word
    unit        what a person calls one
    config      what the command line says
    dataset     its length, names, classes and labels
    tokenizer   whose moments are kept
    conditions  (n, ...) of the rows
    transform   what decides the media of a given file, as JSON
    mirrors     M, how many views of a row are encoded
    lengths     (n,) real frames of each row's latent, where the ends of some are padding
    notes       what a person may want to know and no one compares: paths
    encoder     whose features of the views are kept too; None: those of none
    """

    kind: ClassVar[str]
    unit: ClassVar[str]
    mirrors: int = 1
    lengths: np.ndarray | None = None
    encoder: FeatureEncoder | None = None

    def __init__(
        self,
        config: CacheOptions,
        dataset: Dataset,
        tokenizer: KLTokenizer,
        conditions: np.ndarray,
        transform: dict[str, Any],
    ):
        self.config, self.dataset, self.tokenizer = config, dataset, tokenizer
        self.conditions, self.transform = conditions, transform
        self.notes: dict[str, Any] = {}

    @abstractmethod
    def read(self, row: int) -> Tensor:
        """The media of a row, not augmented; runs in worker processes."""

    @abstractmethod
    def use_command(self, root: Path) -> str:
        """The command that trains on the cache."""

    def views(self, media: Tensor) -> Sequence[Tensor]:
        """The M versions of media (B, ...) that are encoded, such as both mirrors."""
        return (media,)

    def set_encoder(self, make: Callable[[str], FeatureEncoder], files_sha256: Callable[[str], str]) -> None:
        """Let features be kept, if the config names an encoder; ValueError for files that are none.

        make  an encoder of its name, kind:folder; files_sha256: of the files that the name means
        """
        if self.config.encoder is not None:
            self.encoder, self._sha256 = make(self.config.encoder), files_sha256(self.config.encoder)
            self.notes["encoder"] = self.config.encoder

    def real(self, rows: Sequence[int]) -> Tensor | None:
        """Which of equal parts of the media of `rows` are real, (B, n) bool, for an encoder that asks; None: all."""
        return None

    def spec(self) -> CacheSpec:
        """What the cache will hold; ValueError for media that the tokenizer does not take."""
        dataset, tokenizer = self.dataset, self.tokenizer
        return CacheSpec(
            kind=self.kind,
            rows=len(dataset),
            rows_per_shard=self.config.rows_per_shard,
            mirrors=self.mirrors,
            latent_shape=tuple(tokenizer.latent_shape(dataset.media_shape)),
            media_shape=tuple(dataset.media_shape),
            dtype=self.config.dtype,
            class_names=list(dataset.class_names),
            conditions=array_facts(self.conditions),
            data=fingerprint(dataset),
            transform={**self.transform, "sha256": json_sha256(self.transform)},
            tokenizer={**cache_constants(tokenizer.constants()), "precision": tokenizer.precision},
            lengths=None if self.lengths is None else array_facts(self.lengths),
            features=self._stored_features(),
        )

    def _stored_features(self) -> StoredFeatures | None:
        """What will be kept of the encoder, whose grid one row tells."""
        if self.encoder is None:
            return None
        shape = self.features(self.read(0)[None], [0]).shape[2:]
        return StoredFeatures(self.config.encoder.partition(":")[0], self._sha256, tuple(shape), self.config.dtype)

    def encode(self, media: Tensor) -> Tensor:
        """Media (B, ...) in [-1, 1] -> mean and standard deviation (B, M, 2, *latent) float32 of each view."""
        moments = [torch.stack(self.tokenizer.moments(view), dim=1) for view in self.views(media)]
        return torch.stack(moments, dim=1)

    def features(self, media: Tensor, rows: Sequence[int]) -> Tensor:
        """Media (B, ...) in [-1, 1] of `rows` -> what the encoder makes of each view, (B, M, E, *grid)."""
        given = {"condition": torch.from_numpy(self.conditions[list(rows)]), "index": torch.tensor(rows)}
        batches = (Batch(media=view, mask=self.real(rows), **given) for view in self.views(media))
        return torch.stack([self.encoder(batch.to(self.tokenizer.device)).float() for batch in batches], dim=1)

    def report(self, writer: LatentWriter, rows: int, seconds: float) -> str:
        """What an encoding prints at its end: what was written, how large, how fast, and how to use it."""
        spec, root = writer.spec, writer.root
        left = len(missing_shards(root, spec))
        size = sum(file.stat().st_size for file in root.glob("*.npy")) / 1e6
        mirrored = " and their mirrors" if spec.mirrors == 2 else ""
        speed = f", {rows / seconds:.0f} {self.unit}s/s" if rows else ""
        lines = [
            f"encoded           {rows} {self.unit}s{speed}",
            f"cache             {RunDirectory(root).shown()}: {spec.rows} {self.unit}s{mirrored}, "
            f"{spec.num_shards - left} of {spec.num_shards} shards, {size:.1f} MB of {spec.dtype}",
        ]
        if self.encoder is not None:
            of_all = sum(file.stat().st_size for file in root.glob(f"{FEATURES}_*.npy")) / 1e6
            words = f"alignment=external alignment.encoder={self.config.encoder}"
            lines.append(f"features          {of_all:.1f} MB of these, {spec.features.shape} a view, for {words}")
        use = f"use               {self.use_command(root)}"
        return "\n".join([*lines, f"left              {left} {OTHERS}" if left else use])


def reader_words(config: Any) -> list[str]:
    """Overrides that give a run on a cache the tokenizer and the conditioning of `config`, the cache's."""
    words, values = [], plain(config)
    for node in ("tokenizer", "conditioning"):
        own = getattr(config, node)
        changed = [each.name for each in fields(own) if getattr(own, each.name) != each.default]
        words += [f"{node}={values[node]['name']}", *(override(f"{node}.{key}", values[node][key]) for key in changed)]
    if config.conditioning.drop == 0:
        words.append("sampler.guidance_scale=1")  # there is no unconditional pass to guide with
    return words


def run_cache(
    config: CacheOptions, open_caching: Callable[[Any, torch.device], Caching], show: Callable[[str], None]
) -> None:
    """Encode what is missing of a cache, or read it again (verify); `show` takes what a person is to read.

    open_caching  a domain's class: what is encoded, on a device
    """
    place = Place.from_environment()
    if config.verify:
        show(verify(Path(config.out).expanduser(), place))
        return
    fill_cache(open_caching(config, pick_device(config.device, place.local_rank)), (place.rank, place.size), show)


def fill_cache(caching: Caching, part: tuple[int, int], show: Callable[[str], None]) -> None:
    """Encode what is missing of a cache; part (k, W): the shards k, k + W, ..."""
    config = caching.config
    arrays = {"conditions": caching.conditions, "lengths": caching.lengths}
    writer = LatentWriter(config.out, caching.spec(), arrays, caching.notes, part)
    source = Source(caching.read, caching.encode, caching.dataset.name, caching.features)
    shards = writer.missing()
    if shards:
        show(rehearse(caching, writer, source, shards[0]))
    rows = sum(last - first for first, last in map(writer.spec.shard_rows, shards))
    started, progress = time.perf_counter(), Progress(rows, 0, "encoding", caching.unit, enabled=not part[0])
    with contextlib.closing(progress):
        for count in encode_shards(writer, shards, source, config.batch_size, workers(config.num_workers)):
            progress.bar.update(count)
    show(caching.report(writer, rows, time.perf_counter() - started))


def rehearse(caching: Caching, writer: LatentWriter, source: Source, shard: int) -> str:
    """The first row of a shard goes the whole way that all are to go, up to media again; what to say of it.

    So what would fail at the end of hours, such as a full disk, fails in seconds, with what `encode_shards` raises.
    ValueError for a row that is decoded to numbers that are not finite.
    """
    started, row = time.perf_counter(), writer.spec.shard_rows(shard)[0]
    media = source.read(row)[None]
    for part in writer.lacking(shard):
        kept = writer.rehearse(shard, part, encode_rows(source, part, media, [row]).numpy())
        if part.stem == LATENTS:
            _check_decoded(caching, writer, torch.from_numpy(kept), source.name(row), row)
    seconds = time.perf_counter() - started
    return f"tried             1 {caching.unit} in {seconds:.1f} s: read, encoded, stored, read back, decoded"


def _check_decoded(caching: Caching, writer: LatentWriter, kept: Tensor, name: str, row: int) -> None:
    tokenizer = FromMoments(caching.tokenizer, writer.spec.tokenizer, writer.root)
    latents = tokenizer.encode(kept[:, 0], StepRandom(0, 0, caching.tokenizer.device))
    if not tokenizer.decode(latents).isfinite().all():
        raise ValueError(f"{name} (row {row}): the tokenizer decodes it to numbers that are not finite")


def workers(wanted: int | None) -> int:
    """Processes that read media: as many as asked for, else this process's share of the machine's cores."""
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

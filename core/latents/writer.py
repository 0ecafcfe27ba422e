"""Encodes a data set into a cache (see `core.latents.cache`): by any number of processes, whenever they are stopped.

A file is written under a temporary name, synced and renamed. Shard k belongs to process k mod W, so processes need not
know of each other. What is there is skipped: the same command continues. A temporary file is locked while its process
lives, so that one without a lock is known to be left over.

Letters: n rows, M mirrors, B batch, W processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from core.latents.cache import (
    MANIFEST,
    SCHEMA_VERSION,
    CacheSpec,
    missing_shards,
    read_spec,
    same_array,
    shard_file,
)
from core.latents.tokenizer import MediaError
from core.processes.failures import LoaderError
from core.processes.workers import LoaderWorkers
from core.schema import changed_keys, plain
from core.storage.arrays import map_array
from core.storage.atomic import sha256_file, sync

TEMPORARY = re.compile(r"\.(manifest|conditions|lengths|shard_(?P<shard>\d+))\.(json|npy)\.[0-9a-f]{8}\.tmp")
MAX_SHOWN = 60  # characters of a value in an error


@dataclass(frozen=True)
class Source:
    """What is encoded.

    read    row -> its media as a tensor, not augmented; runs in worker processes
    encode  (B, *media) -> (B, M, 2, *latent) float32, on any device
    name    row -> where a person finds it
    """

    read: Callable[[int], Tensor]
    encode: Callable[[Tensor], Tensor]
    name: Callable[[int], str]


class LatentWriter:
    """One process's part of writing a cache.

    root        the folder, made where it is not there
    arrays      what is known of all rows, in the order of the data set: conditions (n, ...), lengths (n,) or None
    notes       what a person may want to know and no one compares: paths
    part        (k, W): this process takes the shards k, k + W, ...

    Raises ValueError for a folder that holds a cache of something else, or other files.
    """

    def __init__(
        self,
        root: Path | str,
        spec: CacheSpec,
        arrays: Mapping[str, np.ndarray | None],
        notes: Mapping[str, Any],
        part: tuple[int, int],
    ):
        self.root, self.spec, self.part = Path(root).expanduser(), spec, part
        self.root.mkdir(parents=True, exist_ok=True)
        self._claim(notes)
        self._remove_left_overs()
        for name, facts in spec.arrays().items():
            if not same_array(self.root / name, facts):
                with _whole_file(self.root / name) as file:
                    np.save(file, arrays[Path(name).stem])

    @property
    def own(self) -> range:
        """The shards of this process, there or not."""
        return range(self.part[0], self.spec.num_shards, self.part[1])

    def missing(self) -> list[int]:
        """The shards of this process that are not there yet."""
        return [shard for shard in missing_shards(self.root, self.spec) if shard in self.own]

    def rehearse(self, shard: int, moments: np.ndarray) -> np.ndarray:
        """Moments as they come back from a file where the shard will be, which is removed; OSError when that fails."""
        with _locked_file(shard_file(self.root, shard)) as file:
            try:
                np.save(file, moments)
                file.flush()
                os.fsync(file.fileno())
                return _read_back(Path(file.name), moments).copy()
            finally:
                Path(file.name).unlink(missing_ok=True)

    def write(self, shard: int, moments: np.ndarray) -> None:
        """Write a shard (rows, M, 2, *latent), read it back, then write its facts; OSError when that fails."""
        path = shard_file(self.root, shard)
        with _whole_file(path) as file:
            np.save(file, moments)
            file.flush()
            written = Path(file.name)
            _read_back(written, moments)
            facts = {"bytes": written.stat().st_size, "sha256": sha256_file(written), "cache": self.spec.identity()}
        with _whole_file(path.with_suffix(".json")) as file:
            file.write(json.dumps({"rows": len(moments), **facts}, indent=1).encode())

    def _claim(self, notes: Mapping[str, Any]) -> None:
        """Write the manifest, or check that the one that is there says the same."""
        path, wanted = self.root / MANIFEST, plain(self.spec)
        if not path.exists():
            strangers = sorted(file.name for file in self.root.iterdir() if not file.name.startswith("."))
            if strangers:
                raise ValueError(f"out is {str(self.root)!r}, which is in use for something else ({strangers[0]!r})")
            with _whole_file(path, replace=False) as file:
                file.write(
                    json.dumps({"schema_version": SCHEMA_VERSION, **wanted, "notes": dict(notes)}, indent=1).encode()
                )
        found = plain(read_spec(self.root))
        differing = [f"{key} ({_at(found, key)}, now {_at(wanted, key)})" for key in changed_keys(found, wanted)]
        if differing:
            raise ValueError(
                f"out is {str(self.root)!r}, which holds a cache with another {', '.join(differing)}; "
                "the same values continue it, another out=... makes another"
            )

    def _remove_left_overs(self) -> None:
        """Delete temporary files that no living process holds, of this part's shards and of the files all share."""
        for temporary in self.root.iterdir():
            match = TEMPORARY.fullmatch(temporary.name)
            if match is None or (match["shard"] is not None and int(match["shard"]) not in self.own):
                continue
            with contextlib.suppress(FileNotFoundError), temporary.open("r+b") as file:  # another process was faster
                if _lock(file):
                    temporary.unlink()


def _read_back(file: Path, moments: np.ndarray) -> np.ndarray:
    """What a file holds, mapped; OSError where that is not what was written."""
    found = map_array(file)
    if not np.array_equal(found.view(np.uint8), moments.view(np.uint8)):
        raise OSError(f"{file} reads back differently from what was written: is the disk sound?")
    return found


def _at(values: Mapping[str, Any], key: str) -> str:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    text = repr(values)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def encode_shards(
    writer: LatentWriter, shards: Sequence[int], source: Source, batch_size: int, num_workers: int
) -> Iterator[int]:
    """Encode and write `shards` one after the other; gives the number of rows after each batch.

    Batches do not cross shards, so that a shard is the same whenever it is written. Raises ValueError naming the row
    whose moments are not finite or do not fit the stored type, and what `source.read` raises.
    """
    spec = writer.spec
    batches = [rows for shard in shards for rows in _batches(spec.shard_rows(shard), batch_size)]
    workers = LoaderWorkers()
    media = _read(source.read, batches, num_workers, workers)
    with workers.told(_killed):
        for shard in shards:
            first, last = spec.shard_rows(shard)
            moments = np.empty(spec.shard_shape(shard), dtype=spec.dtype)
            for rows in _batches((first, last), batch_size):
                stored = encode_rows(source, next(media), rows, spec)
                moments[rows[0] - first : rows[-1] + 1 - first] = stored.numpy()
                yield len(rows)
            writer.write(shard, moments)


def encode_rows(source: Source, media: Tensor, rows: Sequence[int], spec: CacheSpec) -> Tensor:
    """The moments (B, M, 2, *latent) of `rows` in the stored type, on the CPU; ValueError naming a refused one."""
    try:
        moments = source.encode(media)
    except MediaError as error:
        row = rows[error.row]
        raise ValueError(f"{source.name(row)} (row {row}): {error}") from error
    return _stored(moments, rows, source.name, spec)


def _killed(error: Exception) -> LoaderError:
    return LoaderError("a process that reads media was killed (memory?); the same command continues")


def _batches(span: tuple[int, int], size: int) -> list[list[int]]:
    first, last = span
    return [list(range(start, min(start + size, last))) for start in range(first, last, size)]


class _Rows(TorchDataset):
    """A function of the row, as the DataLoader wants it."""

    def __init__(self, read: Callable[[int], Tensor]):
        self._read = read

    def __getitem__(self, row: int) -> Tensor:
        return self._read(row)


def _read(
    read: Callable[[int], Tensor], batches: list[list[int]], num_workers: int, workers: LoaderWorkers
) -> Iterator[Tensor]:
    """Media (B, ...) of each batch in order, read ahead by worker processes."""
    loader = DataLoader(_Rows(read), batch_sampler=batches, collate_fn=torch.stack, num_workers=num_workers)
    yield from workers.read(loader)


def _stored(moments: Tensor, rows: Sequence[int], name: Callable[[int], str], spec: CacheSpec) -> Tensor:
    """Moments (B, M, 2, *latent) in the stored type, on the CPU; ValueError naming the first row that does not fit."""
    stored = moments.to(getattr(torch, spec.dtype))
    bad = (~stored.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        values = moments[bad[0]]
        where = f"{name(rows[bad[0]])} (row {rows[bad[0]]})"
        if values.isfinite().all():
            largest = values.abs().max().item()
            raise ValueError(f"{where}: its latents reach {largest:g}, too large for dtype=float16; allowed: float32")
        raise ValueError(f"{where}: the tokenizer gives latents that are not finite")
    return stored.cpu()


@contextlib.contextmanager
def _whole_file(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """A file to write that appears at `path` when the block ends well; with replace=False one that is there stays."""
    file = _locked_file(path)
    temporary = Path(file.name)
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        if replace or not path.exists():
            temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        file.close()


def _locked_file(path: Path) -> BinaryIO:
    """A new temporary file beside `path`, locked."""
    while True:
        file = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp").open("x+b")
        _lock(file)
        if Path(file.name).exists():
            return file
        file.close()  # another process took it for a left-over in the moment before it was locked


def _lock(file: io.IOBase) -> bool:
    """Lock a file until it is closed; False where another process holds it, or the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

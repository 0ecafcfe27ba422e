"""Encodes a data set into a cache (see `core.latents.cache`): by any number of processes, whenever they are stopped.

A file is written under a temporary name, synced and renamed. Shard k belongs to process k mod W, so processes need not
know of each other. What is there is skipped: the same command continues. A temporary file is locked while its process
lives, so that one without a lock is known to be left over.

Letters: n rows, M mirrors, B batch, W processes, E features of a place.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from core.latents.cache import (
    FEATURES,
    MANIFEST,
    SCHEMA_VERSION,
    CacheSpec,
    Part,
    missing_shards,
    read_spec,
    same_array,
    shard_facts,
    shard_file,
)
from core.latents.tokenizer import MediaError
from core.processes.failures import LoaderError
from core.processes.workers import LoaderWorkers
from core.schema import changed_keys, plain
from core.storage.arrays import map_array
from core.storage.atomic import sha256_file, sync

TEMPORARY = re.compile(r"\.(manifest|conditions|lengths|(shard|features)_(?P<shard>\d+))\.(json|npy)\.[0-9a-f]{8}\.tmp")
MAX_SHOWN = 60  # characters of a value in an error


@dataclass(frozen=True)
class Source:
    """What is encoded.

    read      row -> its media as a tensor, not augmented; runs in worker processes
    encode    (B, *media) -> (B, M, 2, *latent) float32, on any device
    name      row -> where a person finds it
    features  (B, *media) and their rows -> (B, M, E, *grid) float32, for a cache that keeps them
    """

    read: Callable[[int], Tensor]
    encode: Callable[[Tensor], Tensor]
    name: Callable[[int], str]
    features: Callable[[Tensor, Sequence[int]], Tensor] | None = None


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

    def lacking(self, shard: int) -> list[Part]:
        """The parts of a shard that are not there yet: one that was written before the encoder was asked lacks one."""
        return [part for part in self.spec.parts() if shard_facts(self.root, shard, part) is None]

    def rehearse(self, shard: int, part: Part, rows: np.ndarray) -> np.ndarray:
        """Rows as they come back from a file where the shard will be, which is removed; OSError when that fails."""
        with _locked_file(shard_file(self.root, shard, part.stem)) as file:
            try:
                np.save(file, rows)
                file.flush()
                os.fsync(file.fileno())
                found = map_array(Path(file.name))
                if not np.array_equal(found.view(np.uint8), rows.view(np.uint8)):
                    raise _reads_back_differently(file.name)
                return found.copy()
            finally:
                Path(file.name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def write(self, shard: int, part: Part) -> Iterator[Callable[[np.ndarray], None]]:
        """Takes the rows of a part of a shard (B, M, ...) in their order; when the block ends well the part is there.

        It is read back, then its facts are written; OSError when that fails.
        """
        path, shape = shard_file(self.root, shard, part.stem), self.spec.shard_shape(shard, part)
        with _whole_file(path) as file:
            digest = hashlib.sha256()

            def add(content: bytes | memoryview) -> None:
                file.write(content)
                digest.update(content)

            add(_header(shape, part.dtype))
            yield lambda rows: add(np.ascontiguousarray(rows, part.dtype).data.cast("B"))
            file.flush()
            written = Path(file.name)
            if sha256_file(written) != digest.hexdigest():
                raise _reads_back_differently(written)
            facts = {"bytes": written.stat().st_size, "sha256": digest.hexdigest(), "cache": part.identity}
        with _whole_file(path.with_suffix(".json")) as file:
            file.write(json.dumps({"rows": shape[0], **facts}, indent=1).encode())

    def _claim(self, notes: Mapping[str, Any]) -> None:
        """Write the manifest, or check that the one that is there says the same."""
        path, wanted = self.root / MANIFEST, plain(self.spec)
        if not path.exists():
            strangers = sorted(file.name for file in self.root.iterdir() if not file.name.startswith("."))
            if strangers:
                raise ValueError(f"out is {str(self.root)!r}, which is in use for something else ({strangers[0]!r})")
            self._write_manifest(wanted, notes, replace=False)
        spec = read_spec(self.root)
        if spec.features is None and replace(spec, features=self.spec.features) == self.spec != spec:
            self._write_manifest(wanted, notes)  # the latents are those; the features are new
            return
        found = plain(spec)
        differing = [f"{key} ({_at(found, key)}, now {_at(wanted, key)})" for key in changed_keys(found, wanted)]
        if differing:
            raise ValueError(
                f"out is {str(self.root)!r}, which holds a cache with another {', '.join(differing)}; "
                "the same values continue it, another out=... makes another"
            )

    def _write_manifest(self, wanted: Mapping[str, Any], notes: Mapping[str, Any], *, replace: bool = True) -> None:
        content = {"schema_version": SCHEMA_VERSION, **wanted, "notes": dict(notes)}
        with _whole_file(self.root / MANIFEST, replace=replace) as file:
            file.write(json.dumps(content, indent=1).encode())

    def _remove_left_overs(self) -> None:
        """Delete temporary files that no living process holds, of this part's shards and of the files all share."""
        for temporary in self.root.iterdir():
            match = TEMPORARY.fullmatch(temporary.name)
            if match is None or (match["shard"] is not None and int(match["shard"]) not in self.own):
                continue
            with contextlib.suppress(FileNotFoundError), temporary.open("r+b") as file:  # another process was faster
                if _lock(file):
                    temporary.unlink()


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    """What a .npy file of an array in rows begins with."""
    content = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, facts)
    return content.getvalue()


def _reads_back_differently(file: Path | str) -> OSError:
    return OSError(f"{file} reads back differently from what was written: is the disk sound?")


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
    whose numbers are not finite or do not fit the stored type, and what `source.read` raises.
    """
    spec = writer.spec
    batches = [rows for shard in shards for rows in _batches(spec.shard_rows(shard), batch_size)]
    workers = LoaderWorkers()
    media = _read(source.read, batches, num_workers, workers)
    with workers.told(_killed):
        for shard in shards:
            with contextlib.ExitStack() as written:
                parts = [(part, written.enter_context(writer.write(shard, part))) for part in writer.lacking(shard)]
                for rows in _batches(spec.shard_rows(shard), batch_size):
                    batch = next(media)
                    for part, add in parts:
                        add(encode_rows(source, part, batch, rows).numpy())
                    yield len(rows)


def encode_rows(source: Source, part: Part, media: Tensor, rows: Sequence[int]) -> Tensor:
    """A part (B, M, ...) of `rows` in the stored type, on the CPU; ValueError naming a refused row."""
    try:
        values = source.features(media, rows) if part.stem == FEATURES else source.encode(media)
    except MediaError as error:
        row = rows[error.row]
        raise ValueError(f"{source.name(row)} (row {row}): {error}") from error
    if tuple(values.shape[1:]) != part.shape:
        raise ValueError(f"{source.name(rows[0])} gives {tuple(values.shape[1:])} for {part.stem}, not {part.shape}")
    return _stored(values, rows, source.name, part)


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


def _stored(values: Tensor, rows: Sequence[int], name: Callable[[int], str], part: Part) -> Tensor:
    """Numbers (B, M, ...) in the stored type, on the CPU; ValueError naming the first row that does not fit."""
    stored = values.to(getattr(torch, part.dtype))
    bad = (~stored.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        maker, what = ("encoder", "features") if part.stem == FEATURES else ("tokenizer", "latents")
        found = values[bad[0]]
        where = f"{name(rows[bad[0]])} (row {rows[bad[0]]})"
        if found.isfinite().all():
            largest = found.abs().max().item()
            raise ValueError(f"{where}: its {what} reach {largest:g}, too large for dtype=float16; allowed: float32")
        raise ValueError(f"{where}: the {maker} gives {what} that are not finite")
    return stored.cpu().contiguous()


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

"""Generated media on the disk, a file for each batch, so that a long evaluation goes on where it was stopped.

    <folder>/manifest.json     the protocol that the media were made by
    <folder>/chunk_000000.npy  samples 0..B-1, (B, *media) in the form that the domain keeps; chunk_000001.npy ...

A chunk is what one process makes at once, and depends on (seed, first sample, B) and the weights only: an interrupted
evaluation, and one on another number of processes, leaves the same bytes.

Letters: n samples, B samples of a chunk.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.contracts import Condition, Requests
from core.generate import Generator, StoppedError, together
from core.processes.world import World
from core.storage.arrays import map_array
from core.storage.atomic import write_atomic
from core.storage.provenance import json_sha256
from eval.measure.media import Media

MANIFEST = "manifest.json"
IDENTITY_DIGITS = 16  # of the protocol's hash, in the folder's name


class Form:
    """The form in which generated media are kept until they are measured: here as they are.

    rule    in words, for the protocol: two evaluations with different forms are not comparable
    floats  whether they are kept as they are
    """

    rule: str = "float32 in [-1, 1], not rounded"
    floats: bool = True

    def store(self, media: Tensor) -> Tensor:
        """Media (B, *media) in [-1, 1] -> what is written, of one of NumPy's own types."""
        return media

    def load(self, stored: Tensor) -> Tensor:
        """What was written -> what extractors are given."""
        return stored


AS_THEY_ARE = Form()


@dataclass(frozen=True)
class Chunks:
    """The chunks of one protocol.

    parent      folder of the chunks of all protocols
    identity    all that decides a sample, and the size of a chunk; a larger `num` goes on with what is there
    conditions  (n, ...) of the samples that are wanted, or requests
    size        samples of a chunk
    form        how they are kept; its rule belongs in the identity
    """

    parent: Path
    identity: dict[str, Any]
    conditions: Condition | Requests
    size: int
    form: Form = AS_THEY_ARE

    @property
    def folder(self) -> Path:
        """The folder of the chunks; another protocol has another one."""
        return self.parent / f"samples_{json_sha256(self._manifest())[:IDENTITY_DIGITS]}"

    def _manifest(self) -> dict[str, Any]:
        return {"schema_version": 1, "protocol": self.identity, "chunk": self.size, "floats": self.form.floats}

    def __len__(self) -> int:
        return len(self.conditions)

    @property
    def count(self) -> int:
        """The number of chunks that there are to be."""
        return -(-len(self) // self.size)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """The samples first <= i < last of a chunk."""
        return chunk * self.size, min((chunk + 1) * self.size, len(self))

    def file(self, chunk: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"chunk_{chunk:06d}.npy"

    def begin(self, anew: bool = False) -> list[int]:
        """Make the folder; the chunks that are missing. anew: forget what is there."""
        if anew and self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for left_over in self.folder.glob(".*.tmp"):
            left_over.unlink()
        text = json.dumps(self._manifest(), indent=1, sort_keys=True) + "\n"
        write_atomic(self.folder / MANIFEST, text)
        return [chunk for chunk in range(self.count) if not self._is_whole(chunk)]

    def _is_whole(self, chunk: int) -> bool:
        """A chunk appears when it is complete, but may have been the short last one of a smaller `num`."""
        first, last = self.bounds(chunk)
        try:
            return map_array(self.file(chunk)).shape[:1] == (last - first,)
        except ValueError:
            return False

    def make(
        self, generator: Generator, seed: int, missing: list[int], world: World, stop: Callable[[], bool]
    ) -> Iterator[int]:
        """Make the missing chunks, the processes in turn; yields how many samples all of them made in a turn.

        Every process has to go through it to the end. Raises StoppedError when `stop()` says so in any process.
        """
        for turn in range(0, len(missing), world.size):
            if world.any(stop())[0]:
                raise StoppedError
            with together(world):
                for chunk in missing[turn + world.rank : turn + world.rank + 1]:
                    first, last = self.bounds(chunk)
                    media = generator.one_batch(self.conditions[first:last], seed, first)
                    self._write(chunk, self.form.store(media))
            yield sum(self.bounds(chunk)[1] - self.bounds(chunk)[0] for chunk in missing[turn : turn + world.size])
        world.barrier()

    def _write(self, chunk: int, media: Tensor) -> None:
        content = io.BytesIO()
        np.save(content, media.numpy())
        write_atomic(self.file(chunk), content.getvalue())

    def read(self, first: int, last: int) -> Tensor:
        """The samples first <= i < last, (B, *media) as extractors are given them; their chunks must be there."""
        parts = []
        for chunk in range(first // self.size, -(-last // self.size)):
            start = chunk * self.size
            array = map_array(self.file(chunk))
            parts.append(torch.from_numpy(np.array(array[max(first - start, 0) : last - start])))
        return self.form.load(torch.cat(parts))

    def remove(self) -> None:
        """Remove the samples."""
        shutil.rmtree(self.folder)


class ChunkMedia(Media):
    """The media in chunks that are all there; their labels are the conditions, where these are classes (n,)."""

    kind = "samples"

    def __init__(self, chunks: Chunks, name: str, unit: str):
        self.chunks, self.name, self.unit = chunks, name, unit
        self.labels = Requests.of(chunks.conditions).labels

    def __len__(self) -> int:
        return len(self.chunks)

    def rows(self, first: int, last: int) -> Tensor:
        """(B, *media), as the form gives them back."""
        return self.chunks.read(first, last)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the protocol that made them."""
        return json_sha256(self.chunks.identity)

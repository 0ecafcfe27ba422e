"""Generated images on the disk, a file for each batch, so that a long evaluation goes on where it was stopped.

    <folder>/manifest.json     the protocol that the images were made by
    <folder>/chunk_000000.npy  samples 0..B-1: uint8 (B, C, H, W), or float32 media in [-1, 1]; chunk_000001.npy ...

A chunk is what one process makes at once, and depends on (seed, first sample, B) and the weights only: an interrupted
evaluation, and one on another number of processes, leaves the same bytes.

Letters: n samples, B samples of a chunk, C channels, H height, W width.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.checkpoint import write_atomic
from core.distributed import World
from core.draws import SampleRandom
from core.generate import Generator, StoppedError
from core.pixels import to_uint8
from core.provenance import json_sha256
from image.collection import Images

MANIFEST = "manifest.json"
IDENTITY_DIGITS = 16  # of the protocol's hash, in the folder's name


class ChunkGenerator(Generator):
    """A generator that makes one batch anywhere among the samples, in this process alone."""

    @classmethod
    def of(cls, generator: Generator) -> ChunkGenerator:
        """The same components."""
        return cls(**{field.name: getattr(generator, field.name) for field in fields(generator)})

    def chunk(self, condition: Tensor, seed: int, first: int) -> Tensor:
        """Media (B, C, H, W) on the CPU of the samples first, first + 1, ... with conditions (B,)."""
        indices = range(first, first + len(condition))
        device = self.world.device
        return self._batch(condition.to(device), SampleRandom(seed, indices, device)).cpu()


@dataclass(frozen=True)
class Chunks:
    """The chunks of one protocol.

    parent    folder of the chunks of all protocols
    identity  all that decides a sample, and the size of a chunk; a larger `num` goes on with what is there
    labels    (n,) of the samples that are wanted
    size      samples of a chunk
    floats    keep media as float32; otherwise as uint8
    """

    parent: Path
    identity: dict[str, Any]
    labels: Tensor
    size: int
    floats: bool = False

    @property
    def folder(self) -> Path:
        """Where the chunks are; another protocol has another folder."""
        return self.parent / f"samples_{json_sha256(self._manifest())[:IDENTITY_DIGITS]}"

    def _manifest(self) -> dict[str, Any]:
        return {"schema_version": 1, "protocol": self.identity, "chunk": self.size, "floats": self.floats}

    @property
    def count(self) -> int:
        """How many chunks there are to be."""
        return -(-len(self.labels) // self.size)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """The samples first <= i < last of a chunk."""
        return chunk * self.size, min((chunk + 1) * self.size, len(self.labels))

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
            return len(np.load(self.file(chunk), mmap_mode="r")) == last - first
        except (OSError, ValueError):
            return False

    def make(
        self, generator: Generator, seed: int, missing: list[int], world: World, stop: Callable[[], bool]
    ) -> Iterator[int]:
        """Make the missing chunks, the processes in turn; yields how many samples all of them made in a turn.

        Every process has to go through it to the end. Raises StoppedError when `stop()` says so in any process.
        """
        maker = ChunkGenerator.of(generator)
        for turn in range(0, len(missing), world.size):
            if world.any(stop())[0]:
                raise StoppedError
            for chunk in missing[turn + world.rank : turn + world.rank + 1]:
                first, last = self.bounds(chunk)
                media = maker.chunk(self.labels[first:last], seed, first)
                self._write(chunk, media if self.floats else to_uint8(media))
            yield sum(self.bounds(chunk)[1] - self.bounds(chunk)[0] for chunk in missing[turn : turn + world.size])
        world.barrier()

    def _write(self, chunk: int, images: Tensor) -> None:
        content = io.BytesIO()
        np.save(content, images.numpy())
        write_atomic(self.file(chunk), content.getvalue())

    def remove(self) -> None:
        """Remove the samples."""
        shutil.rmtree(self.folder)


class ChunkImages(Images):
    """The images in chunks that are all there."""

    kind = "samples"

    def __init__(self, chunks: Chunks, name: str):
        self.chunks, self.name, self.labels = chunks, name, chunks.labels

    def __len__(self) -> int:
        return len(self.chunks.labels)

    def rows(self, first: int, last: int) -> Tensor:
        """uint8, or float32 media in [-1, 1]; (B, C, H, W)."""
        size, parts = self.chunks.size, []
        for chunk in range(first // size, -(-last // size)):
            start = chunk * size
            array = np.load(self.chunks.file(chunk), mmap_mode="r")
            parts.append(torch.from_numpy(np.array(array[max(first - start, 0) : last - start])))
        return torch.cat(parts)

    @cached_property
    def sha256(self) -> str:
        """Of the protocol that made them."""
        return json_sha256(self.chunks.identity)

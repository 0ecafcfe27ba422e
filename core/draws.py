"""Counter-based randomness: every draw is a pure function of (seed, what it is for).

A training run draws from `StepRandom` (seed, step, stream name), a sampler from `SampleRandom` (seed, sample index,
stream name). There is no generator state to save, so a resumed run and an uninterrupted one cannot differ, and neither
the number of processes nor the batch size of a sampler changes what a sample sees.

Letters: B rows of this process's batch, G rows of the global batch.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


def fold_seed(*parts: int | str) -> int:
    """A 63-bit seed from integers and names; stable across platforms and Python versions."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_rng(*parts: int | str) -> np.random.Generator:
    """A NumPy generator seeded by `fold_seed(*parts)`."""
    return np.random.default_rng(fold_seed(*parts))


@contextlib.contextmanager
def seeded_weights(*parts: int | str) -> Iterator[None]:
    """Modules made inside get weights that are a function of `parts`; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(*parts))
        yield


class Random(Protocol):
    """Named streams of random numbers, one row per sample of the batch."""

    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers of `shape`, whose first axis is the batch."""
        ...

    def uniform(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        """Uniform numbers in [0, 1) of `shape`, whose first axis is the batch."""
        ...


@dataclass(frozen=True)
class StepRandom:
    """The random numbers of one optimizer step.

    Each stream is drawn for the global batch of G rows and cut to this process's rows, so that the same global batch
    has the same noise on one process and on many.
    """

    seed: int
    step: int
    device: torch.device | str = "cpu"
    global_rows: int | None = None
    first_row: int = 0

    def _draw(self, draw, stream: str, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(fold_seed(self.seed, self.step, stream))
        end = self.first_row + shape[0]
        rows = self.global_rows if self.global_rows is not None else end
        if end > rows:
            raise ValueError(f"rows {self.first_row} to {end} of a global batch of {rows} do not exist")
        return draw((rows, *shape[1:]), generator=generator, device=self.device)[self.first_row : end]

    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers (B, ...) of this step's `stream`."""
        return self._draw(torch.randn, stream, shape)

    def uniform(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        """Uniform numbers (B, ...) in [0, 1) of this step's `stream`."""
        return self._draw(torch.rand, stream, shape)


class SampleRandom:
    """The random numbers of the samples `indices`: row i depends on (seed, indices[i], stream) only.

    Drawn on the CPU and moved, so that a sample is the same on every device. A stream called again continues, as an SDE
    solver needs.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu"):
        self.seed, self.indices, self.device = seed, list(indices), device
        self._generators: dict[str, list[torch.Generator]] = {}

    def _draw(self, draw, stream: str, shape: tuple[int, ...]) -> Tensor:
        if shape[0] != len(self.indices):
            raise ValueError(f"asked for {shape[0]} rows of noise for {len(self.indices)} samples")
        if stream not in self._generators:
            seeds = [fold_seed(self.seed, "sample", index, stream) for index in self.indices]
            self._generators[stream] = [torch.Generator().manual_seed(seed) for seed in seeds]
        rows = [draw(shape[1:], generator=generator) for generator in self._generators[stream]]
        return torch.stack(rows).to(self.device)

    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        """The next standard normal numbers (B, ...) of `stream`."""
        return self._draw(torch.randn, stream, shape)

    def uniform(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        """The next uniform numbers (B, ...) in [0, 1) of `stream`."""
        return self._draw(torch.rand, stream, shape)

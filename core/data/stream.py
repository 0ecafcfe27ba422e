"""A stream of samples that is a pure function of (seed, position), and the loader that reads it from any step on.

Position p belongs to epoch p // len(dataset); its order and its augmentation come from (seed, epoch) and (seed, p). So
a run resumes by starting at a position: there is no loader state, and the number of workers or processes changes
nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from core.contracts import Batch, Dataset, stack
from core.data.pixels import from_uint8
from core.draws import numpy_rng
from core.processes.signals import WorkerShield
from core.processes.workers import LoaderWorkers

MOST_WORKERS = 1024  # processes that read media for one process; more would only take the machine's memory


def check_workers(key: str, count: int | None) -> None:
    """Raises ValueError for more processes of a data loader than a machine can start."""
    if count is not None and count > MOST_WORKERS:
        raise ValueError(f"{key} is {count}; it must be {MOST_WORKERS} at most")


class SampleStream(TorchDataset):
    """The endless, shuffled, augmented sequence of a data set's samples."""

    def __init__(self, dataset: Dataset, seed: int):
        if len(dataset) == 0:
            raise ValueError("the data set is empty")
        self.dataset, self.seed = dataset, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def index(self, position: int) -> int:
        """The row of the data set at `position`; each epoch visits every row once."""
        epoch, offset = divmod(position, len(self.dataset))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = numpy_rng(self.seed, "order", epoch).permutation(len(self.dataset))
        return int(self._order[offset])

    def __getitem__(self, position: int) -> dict[str, Any]:
        index = self.index(position)
        read = getattr(self.dataset, "stored", self.dataset.item)
        return {**read(index, numpy_rng(self.seed, "augment", position)), "index": index}

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]] | Batch:
        """The samples at `positions` as `collate` takes them; at once where the data set has `items`."""
        items = getattr(self.dataset, "items", None)
        if items is None:
            return [self[position] for position in positions]
        indices = np.array([self.index(position) for position in positions])
        rngs = (numpy_rng(self.seed, "augment", position) for position in positions)
        return Batch(**items(indices, rngs), index=torch.from_numpy(indices))


@dataclass(frozen=True)
class StepPositions(Sampler):
    """The positions of each step's batch: this process's rows of the global batch.

    first_step, last_step   steps first_step <= step < last_step
    global_batch            samples of one step over all processes
    rows                    this process's part of them, (first, last)
    """

    first_step: int
    last_step: int
    global_batch: int
    rows: tuple[int, int]

    def __iter__(self) -> Iterator[list[int]]:
        first, last = self.rows
        for step in range(self.first_step, self.last_step):
            start = step * self.global_batch
            yield list(range(start + first, start + last))

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step)


def collate(items: list[dict[str, Any]] | Batch) -> Batch:
    """Stack samples into a Batch, or take the one they already are; refuses a sample whose mask leaves nothing."""
    batch = items if isinstance(items, Batch) else _stack(items)
    if batch.mask is not None:
        for index in batch.index[~batch.mask.flatten(1).any(1)].tolist():
            raise ValueError(f"sample {index} of the data set is masked as a whole")
    return batch


def _stack(items: list[dict[str, Any]]) -> Batch:
    return Batch(
        media=stack([item["media"] for item in items]),
        condition=stack([item["condition"] for item in items]),
        index=stack([item["index"] for item in items]),
        mask=stack([item.get("mask") for item in items]),
    )


def on_device(batch: Batch, device: torch.device | str) -> Batch:
    """The batch on another device, where media that came as bytes, a quarter of the size, become floats in [-1, 1]."""
    moved = batch.to(device)
    return replace(moved, media=from_uint8(moved.media)) if moved.media.dtype == torch.uint8 else moved


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """What tells a data set from another, as JSON: a cache and a checkpoint keep it, a mismatch can be named.

    length, num_classes; classes_sha256 of the names; labels_sha256 of all rows' labels in order, null where the data
    set has no `labels`; instead of these, conditions_sha256 where the conditions of its rows are no classes. A data set
    and its latent cache have the same. It does not look into the media, so that it
    costs milliseconds: other media under the same labels pass.
    """
    labels = getattr(dataset, "labels", None)
    if labels is not None:
        labels = np.ascontiguousarray(labels, dtype="<i8")
    return {
        "length": len(dataset),
        "num_classes": len(dataset.class_names),
        "classes_sha256": hashlib.sha256(json.dumps(list(dataset.class_names)).encode()).hexdigest(),
        "labels_sha256": None if labels is None else hashlib.sha256(labels).hexdigest(),
    } | ({} if labels is not None else _conditions_sha256(dataset))


def _conditions_sha256(dataset: Dataset) -> dict[str, str]:
    conditions = getattr(dataset, "conditions", None)
    if conditions is None:
        return {}
    return {"conditions_sha256": hashlib.sha256(np.ascontiguousarray(conditions)).hexdigest()}


def step_batches(
    dataset: Dataset,
    seed: int,
    positions: StepPositions,
    num_workers: int,
    pin: bool,
    workers: LoaderWorkers | None = None,
) -> Iterator[Batch]:
    """Batches of the steps in `positions`, in order; an error of the data set comes as it was, from a worker too.

    Media may be bytes, of a data set that has `stored`: `on_device` makes them floats.

    workers  watches the processes that read, for who wants to tell that one of them was killed
    """
    shield = WorkerShield() if num_workers else None
    loader = DataLoader(
        SampleStream(dataset, seed),
        batch_sampler=positions,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin,
        persistent_workers=False,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=shield,
    )
    try:
        yield from (workers or LoaderWorkers()).read(loader)
    finally:
        if shield is not None:
            shield.lower()

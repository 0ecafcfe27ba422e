"""A stream of samples that is a pure function of (seed, position), and the loader that reads it from any step on.

Position p belongs to epoch p // len(dataset); its order and its augmentation come from (seed, epoch) and (seed, p). So
a run resumes by starting at a position: there is no loader state, and the number of workers or processes changes
nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from core.contracts import Batch, Dataset
from core.draws import numpy_rng


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
        item = self.dataset.item(index, numpy_rng(self.seed, "augment", position))
        return {**item, "index": index}


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


def collate(items: list[dict[str, Any]]) -> Batch:
    """Stack samples into a Batch; refuses a sample whose mask leaves nothing."""
    masks = [item.get("mask") for item in items]
    for item, mask in zip(items, masks, strict=True):
        if mask is not None and not bool(mask.any()):
            raise ValueError(f"sample {item['index']} of the data set is masked as a whole")
    return Batch(
        media=torch.stack([item["media"] for item in items]),
        condition=torch.stack([torch.as_tensor(item["condition"]) for item in items]),
        index=torch.tensor([item["index"] for item in items]),
        mask=None if masks[0] is None else torch.stack(masks),
    )


def _leave_ctrl_c_to_the_loop(worker: int) -> None:
    """A terminal sends Ctrl-C to workers too; they must live until the loop has finished its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def step_loader(dataset: Dataset, seed: int, positions: StepPositions, num_workers: int, pin: bool) -> DataLoader:
    """Batches of the steps in `positions`, in order."""
    return DataLoader(
        SampleStream(dataset, seed),
        batch_sampler=positions,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin,
        persistent_workers=False,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=_leave_ctrl_c_to_the_loop if num_workers else None,
    )

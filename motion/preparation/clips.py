"""From takes to the clips of a folder, by any number of processes: the same bytes whenever it is stopped.

A clip's rows are written last, whole or not at all, so that a clip whose rows are there, and are not older than the
file of its take, is done.

Letters: F frames, J joints, C numbers of a row.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from core.processes.failures import LoaderError
from core.processes.signals import WorkerShield
from core.processes.workers import LoaderWorkers
from core.storage.atomic import write_atomic
from motion.body.placing import mirror, process
from motion.preparation.layout import Layout, mirror_name
from motion.preparation.takes import Motion, Segment, Source, Take, cut


@dataclass(frozen=True)
class Outcome:
    """What became of a clip: its rows, 0 where it is left out for a reason; a note of its take."""

    name: str
    rows: int
    reason: str = ""
    note: str = ""


class Preparation(TorchDataset):
    """Takes, each of which is read, cut, mirrored, given the bones of the reference, and written; see `run`.

    offsets  (J, 3) bones of the rest pose of all clips
    mirrors  whether each clip has a mirror
    """

    def __init__(self, source: Source, layout: Layout, offsets: Tensor, mirrors: bool):
        self.source, self.layout, self.offsets, self.mirrors = source, layout, offsets, mirrors
        names = {segment.name for take in source.takes for segment in take.segments}
        for name in sorted(names) if mirrors else ():
            if mirror_name(name) in names:
                raise ValueError(
                    f"{mirror_name(name)} is the name of the mirror of {name}; rename one, or mirror=false"
                )
        self.takes = [take for take in source.takes if self._missing(take)]

    def __len__(self) -> int:
        return len(self.takes)

    def __getitem__(self, index: int) -> list[Outcome]:
        """Make the clips of a take that are not there yet."""
        take = self.takes[index]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums in the same order, whoever makes them
        try:
            motion, missing = self.source.read(take), set(self._missing(take))
            return [each for segment in take.segments for each in self._segment(motion, segment, missing)]
        except ValueError as error:
            return [Outcome(name, 0, str(error)) for name in self._missing(take)]
        finally:
            torch.set_num_threads(threads)

    def _names(self, take: Take) -> list[str]:
        names = [segment.name for segment in take.segments]
        return [*names, *map(mirror_name, names)] if self.mirrors else names

    def _missing(self, take: Take) -> list[str]:
        """The clips of a take that are not there, or older than its file."""
        changed, missing = take.file.stat().st_mtime_ns, []
        for name in self._names(take):
            try:
                done = (self.layout.rows / f"{name}.npy").stat().st_mtime_ns >= changed
            except FileNotFoundError:
                done = False
            if not done:
                missing.append(name)
        return missing

    def _segment(self, motion: Motion, segment: Segment, missing: Container[str]) -> Iterator[Outcome]:
        """Each clip by itself: one that cannot be made is told, and the others are made."""
        variants: dict[str, Callable[[Tensor], Tensor]] = {segment.name: lambda clip: clip}
        if self.mirrors:
            variants[mirror_name(segment.name)] = lambda clip: mirror(clip, self.source.skeleton)
        for name, variant in variants.items():
            if name not in missing:
                continue
            try:
                rows, recovered = process(
                    variant(cut(motion.joints, segment)), self.offsets, self.source.skeleton, name
                )
                if not rows.isfinite().all():
                    raise ValueError("its rows are not finite")
            except ValueError as error:
                yield Outcome(name, 0, str(error))
                continue
            write_array(self.layout.joints / f"{name}.npy", recovered * self.source.skeleton.units)
            write_array(self.layout.rows / f"{name}.npy", rows)
            yield Outcome(name, len(rows), note=motion.note)


def write_array(path: Path, array: Tensor | np.ndarray) -> None:
    """An .npy of float32, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(np.asarray(array), dtype=np.float32))
    write_atomic(path, buffer.getvalue())


def run(preparation: Preparation, num_workers: int) -> Iterator[list[Outcome]]:
    """Make all clips, giving what became of each take's as it comes; LoaderError where a process was killed."""
    shield = WorkerShield() if num_workers else None
    loader = DataLoader(
        preparation, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is, worker_init_fn=shield
    )
    workers = LoaderWorkers()
    try:
        with workers.told(_killed):
            yield from workers.read(loader)
    finally:
        if shield is not None:
            shield.lower()


def _as_it_is(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    return outcomes


def _killed(error: Exception) -> LoaderError:
    return LoaderError(
        "a process that prepares clips was killed (memory? num_workers=... starts fewer); the same command continues"
    )

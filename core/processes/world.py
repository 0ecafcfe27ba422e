"""The processes of one job: who they are, what they tell each other, and the device each works on.

`torchrun --nproc-per-node=N -m image.train ...` (or any launcher that sets RANK, WORLD_SIZE and LOCAL_RANK) starts N
processes of the same command; without one there is a single process, and every method here is then a plain call. What
is small goes over gloo on the CPU, tensors of a GPU over nccl.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from core.processes.failures import LostPeerError
from core.processes.starting import STOP_SIGNALS, end

T = TypeVar("T")
log = logging.getLogger(__name__)

# How long a process waits for the others. The main process may evaluate alone meanwhile; when a process dies, its
# launcher ends the others.
PATIENCE = datetime.timedelta(hours=2)
REST, LETTING_GO = 0.03, 5.0  # seconds: between two looks at gloo's threads, and for which they are waited for at most
# What an operation on the main process may fail with; it is reported to the others, who would be left to wait.
REPORTED = (ValueError, OSError, ImportError, RuntimeError, ArithmeticError)


class PeerError(RuntimeError):
    """Another process of the job failed, and says why itself."""


@dataclass(frozen=True)
class Place:
    """This process among those of its launcher: its number, how many there are, its number on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Place:
        """RANK, WORLD_SIZE and LOCAL_RANK as torchrun sets them; the only process where they are absent."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        return cls(*(int(os.environ.get(name, default)) for name, default in zip(names, (0, 1, 0), strict=True)))


@dataclass(frozen=True)
class World:
    """The processes of a job as one of them sees it; `World()` is the only process."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009, immutable

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and speaks."""
        return self.rank == 0

    def rows(self, total: int) -> tuple[int, int]:
        """This process's part of `total` rows, (first, last); the parts differ by one row at most."""
        return part(total, self.size, self.rank)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process; the same answer in all."""
        if self.size == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return [bool(value) for value in values]

    def any_on_device(self, flag: torch.Tensor) -> torch.Tensor:
        """A flag, 0 or 1 in a scalar of this process's device, as 1 where it is in any process; nobody reads it."""
        if self.size > 1:
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        return flag

    def mean(self, values: list[float], weight: float) -> list[float]:
        """Sum over processes of weight * value, for each value: a weighted mean when the weights add up to 1."""
        if self.size == 1:
            return values
        summed = torch.tensor(values, dtype=torch.float64) * weight
        dist.all_reduce(summed)
        return summed.tolist()

    def gather(self, item: T) -> list[T] | None:
        """Every process's item in the order of ranks, in the main process; None in the others."""
        if self.size == 1:
            return [item]
        items: list[T] | None = [None] * self.size if self.is_main else None
        dist.gather_object(item, items)
        return items

    def on_main(self, function: Callable[[], T]) -> T:
        """What `function` gives in the main process, in every process; what it raises ends all of them.

        The main process raises the error itself, the others PeerError, so that it is told once.
        """
        if self.size == 1:
            return function()
        answer: list[Any] = [None, None]
        error: BaseException | None = None
        if self.is_main:
            try:
                answer[0] = function()
            except REPORTED as raised:
                error, answer[1] = raised, f"{type(raised).__name__}: {raised}"
        dist.broadcast_object_list(answer)
        if error is not None:
            raise error
        if answer[1] is not None:
            raise PeerError(answer[1])
        return answer[0]

    def first_on_main(self, make: Callable[[], T]) -> T:
        """What `make` gives, made by every process for itself: in the main process first, then in the others.

        What it refuses is told once, and files that it leaves for later (caches) are there for the others.
        """
        made: list[T] = []
        self.on_main(lambda: made.append(make()))
        return made[0] if made else make()

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.any(False)


def part(total: int, parts: int, number: int) -> tuple[int, int]:
    """Part `number` of `total` rows cut into near-equal contiguous parts, (first, last)."""
    return number * total // parts, (number + 1) * total // parts


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of the config key `device`; auto takes an accelerator where there is one.

    Processes of one machine take its GPUs in order; a launcher may also show each process only its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; allowed: auto, cpu, cuda, cuda:N") from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but PyTorch sees no CUDA device here")
    if device.index is None and local_rank:
        count = torch.cuda.device_count()
        if 1 < count <= local_rank:
            raise ValueError(f"device is {name!r}: process {local_rank} of this machine has no GPU, there are {count}")
        device = torch.device("cuda", local_rank if count > 1 else 0)
    return device


@contextlib.contextmanager
def joined(device_name: str) -> Iterator[World]:
    """The world of this process, on the device of the config key `device`; leaves it at the end.

    After an error nothing is waited for: the launcher ends the other processes, or they find out. Raises LostPeerError
    when one of them has ended.
    """
    place = Place.from_environment()
    device = pick_device(device_name, place.local_rank)
    if device.index is not None:  # without one it is the present device already
        torch.cuda.set_device(device)
    if place.size == 1:
        yield World(device=device)
        return
    if device.type == "cuda" and device_name not in ("auto", "cuda"):
        raise ValueError(f"device is {device_name!r}, but {place.size} processes run; allowed then: auto, cpu, cuda")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        with _ended_while_waiting():
            dist.init_process_group(backend, timeout=PATIENCE)
        yield World(place.rank, place.size, device)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):  # gloo's own have no class
            reason = str(error).splitlines()[0]
            raise LostPeerError(f"another process of the job has ended, and this one with it: {reason}") from error
        raise
    finally:
        _wait_for_gloo()
    dist.destroy_process_group()


def _wait_for_gloo() -> None:
    """Wait until gloo's threads sleep: they give back the tensors of the last exchange, and need Python's lock for it.

    DDP's destructor would hold that lock while it waits for them, for ever; and Python ends a thread that asks for the
    lock of an interpreter that is going down, which C++ takes for a crash (SIGABRT). A thread that waits for the lock
    wakes every 5 ms, so one that slept between two looks has none to wait for.
    """
    seen, deadline = None, time.monotonic() + LETTING_GO
    while time.monotonic() < deadline:
        time.sleep(REST)  # without the lock
        now = _gloo_threads()
        if now == seen and all(state == "S" for state, _ in now):
            return
        seen = now


def _gloo_threads() -> list[tuple[str, str]]:
    """Of each of gloo's threads its state and how often it has been switched; none where there is no /proc."""
    found = []
    for file in Path("/proc/self/task").glob("*/status"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            lines = dict(line.split(":\t", 1) for line in file.read_text().splitlines() if ":\t" in line)
            if "gloo" in lines["Name"]:
                found.append((lines["State"][0], lines["voluntary_ctxt_switches"]))
    return found


@contextlib.contextmanager
def _ended_while_waiting() -> Iterator[None]:
    """Around a call that waits for other processes outside of Python, where no handler runs: stop signals end it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    threading.Thread(target=_end_by, args=(reading,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


def _end_by(reading: int) -> None:
    """End this process by the first stop signal whose number comes through a pipe, or return when that is closed."""
    while number := os.read(reading, 1):
        if number[0] in STOP_SIGNALS:
            end(number[0], None)
    os.close(reading)

"""Asking a run to stop: Ctrl-C, SIGTERM and SLURM's warning SIGUSR2 set a flag that the loop reads between two steps.

A stopped run has saved its state and exits with 128 + the signal's number, as a shell counts: 130 for Ctrl-C, 143 for
SIGTERM, 140 for SIGUSR2. Outside the loop they end a command at once, with the same numbers.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from core.processes.starting import STOP_SIGNALS, end
from core.processes.world import Place

ECHO = 1.0  # seconds in which a second Ctrl-C is torchrun's, which passes on what the terminal has sent already


class StopRequest:
    """Inside the block, a stop signal is remembered instead of ending the process; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._pressed: float | None = None
        self._before: dict[signal.Signals, object] = {}

    def __bool__(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal received; of SIGTERM where another process was told."""
        return 128 + (self.received or signal.SIGTERM)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers nowhere else
            self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None or number == signal.SIGUSR2:  # a preemption may be told by SIGTERM first
            self.received = signal.Signals(number)
        if number != signal.SIGINT:
            return
        now, echo = time.monotonic(), ECHO if Place.from_environment().size > 1 else 0.0
        if self._pressed is not None and now - self._pressed >= echo:
            raise KeyboardInterrupt
        self._pressed = now


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside the block a stop signal raises SystemExit with 128 + its number, Ctrl-C KeyboardInterrupt as always.

    What is half done is cleaned up. Handlers of somebody else's, of submitit for one, stay.
    """
    before: dict[int, object] = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, end):
                handler = signal.default_int_handler if number == signal.SIGINT else _exit
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


class WorkerShield:
    """Keeps a loader's workers alive when a terminal or a scheduler sends its signals to all processes of a job.

    They must live until the loop has finished its step. Once the shield is lowered, at the latest when the program
    ends, a worker that is told to end does: PyTorch and Python do so with SIGTERM. It is a DataLoader's worker_init_fn.
    """

    def __init__(self) -> None:
        self._up = multiprocessing.RawValue("b", 1)  # shared with the workers, and without a lock
        atexit.register(self.lower)

    def lower(self) -> None:
        """From now on signals end the workers."""
        self._up.value = 0
        atexit.unregister(self.lower)

    def __call__(self, worker: int) -> None:
        """Take the signals of this process, a worker."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._up.value:
            os._exit(128 + number)

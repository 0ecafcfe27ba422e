"""Stop signals before a command can do anything about them: in the seconds in which it imports PyTorch.

The packages of the commands import it first of all, so it needs the standard library alone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


def answer_signals() -> None:
    """From now on a stop signal ends a command with 128 + its number, as it does later; not killed, as by default.

    Only in a process that `python -m` has just begun: one that imports us for itself keeps its handlers.
    """
    if sys.argv[:1] == ["-m"]:
        atexit.register(_stay)  # the first that is registered is the last that is called
        for number in STOP_SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, end)


def _stay() -> None:
    """While Python takes its modules apart it has no handlers: a second SIGTERM would replace the exit code."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)


def end(number: int, frame: FrameType | None) -> None:
    """End this process at once: it has written nothing, and an exception would be lost inside an import."""
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n" if number == signal.SIGINT else b"stopped before it began\n")
    os._exit(128 + number)

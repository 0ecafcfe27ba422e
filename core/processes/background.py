"""Work beside the loop: one piece at a time, in a thread, whose failure is told where the loop asks for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for


class AbandonedError(Exception):
    """Raised inside work that nobody waits for any more."""


class Background:
    """A thread for one piece of work at a time; once a piece has failed there is no other.

    It is a thread and no process: hashing, writing and comparing let go of Python's lock, and memory is not copied.
    """

    def __init__(self, name: str):
        self.name = name
        self._abandoned = threading.Event()
        self._work: Future | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Begin, once what was begun before is done; raises what that has failed with."""
        self.wait()
        threads = ThreadPoolExecutor(1, thread_name_prefix=self.name)
        self._work = threads.submit(work)
        threads.shutdown(wait=False)  # the thread ends with its work

    @property
    def failed(self) -> bool:
        """Whether the last piece of work has ended with an error."""
        work = self._work
        return work is not None and work.done() and work.exception() is not None

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return self._work is not None and not self._work.done()

    def wait(self) -> None:
        """Return when nothing is under way; raises what the last piece has failed with, each time."""
        if self._work is not None:
            self._work.result()

    def settle(self) -> BaseException | None:
        """Wait, and give what the last piece has failed with instead of raising it."""
        return None if self._work is None else self._work.exception()

    def check(self) -> None:
        """For work to call: raises AbandonedError once it is abandoned."""
        if self._abandoned.is_set():
            raise AbandonedError(f"{self.name} was abandoned")

    def abandon(self, patience: float) -> None:
        """Let the work end where it next checks; waits for that, but `patience` seconds at most."""
        self._abandoned.set()
        if self._work is not None:
            wait_for([self._work], timeout=patience)

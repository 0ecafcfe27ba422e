"""The worker processes of a data loader: those that were killed are told as such, wherever the error appears."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any

from core.processes.failures import LoaderError, RunError, is_dead_worker, undo_worker_wrapping

LAST_BREATH = 10.0  # seconds; a process of much memory on a busy machine is not gone at once
TORCH_HANDLERS = "torch.utils.data._utils.signal_handling"


class LoaderWorkers:
    """Watches the workers of one pass over a DataLoader.

    PyTorch's own handler of SIGCHLD raises an error wherever the main process happens to be, also between the two
    halves of a record, or where the lock of `logging` would be given back. It is taken away: that a worker is dead
    shows when its next batch is waited for, within PyTorch's five seconds. An error that comes of it in another guise,
    a connection that was reset for one, is known by asking the processes.
    """

    def __init__(self) -> None:
        self._processes: list[Any] = []
        self._killed = False

    def read(self, loader: Iterable) -> Iterator:
        """The batches of `loader`, whose workers are watched until the last one was taken or an error came.

        An error of the data set comes as it was, from a worker too.
        """
        before = set(multiprocessing.active_children())
        with _no_handler_of_torch():
            batches = iter(loader)
        self._processes = [child for child in multiprocessing.active_children() if child not in before]
        try:
            yield from batches
        except (Exception, GeneratorExit) as error:  # of the loader, or of who takes the batches
            self._killed = self._find_killed(error)  # before the loader ends those that are left
            original = undo_worker_wrapping(error)
            if original is error:
                raise
            raise original from error
        finally:
            self._processes = []  # how they end now is the loader's doing

    @contextlib.contextmanager
    def told(self, error_of: Callable[[Exception], LoaderError]) -> Iterator[None]:
        """Inside the block, an error whose reason is a killed worker becomes `error_of` it; an error of ours stays."""
        try:
            yield
        except RunError:
            raise
        except Exception as error:
            if is_dead_worker(error) or self._killed or self._find_killed(error):
                raise error_of(error) from error
            raise

    def _find_killed(self, error: BaseException) -> bool:
        if self._processes and isinstance(error, ConnectionError | EOFError):  # a process goes after its connections
            ended = wait([process.sentinel for process in self._processes], timeout=LAST_BREATH)
            for process in self._processes:
                if process.sentinel in ended:  # which is closed a moment before there is an exit code
                    process.join(LAST_BREATH)
        return any(process.exitcode not in (None, 0) for process in self._processes)


@contextlib.contextmanager
def _no_handler_of_torch() -> Iterator[None]:
    """Inside the block PyTorch may install its handler of SIGCHLD, which is gone after it."""
    if threading.current_thread() is not threading.main_thread():  # PyTorch installs it there alone
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if getattr(before, "__module__", None) == TORCH_HANDLERS:  # of a loader that was not read here
        before = signal.SIG_DFL
    signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)

"""The worker processes of a data loader: those that were killed are told as such, wherever the error appears."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from core.processes.failures import LoaderError, RunError, is_dead_worker


class LoaderWorkers:
    """Watches the workers of one pass over a DataLoader.

    PyTorch tells of a worker that was killed by an error raised in a signal handler, so wherever the main process
    happens to be; C++ code that is interrupted there replaces it by an error of its own. So the processes are asked.
    """

    def __init__(self) -> None:
        self._processes: list[Any] = []
        self._killed = False

    def read(self, loader: Iterable) -> Iterator:
        """The batches of `loader`, whose workers are watched until the last one was taken or an error came."""
        before = set(multiprocessing.active_children())
        batches = iter(loader)
        self._processes = [child for child in multiprocessing.active_children() if child not in before]
        try:
            yield from batches
        except (Exception, GeneratorExit):  # an error of the loader, or one of who takes the batches
            self._killed = self._find_killed()  # before the loader ends those that are left
            raise
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
            if is_dead_worker(error) or self._killed or self._find_killed():
                raise error_of(error) from error
            raise

    def _find_killed(self) -> bool:
        return any(process.exitcode not in (None, 0) for process in self._processes)

"""Commands as processes of their own, a few at a time, ended in an orderly way when this process is told to stop."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.processes.failures import RunError
from core.processes.signals import STOP_SIGNALS, StopRequest
from core.storage.run_folder import RunDirectory

REST = 0.1  # seconds between two looks at the processes
STOPPED = tuple(128 + number for number in STOP_SIGNALS)


@dataclass(frozen=True)
class QueuedRun:
    """A run to make: its name, its folder, and the arguments of the Python interpreter."""

    name: str
    path: Path
    arguments: tuple[str, ...]


class RunQueue:
    """Makes runs, `parallel` at a time.

    What a run prints goes to <logs>/<name>.log; of a single one at a time, its progress bar to the terminal.

    deadline   time.monotonic() at which what still runs is told to stop and nothing more is begun; None: never
    forgiving  whether the others go on when a run fails; `failed` has the last words of each that did
    """

    def __init__(
        self,
        logs: Path,
        parallel: int,
        show: Callable[[str], None],
        deadline: float | None = None,
        forgiving: bool = False,
    ):
        self.logs, self.parallel, self.show = logs, parallel, show
        self.deadline, self.forgiving = deadline, forgiving
        self.failed: dict[str, str] = {}
        self.running: dict[QueuedRun, tuple[subprocess.Popen, float]] = {}

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self.deadline is not None and self.deadline <= time.monotonic()

    def make(self, jobs: Sequence[QueuedRun]) -> bool:
        """Make all runs; False when the time was over before. Exits as a run does when told to stop.

        Raises RunError naming the first that failed, unless the queue is forgiving.
        """
        waiting = list(jobs)
        with StopRequest() as stop:
            try:
                while (waiting or self.running) and not stop and not self.is_over:
                    while waiting and len(self.running) < self.parallel and self._start(waiting[0], stop):
                        waiting.pop(0)
                    self._look()
                    time.sleep(REST)
            finally:
                left = bool(waiting or self.running)
                self._end()
            if stop:
                self.show("stopped; the same command continues")
                raise SystemExit(stop.exit_code)
        return not left

    def _start(self, job: QueuedRun, stop: StopRequest) -> bool:
        """Begin a run; False when it is told to stop, or the time is over, before.

        One that another process writes (a child of a killed comparison, say) is waited for.
        """
        run = RunDirectory(job.path)
        if run.path.is_dir() and run.is_locked():
            self.show(f"{job.name}: another process is at it, waiting for it")
            while run.is_locked() and not stop and not self.is_over:
                time.sleep(REST)
        if stop or self.is_over:
            return False
        self.logs.mkdir(parents=True, exist_ok=True)
        alone = self.parallel == 1
        with (self.logs / f"{job.name}.log").open("a") as log:
            command = [sys.executable, *job.arguments]
            process = subprocess.Popen(command, stdout=log, stderr=None if alone else log, stdin=subprocess.DEVNULL)
        self.running[job] = (process, time.perf_counter())
        return True

    def _look(self) -> None:
        """Take what has ended out of the running ones."""
        for job, (process, begun) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[job]
            if code in STOPPED:
                self.show(f"{job.name} was stopped; the same command continues")
                raise SystemExit(code)
            if code != 0 and self.forgiving:
                self.failed[job.name] = self._last_words(job)
                self.show(f"{job.name} failed: {self.failed[job.name]}")
                continue
            if code != 0:
                raise RunError(f"{job.name} ended with exit code {code}: {self._last_words(job)}")
            self.show(f"{job.name}: done in {time.perf_counter() - begun:.0f} s")

    def _last_words(self, job: QueuedRun) -> str:
        file = self.logs / f"{job.name}.log"
        lines = [line for line in file.read_text(errors="replace").splitlines() if line.startswith("error")]
        return lines[-1] if lines else f"see above, and {file}"

    def _end(self) -> None:
        """Tell what still runs to stop, and wait until it has saved its state."""
        for process, _ in self.running.values():
            process.terminate()
        for process, _ in self.running.values():
            process.wait()
        self.running.clear()

"""What a session writes into its run's folder beside checkpoints, and when.

Nothing is written before it is certain that the run goes on, config.yaml only once a step was made with it, and nothing
any more when the folder was taken from this process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from core.processes.world import World
from core.schema import plain
from core.storage.lines import JsonLines, lost_lines, read_lines
from core.storage.run_folder import RunDirectory
from core.train.config import RunConfig
from core.train.notes import note_session
from core.train.posthoc import drop_snapshots
from core.train.tracking import EVALUATIONS, METRICS, SESSIONS, SPEED, Tracker

T = TypeVar("T")
log = logging.getLogger(__name__)


class RunRecords:
    """The records of one run in one process; the main one writes.

    before  what the checkpoint that the run goes on from says of them (`facts`); None for a run that begins
    """

    def __init__(self, run: RunDirectory, config: RunConfig, world: World):
        self.run, self.config, self.world = run, config, world
        self.before: Mapping[str, Any] | None = None
        self.tracker: Tracker | None = None
        self.sessions: JsonLines | None = None
        self.evaluations: JsonLines | None = None
        self.bound = False  # once config.yaml is that of this session

    def write(self, function: Callable[[], T]) -> T:
        """What `function`, which writes in the folder, gives in the main process, in all of them. A collective.

        Raises LostFolderError when another process may write there.
        """

        def guarded() -> T:
            self.run.check_held()
            return function()

        return self.world.on_main(guarded)

    def open(self, step: int) -> None:
        """Begin a session after `step`: tell what was lost, and forget what will be made again. A collective."""
        self.write(lambda: self._open(step))
        if self.before is None:
            self.bind()

    def _open(self, step: int) -> None:
        folder, config = self.run.path, self.config
        tell_losses(folder, self.before, step)
        self.tracker = Tracker(folder, step, config.tracking, plain(config))
        if (folder / EVALUATIONS).exists():
            self.evaluations = JsonLines(folder / EVALUATIONS, step)
        drop_snapshots(self.run.snapshots, step)
        self.sessions = note_session(folder, step, config, self.world)

    def bind(self) -> None:
        """Let config.yaml be that of this session, once: it has made a step. A collective."""
        if not self.bound:
            self.bound = True
            self.write(lambda: self.run.write_config(plain(self.config)))

    def log(self, step: int, metrics: dict[str, float], speed: dict[str, float]) -> None:
        """Record a step, in the main process."""
        if self.tracker is not None:
            self.run.check_held()
            self.tracker.log(step, metrics, speed)

    def measured(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        """Record what samples of `step` measured, for the first time or again; in the main process."""
        self.run.check_held()
        self.evaluations = JsonLines(self.run.path / EVALUATIONS, step - 1)
        self.evaluations.write({"step": step, **metrics})
        self.evaluations.sync()
        return metrics

    def facts(self) -> dict[str, Any]:
        """Lines, bytes and SHA-256 of each record by its name, once they are on the disk; in the main process.

        Their steps will not be made again. May be called after `close`.
        """
        self.run.check_held()
        if self.tracker is None:
            return {}
        self.tracker.sync()
        lines = {METRICS: self.tracker.metrics, SPEED: self.tracker.speed, SESSIONS: self.sessions}
        lines |= {EVALUATIONS: self.evaluations} if self.evaluations is not None else {}
        return {name: each.facts() for name, each in lines.items()}

    def close(self) -> None:
        """Flush what is buffered and draw the loss curve, but not into a folder that was taken from this process."""
        if self.tracker is not None:
            self.tracker.close(draw=self.run.is_held())


def tell_losses(folder: Path, noted: Mapping[str, Any] | None, step: int) -> None:
    """Warn of lines that stood in the records at the checkpoint of `step`, and do no longer."""
    if noted is None:
        lines = len(read_lines(folder / METRICS))
        if lines:
            log.warning("%s has no checkpoint: it begins anew, and %d lines of %s are dropped", folder, lines, METRICS)
        return
    for name, facts in noted.items():
        lost = lost_lines(folder / name, facts, step)
        if lost is not None:
            log.warning("%s", lost)

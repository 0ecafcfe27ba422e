"""Stages under a budget of time: what still fits runs, what does not is recorded with the reason.

The record is written whole after every change, so that a run that is killed leaves what it had.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.storage.atomic import write_atomic

DONE, FAILED, SKIPPED, RUNNING, STOPPED = "done", "failed", "skipped", "running", "stopped"
Keep = Callable[[Mapping[str, Any]], None]


class Skip(Exception):  # noqa: N818, no error: the stage has nothing to measure
    """Raised in a stage that cannot run; the message is the reason that is recorded."""


class Budget:
    """Seconds that may be spent, counted from when it is made."""

    def __init__(self, seconds: float):
        self.seconds, self.ends = seconds, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left, negative when it is overdrawn."""
        return self.ends - time.monotonic()


@dataclass(frozen=True)
class Stage:
    """One part of a run. `run(keep)` returns its results and may hand in what it has so far; `needs` are the seconds
    below which it is not worth starting."""

    name: str
    needs: float
    run: Callable[[Keep], Mapping[str, Any]]


class Journal:
    """A record of `measure.record` and its file; its results are the stages by name, each with a status, the reason or
    the error of one that did not run to its end, its seconds and its own results."""

    def __init__(self, record: dict[str, Any], path: Path):
        self.record, self.path = record, path
        self.stages: dict[str, dict[str, Any]] = record["results"]
        self._lock = threading.RLock()
        self.write()

    def put(self, stage: str, **values: Any) -> None:
        """Set values of a stage and write the file."""
        with self._lock:
            self.stages.setdefault(stage, {}).update(values)
            self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        with self._lock:
            write_atomic(self.path, json.dumps(self.record, indent=1) + "\n")

    def names(self, status: str) -> list[str]:
        """Stages of that status, in order."""
        return [name for name, stage in self.stages.items() if stage["status"] == status]

    def results(self, stage: str) -> dict[str, Any]:
        """What a stage has found so far; empty where it has nothing."""
        return self.stages.get(stage, {}).get("results", {})

    def close(self, names: Sequence[str], reason: str) -> None:
        """The time is over: the stage that runs is stopped, those that have not begun are skipped."""
        with self._lock:
            for name in self.names(RUNNING):
                self.put(name, status=STOPPED, reason=reason)
            for name in names:
                if name not in self.stages:
                    self.put(name, status=SKIPPED, reason=reason)


def run_stages(stages: Sequence[Stage], budget: Budget, journal: Journal, say: Callable[[str], None] = print) -> None:
    """Run the stages in order. One that fails is recorded with its error, and the rest still runs."""
    for stage in stages:
        left = budget.left
        if left < stage.needs:
            reason = f"needs about {stage.needs:.0f} s, {max(left, 0):.0f} s of the budget are left"
            say(f"{stage.name}: skipped, {reason}")
            journal.put(stage.name, status=SKIPPED, reason=reason)
            continue
        say(f"{stage.name} ... ({left:.0f} s left)")
        journal.put(stage.name, status=RUNNING)
        started = time.monotonic()
        values = _outcome(stage, journal)
        journal.put(stage.name, **values, seconds=round(time.monotonic() - started, 3))


def _outcome(stage: Stage, journal: Journal) -> dict[str, Any]:
    try:
        return {"results": dict(stage.run(lambda part: journal.put(stage.name, results=dict(part)))), "status": DONE}
    except Skip as reason:
        return {"status": SKIPPED, "reason": str(reason)}
    except Exception as error:  # noqa: BLE001, recorded and told; the exit code says so
        traceback.print_exc()
        return {"status": FAILED, "error": f"{type(error).__name__}: {error}"[:2000]}


def stop_at_the_end(budget: Budget, finish: Callable[[], int]) -> threading.Event:
    """When the budget is spent, call `finish` and leave the process with the exit code that it returns.

    A thread does this, since a compilation or a kernel cannot be interrupted from Python. Returns an event: once it is
    set nothing will happen.
    """
    done = threading.Event()

    def wait() -> None:
        if not done.wait(max(budget.left, 0)):
            code = 1
            try:
                code = finish()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    threading.Thread(target=wait, daemon=True, name="budget").start()
    return done

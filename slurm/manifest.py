"""What was submitted: <sweep's folder>/manifest.json, the one memory of a sweep between two calls.

It keeps each run's command line and every attempt at it. What a run has reached is not here but in the run's folder.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from core.commands.overrides import override, read_overrides
from core.schema import strict
from core.storage.atomic import write_atomic
from slurm.sweep import Case, Sweep

SCHEMA_VERSION = 1
Kind = Literal["slurm", "local"]


@dataclass(frozen=True)
class Attempt:
    """One submission of a run: where to, under which id, when (UTC)."""

    kind: Kind
    job_id: str
    time: str

    def __post_init__(self) -> None:
        if datetime.datetime.fromisoformat(self.time).tzinfo is None:
            raise ValueError(f"the time of an attempt is {self.time!r}; needed: one with its distance from UTC")


@dataclass
class SubmittedRun:
    """A run of the sweep: its command line and the attempts at it, the last one last."""

    arguments: list[str]
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None


@dataclass
class Manifest:
    """The runs of a sweep by name."""

    path: Path
    entry: str
    runs: dict[str, SubmittedRun] = field(default_factory=dict)

    @classmethod
    def load(cls, sweep: Sweep) -> Manifest:
        """The manifest of a sweep, or an empty one; ValueError for one of another version, or damaged."""
        path = sweep.folder / "manifest.json"
        if not path.exists():
            return cls(path, sweep.entry)
        try:
            content = json.loads(path.read_text("utf-8"))
            version, entry = content.get("schema_version"), content.get("entry")
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from error
        if version != SCHEMA_VERSION:
            raise ValueError(f"{path} has schema_version {version!r}; this version reads {SCHEMA_VERSION}")
        try:
            runs = {name: strict(SubmittedRun, run, f"runs.{name}") for name, run in content["runs"].items()}
        except (ValueError, AttributeError, KeyError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from error
        if entry != sweep.entry:
            raise ValueError(f"{path} belongs to a sweep of {entry}, this one is of {sweep.entry}; choose another name")
        return cls(path, entry, runs)

    def save(self) -> None:
        """Write it whole or not at all."""
        runs = {name: asdict(record) for name, record in self.runs.items()}
        content = {"schema_version": SCHEMA_VERSION, "entry": self.entry, "runs": runs}
        write_atomic(self.path, json.dumps(content, indent=1) + "\n")

    def take(self, sweep: Sweep, cases: list[Case]) -> None:
        """Add the runs of `cases`; ValueError for one that is there with another command line, or whose folder is
        there although this sweep has never submitted it. Nothing is changed then."""
        for case in cases:
            arguments, known = case.arguments(sweep.folder), self.runs.get(case.name)
            if known is not None and not _same(known.arguments, arguments):
                before = " ".join(sorted(set(known.arguments) - set(arguments))) or "fewer"
                now = " ".join(sorted(set(arguments) - set(known.arguments))) or "fewer"
                raise ValueError(
                    f"{self.path} holds a run {case.name} with other keys ({before} before, {now} now); choose another "
                    "name for the sweep or the case"
                )
            if known is None and (sweep.run_path(case.name) / "config.yaml").exists():
                raise ValueError(
                    f"{sweep.run_path(case.name)} holds a run that does not belong to this sweep; choose another name"
                )
        for case in cases:
            self.runs.setdefault(case.name, SubmittedRun(case.arguments(sweep.folder)))

    def note(self, name: str, kind: Kind, job_id: str) -> None:
        """Remember an attempt, and write the manifest."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.runs[name].attempts.append(Attempt(kind, job_id, now))
        self.save()


def _same(before: list[str], now: list[str]) -> bool:
    """Whether two command lines say the same, whether or not texts that look like numbers stand in quotes."""
    if before == now:
        return True
    try:
        one, other = ({key: _meaning(value) for key, value in read_overrides(words).items()} for words in (before, now))
    except ValueError:
        return False
    return one == other


def _meaning(value: Any) -> str:
    word = value if isinstance(value, str) else override("", value)[1:]
    try:
        return repr(float(word))
    except ValueError:
        return word


@contextlib.contextmanager
def locked(sweep: Sweep) -> Iterator[None]:
    """Only one command at a time changes a sweep; ValueError while another does."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    with (sweep.folder / ".lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ValueError(f"another command is at work on {sweep.folder}; wait for it") from None
        yield

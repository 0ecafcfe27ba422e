"""The folder of one run: where everything is, whether it may be written, by whom, and with which config.

runs/<domain>/<name>/
  config.yaml  sessions.jsonl  metrics.jsonl  speed.jsonl  evaluations.jsonl  loss_curve.png  summary.json  tensorboard/
  checkpoints/step_00001000/  checkpoints/latest   previews/step_00001000.png   samples/   ema_snapshots/
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from core.schema import changed_keys
from core.storage.atomic import write_atomic

log = logging.getLogger(__name__)

_HELD: set[Path] = set()  # run directories that this process has locked


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run."""

    path: Path

    @classmethod
    def create(cls, runs_dir: str, domain: str, name: str) -> RunDirectory:
        """Make the folder, or find it; raises ValueError for a bad name, OSError where nothing can be written."""
        if not re.fullmatch(r"[\w.+-]+", name) or name.strip(".") == "":
            raise ValueError(f"name is {name!r}; a run's name has letters, digits and . _ + - only")
        path = Path(runs_dir) / domain / name
        probe = path / f".writable.{uuid.uuid4().hex[:8]}.tmp"
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink(missing_ok=True)  # the process that holds the lock may clean up meanwhile
        except OSError as error:
            raise OSError(f"the run directory {path} cannot be written ({error.strerror}); see runs_dir") from error
        return cls(path)

    @classmethod
    def find(cls, path: Path | str, key: str = "run") -> RunDirectory:
        """An existing run; raises ValueError naming the config `key` for a folder that is none."""
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise ValueError(f"{key} is {str(path)!r}; it must be the folder of a run, with a config.yaml")
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def previews(self) -> Path:
        """Folder of the preview pictures."""
        return self.path / "previews"

    @property
    def summary_file(self) -> Path:
        """The numbers of a complete run."""
        return self.path / "summary.json"

    def config(self) -> dict[str, Any]:
        """The resolved config that the run was started with."""
        return yaml.safe_load((self.path / "config.yaml").read_text())

    @property
    def snapshots(self) -> Path:
        """Folder of the snapshots of power-function averages."""
        return self.path / "ema_snapshots"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing here; raises ValueError naming the one that does.

        The lock is the system's (POSIX, on the file `.lock`), so it goes with its process, however that ends, and is
        not handed on to a loader's workers.
        """
        path = self.path.resolve()
        if path in _HELD:  # and the file is not opened: closing it would give the lock back
            raise ValueError(_written_by(f"this process, {os.getpid()}", self.path))
        with (path / ".lock").open("a+") as file:
            # twice: `is_locked` of another process holds it for an instant
            if not (_lock(file) or _lock(file, after=0.1)):
                file.seek(0)
                raise ValueError(_written_by(file.read().strip() or "another process", self.path))
            _HELD.add(path)
            try:
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
                file.flush()
                yield
            finally:
                _HELD.discard(path)

    def is_locked(self) -> bool:
        """Whether a process writes here now."""
        file = self.path / ".lock"
        if self.path.resolve() in _HELD or not file.exists():
            return self.path.resolve() in _HELD
        with file.open("a") as opened:
            return not _lock(opened)

    def clean(self) -> None:
        """Remove the half-written files of a process that was killed; the folder must be locked."""
        for folder in (self.path, self.previews, self.snapshots):
            for temporary in [*folder.glob(".*.tmp"), *folder.glob(".tmp*")]:  # ours, and those of safetensors
                temporary.unlink(missing_ok=True)

    def claim(self, config: dict[str, Any], free: Sequence[str] = (), allowed: Sequence[str] = ()) -> list[str]:
        """Write the config of a new run, or check that a continued one has not changed what it computes.

        `free` are keys (or groups of keys) that do not say what the run computes.

        Returns the keys, of those `allowed` to change (or groups of keys), that did. Raises ValueError naming the
        others. A run that left no checkpoint has computed nothing: its config, of a first try with a wrong value
        perhaps, is replaced.
        """
        _check_allowed(allowed, config)
        file, told = self.path / "config.yaml", []
        begun = self.summary_file.exists() or any(self.checkpoints.glob("step_*"))
        if begun and file.exists():
            before = self.config()
            changes = changed_keys(before, config)
            refused = [key for key in changes if not _is_in(key, [*free, *allowed])]
            if refused:
                differences = ", ".join(_change(key, before, config) for key in refused)
                raise ValueError(
                    f"{self.path} holds a run with another {differences}; choose another name=..., "
                    f"the same values to continue it, or allow_changes=[{','.join(refused)}] to go on with the new ones"
                )
            told = [key for key in changes if not _is_in(key, free)]
            for key in changes:
                log.info("goes on with another %s", _change(key, before, config))
        write_atomic(file, yaml.safe_dump(config, sort_keys=False))
        return told

    def summary(self) -> dict[str, Any] | None:
        """The summary of a complete run, or None."""
        return json.loads(self.summary_file.read_text()) if self.summary_file.exists() else None

    def shown(self) -> str:
        """The path as a user would type it from where they are."""
        relative = os.path.relpath(self.path)
        return str(self.path) if relative.startswith("..") else relative


def _written_by(owner: str, path: Path) -> str:
    return f"{path} is being written by {owner}; wait for it, or choose another name=..."


def _lock(file: TextIO, after: float = 0.0) -> bool:
    time.sleep(after)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_in(key: str, keys: Sequence[str]) -> bool:
    """True for a key among `keys`, or below one of them."""
    return any(key == each or key.startswith(each + ".") for each in keys)


def _check_allowed(allowed: Sequence[str], config: dict[str, Any]) -> None:
    missing = object()
    unknown = [key for key in allowed if _value(key, config, missing) is missing]
    if unknown:
        raise ValueError(f"allow_changes names {', '.join(unknown)}; allowed: keys of the config and their groups")


def _value(key: str, config: Any, missing: Any = None) -> Any:
    for name in key.split("."):
        if not isinstance(config, dict) or name not in config:
            return missing
        config = config[name]
    return config


def _change(key: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    return f"{key} ({_value(key, before, 'none')} before, {_value(key, after, 'none')} now)"

"""The folder of one run: where everything is, whether it may be written, by whom, and with which config.

runs/<domain>/<name>/
  config.yaml  sessions.jsonl  metrics.jsonl  speed.jsonl  evaluations.jsonl  loss_curve.png  summary.json  tensorboard/
  checkpoints/step_00001000/  checkpoints/latest   previews/step_00001000.png   samples/   ema_snapshots/
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import yaml

from core.processes.failures import LostFolderError
from core.schema import changed_keys, plain, strict
from core.storage.atomic import remove, write_atomic, writing
from core.storage.checkpoint import CheckpointStore, read_checkpoint
from core.storage.json_files import read_mapping
from core.storage.lines import is_number
from core.storage.yaml_files import read_yaml

log = logging.getLogger(__name__)

T = TypeVar("T")

_HELD: dict[Path, tuple[int, int]] = {}  # run directories that this process has locked, device and inode of the lock
FOLDERS = ("checkpoints", "previews", "ema_snapshots", "samples", "tensorboard")
FILES = ("config.yaml", "metrics.jsonl", "speed.jsonl", "evaluations.jsonl", "sessions.jsonl", "summary.json", ".lock")


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run."""

    path: Path

    @classmethod
    def create(cls, runs_dir: Path | str, domain: str, name: str) -> RunDirectory:
        """Make the folder, or find it; raises ValueError for a bad name, OSError where nothing can be written."""
        if not re.fullmatch(r"[\w.+-]+", name) or name.strip(".") == "":
            raise ValueError(f"name is {name!r}; a run's name has letters, digits and . _ + - only")
        path = Path(runs_dir) / domain / name
        text = str(runs_dir)
        if "\0" in text or text.encode(errors="ignore").decode() != text:  # safetensors writes no such file
            raise ValueError(f"runs_dir is {runs_dir!r}; it must be the name of a folder in UTF-8")
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
        if not cls(path).config_file.is_file():
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
    def config_file(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def summary_file(self) -> Path:
        """The numbers of a complete run."""
        return self.path / "summary.json"

    def config(self) -> dict[str, Any]:
        """The resolved config that the run was started with; ValueError naming the file for one that is damaged."""
        try:
            values = read_yaml(self.config_file)
        except ValueError as error:
            raise ValueError(f"{self.config_file} is damaged: {error}") from error
        if not _is_tree(values):
            raise ValueError(f"{self.config_file} is damaged: it is no mapping of names to values")
        return values

    def checked_config(self, schema: type[T]) -> T:
        """That config as its dataclass; ValueError naming the file for one that does not fit."""
        values = self.config()
        try:
            return strict(schema, values)
        except ValueError as error:
            raise ValueError(f"{self.config_file}: {error}") from error

    def setting(self, key: str, kind: type[T]) -> T:
        """The value of that config at a dotted key; ValueError naming the file where there is none of this `kind`."""
        value = _value(key, self.config())
        if not isinstance(value, kind):
            raise ValueError(f"{self.config_file} is damaged: {key} is {value!r}; needed: {kind.__name__}")
        return value

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
        self._check_kinds()
        with (path / ".lock").open("a+") as file:
            # twice: `is_locked` of another process holds it for an instant
            if not (_lock(file) or _lock(file, after=0.1)):
                file.seek(0)
                raise ValueError(_written_by(file.read().strip() or "another process", self.path))
            _HELD[path] = _identity(os.fstat(file.fileno()))
            try:
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                with writing(path / ".lock"):
                    os.truncate(file.fileno(), 0)
                    os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode())
                yield
            finally:
                del _HELD[path]

    def _check_kinds(self) -> None:
        """Raises ValueError for a file where a folder has to be, and the other way round.

        Or for a link to what is not there now: a disk that is not mounted would be a run that lost all that it had.
        """
        for names, fits, kind in ((FOLDERS, Path.is_dir, "folder"), (FILES, Path.is_file, "file")):
            for path in (self.path / name for name in names):
                if path.is_symlink() and not path.exists():
                    raise ValueError(f"{path} is a link to {path.readlink()}, which is not there; is its disk mounted?")
                if path.exists() and not fits(path):
                    raise ValueError(f"{path} is no {kind}; move it away, or choose another name=...")

    def check_held(self) -> None:
        """Raises LostFolderError unless this process, which has locked the run, is still the one that may write.

        Somebody may have removed `.lock`, or moved the folder: then another process can get a lock of its own.
        """
        if not self.is_held():
            moved = "the folder or its .lock was moved or removed"
            there = "another process's lock lies there" if self._found() else moved
            raise LostFolderError(
                f"{self.path} does not belong to this process any more, {there}. It writes nothing more; the same "
                "command goes on from the last checkpoint"
            )

    def is_held(self) -> bool:
        """Whether `check_held` would let this process write."""
        return not _HELD or self._found() in _HELD.values()

    def _found(self) -> tuple[int, int] | None:
        """Device and inode of the lock that lies here now."""
        try:
            return _identity((self.path / ".lock").stat())
        except OSError:
            return None

    def is_locked(self) -> bool:
        """Whether a process writes here now."""
        file = self.path / ".lock"
        if self.path.resolve() in _HELD or not file.is_file():  # nor a pipe, which would be waited for
            return self.path.resolve() in _HELD
        with file.open("rb") as opened:  # of somebody else's run, which may be read only
            return not _lock(opened, shared=True)

    def clean(self) -> None:
        """Remove the half-written files of a process that was killed; the folder must be locked."""
        for folder in (self.path, self.previews, self.snapshots):
            for temporary in [*folder.glob(".*.tmp"), *folder.glob(".tmp*")]:  # ours, and those of safetensors
                remove(temporary)

    def compare(
        self,
        config: dict[str, Any],
        free: Sequence[str] = (),
        allowed: Sequence[str] = (),
        schema: type | None = None,
    ) -> list[str]:
        """Check that a continued run has not changed what it computes; nothing is written.

        `free` are keys (or groups of keys) that do not say what the run computes. A key of `schema` that came after the
        run was begun has its default there.

        Returns the keys, of those `allowed` to change (or groups of keys), that did. Raises ValueError naming the
        others. A run that left no checkpoint has computed nothing: its config, of a first try with a wrong value
        perhaps, binds nobody.
        """
        _check_allowed(allowed, config)
        before = self._config_before()
        if before is None:
            return []
        changes = changed_keys(before if schema is None else _completed(before, schema), config)
        refused = [key for key in changes if not _is_in(key, [*free, *allowed])]
        if refused:
            differences = ", ".join(_change(key, before, config) for key in refused)
            raise ValueError(
                f"{self.path} holds a run with another {differences}; choose another name=..., "
                f"the same values to continue it, or allow_changes=[{','.join(refused)}] to go on with the new ones"
            )
        for key in changes:
            log.info("goes on with another %s", _change(key, before, config))
        return [key for key in changes if not _is_in(key, free)]

    def _config_before(self) -> dict[str, Any] | None:
        """The config of a run that has begun, from its newest checkpoint where config.yaml is lost; else None."""
        store = CheckpointStore(self.checkpoints)
        if store.latest() is None and not self.summary_file.exists():
            return None
        if self.config_file.exists():
            return self.config()
        newest = store.newest_intact(only=())
        if newest is None:
            return None
        log.warning("%s is lost; the config that %s remembers stands for it", self.config_file, newest.name)
        return read_checkpoint(newest, only=()).notes.get("config")

    def write_config(self, config: dict[str, Any]) -> None:
        """Replace config.yaml by the config that the run goes on with."""
        write_atomic(self.config_file, yaml.safe_dump(config, sort_keys=False))

    def summary(self) -> dict[str, Any] | None:
        """The summary of a complete run, or None; ValueError naming the file for one that is damaged."""
        if not self.summary_file.exists():
            return None
        summary = read_mapping(self.summary_file)
        if type(summary.get("steps")) is not int or summary["steps"] < 1:
            raise ValueError(f"{self.summary_file} is damaged: steps is {summary.get('steps')!r}")
        for key in ("train_seconds", "train_cpu_seconds", "wall_seconds"):
            if not is_number(summary.get(key, 0)):
                raise ValueError(f"{self.summary_file} is damaged: {key} is {summary[key]!r}")
        return summary

    def shown(self) -> str:
        """The path as a user would type it from where they are."""
        relative = os.path.relpath(self.path)
        return str(self.path) if relative.startswith("..") else relative


def _written_by(owner: str, path: Path) -> str:
    return f"{path} is being written by {owner}; wait for it, or choose another name=..."


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_tree(values: Any, depth: int = 0) -> bool:
    """Whether a value is a mapping whose keys, and those of the mappings in it, are names."""
    if not isinstance(values, dict):
        return depth > 0
    return all(isinstance(key, str) and _is_tree(value, depth + 1) for key, value in values.items())


def _lock(file: IO, after: float = 0.0, *, shared: bool = False) -> bool:
    """Whether the lock could be had; OSError naming the file where its disk has no locks."""
    time.sleep(after)
    try:
        fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise OSError(
            f"{file.name} cannot be locked ({error.strerror}); runs_dir has to be on a disk that can"
        ) from error
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


def _completed(config: dict[str, Any], schema: type) -> dict[str, Any]:
    """A config with the defaults of the keys that it lacks; as it is where it is none of `schema`."""
    try:
        return plain(strict(schema, config))
    except ValueError:  # its differences are told, key by key
        return config


def _change(key: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    return f"{key} ({_value(key, before, 'none')} before, {_value(key, after, 'none')} now)"

"""Checkpoints: written whole, verified when read, pruned.

A checkpoint is a folder `step_00001000/` of safetensors files (model, ema, optimizer) and a manifest,
`checkpoint.json`, with the step, the size and SHA-256 of every file, what the run wants remembered, and a SHA-256 of
all that (which older manifests lack). It is written beside its final name, read back, synced and renamed, so a folder
with the final name is complete. The file `latest` names the newest one, for other programs. No file of ours is a
pickle.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from core.storage.atomic import atomic_dir, remove, sha256_file, write_atomic
from core.storage.json_files import read_mapping
from core.storage.packed import Packed, State, save_file
from core.storage.provenance import json_sha256

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
MANIFEST = "checkpoint.json"
LATEST = "latest"
NAME = re.compile(r"step_\d{8,}")
FILE = re.compile(r"[\w.-]+\.safetensors")
KEYS = ("schema_version", "step", "files", "notes")
CheckNotes = Callable[[Mapping[str, Any]], None]


class DamagedError(ValueError):
    """A checkpoint that is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved at `step`: named groups of tensors and the manifest's notes."""

    step: int
    groups: dict[str, State]
    notes: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run, newest last.

    Kept are the newest `keep`, and for good those whose step is a multiple of `keep_every` (0: none).
    """

    def __init__(self, root: Path | str, keep: int = 2, keep_every: int = 0):
        if keep < 1 or keep_every < 0:
            raise ValueError(
                f"trainer.keep_checkpoints is {keep} and trainer.keep_every {keep_every}; at least 1 and 0 are needed"
            )
        self.root, self.keep, self.keep_every = Path(root), keep, keep_every

    def paths(self) -> list[Path]:
        """The checkpoints, oldest first."""
        found = [path for path in self.root.glob("step_*") if NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=_step_of)

    def latest(self) -> Path | None:
        """The newest checkpoint, or None; whether it is sound is not looked at."""
        paths = self.paths()
        return paths[-1] if paths else None

    def newest_intact(
        self, only: tuple[str, ...] | None = None, *, check: CheckNotes | None = None, set_aside: bool = False
    ) -> Path | None:
        """The newest checkpoint whose files (all, or the groups `only`) are what was written; None if there is none.

        A damaged one is reported; with set_aside its folder is renamed to step_..., .damaged, so that it no longer
        counts. `check` raises DamagedError for notes that are not what the caller reads. Raises ValueError when all are
        damaged: nothing starts over by itself.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                verify_checkpoint(path, only, check)
                return path
            except (DamagedError, FileNotFoundError) as error:
                if not path.exists():  # the run that writes here has pruned it meanwhile
                    return self.newest_intact(only, check=check, set_aside=set_aside)
                kept = _set_aside(path) if set_aside else path
                log.warning("%s; it stays as %s, and the one before it is used", error, kept.name)
        if paths or any(self.root.glob("*.damaged*")):
            raise ValueError(f"every checkpoint in {self.root} is damaged; choose another name=... to start over")
        return None

    def save(
        self,
        step: int,
        groups: Mapping[str, State | Packed],
        notes: Mapping[str, Any],
        check: Callable[[], None] = lambda: None,
    ) -> Path:
        """Write the checkpoint of `step`; the one before it stays until this one is complete.

        check  called between pieces and before the folder gets its name; what it raises leaves nothing

        Raises OSError when it cannot be written: no space, no permission, or a disk that gives back something else.
        """
        path = self.root / f"step_{step:08d}"
        try:
            with atomic_dir(path) as temporary:
                files = _save_files({f"{name}.safetensors": group for name, group in groups.items()}, temporary, check)
                manifest = {"schema_version": SCHEMA_VERSION, "step": step, "files": files, "notes": dict(notes)}
                manifest["sha256"] = _own_sha256(manifest)
                (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
                check()
            self._point_to(path)
        except OSError as error:
            check()
            latest = self.latest()
            kept = f"{latest} is intact" if latest is not None else "there is none before it"
            raise OSError(f"the checkpoint {path} could not be written ({error}); {kept}") from error
        self._prune(path)
        return path

    def settle(self, newest: Path) -> None:
        """Let `latest` name the checkpoint that a run goes on from, and prune: a process may be killed before both."""
        self._point_to(newest)
        self._prune(newest)

    def _point_to(self, path: Path) -> None:
        write_atomic(self.root / LATEST, path.name + "\n")

    def _prune(self, newest: Path) -> None:
        for old in self.paths()[: -self.keep]:
            forever = self.keep_every and _step_of(old) % self.keep_every == 0
            if old != newest and not forever:  # newest: an earlier step than others that stand there
                remove(old.rename(old.with_name(f".{old.name}.tmp")))  # a half-removed one has not its name

    def clean(self) -> None:
        """Remove what a killed process left half-written, and put back what it was about to replace."""
        for old in self.root.glob(".step_*.old"):
            path = self.root / old.name.split(".")[1]
            if path.exists():
                remove(old)
            else:
                old.rename(path)
        for temporary in self.root.glob(".*.tmp"):
            remove(temporary)


def _save_files(groups: Mapping[str, State | Packed], folder: Path, check: Callable[[], None]) -> dict[str, dict]:
    """Write the groups by the names of their files: facts of each.

    Two at a time, since hashing keeps one back; one where it has to be copied first, for no more memory than that.
    """
    copied = all(isinstance(group, Packed) for group in groups.values())
    with ThreadPoolExecutor(2 if copied else 1) as writers:
        jobs = {name: writers.submit(save_file, group, folder / name, check) for name, group in groups.items()}
        try:
            return {name: job.result() for name, job in jobs.items()}
        except BaseException:
            writers.shutdown(wait=False, cancel_futures=True)
            raise


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged")
    if aside.exists():
        aside = path.with_name(f"{path.name}.damaged.{uuid.uuid4().hex[:8]}")
    return path.rename(aside)


def _own_sha256(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over all of a manifest but this number itself, as JSON reads it back."""
    return json_sha256(json.loads(json.dumps({key: value for key, value in manifest.items() if key != "sha256"})))


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_mapping(path / MANIFEST)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise DamagedError(f"{path} is not a complete checkpoint: {error}") from error
    lacking = [key for key in KEYS if key not in manifest]
    if lacking:
        raise DamagedError(f"{path / MANIFEST} is damaged: it lacks {', '.join(lacking)}")
    version = manifest["schema_version"]
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ValueError(f"{path} has checkpoint schema {version}; this version reads {SCHEMA_VERSION}")
    fault = _fault(path, manifest)
    if fault is not None:
        raise DamagedError(f"{path / MANIFEST} is damaged: {fault}")
    return manifest


def _fault(path: Path, manifest: Mapping[str, Any]) -> str | None:
    """What is wrong with a manifest in words, None for a sound one."""
    step, files, notes = manifest["step"], manifest["files"], manifest["notes"]
    if "sha256" in manifest and manifest["sha256"] != _own_sha256(manifest):
        return "its SHA-256 is not that of its content"
    if type(step) is not int or step < 0:
        return f"step is {step!r}"
    if NAME.fullmatch(path.name) and step != _step_of(path):
        return f"step is {step}, the name of its folder says {_step_of(path)}"
    if not isinstance(notes, dict):
        return f"notes is {notes!r}"
    if not isinstance(files, dict) or not files:
        return f"files is {files!r}"
    wrong = [name for name, facts in files.items() if not (FILE.fullmatch(name) and _is_facts(facts))]
    return f"files names {wrong[0]!r} with {files[wrong[0]]!r}" if wrong else None


def _is_facts(facts: Any) -> bool:
    return isinstance(facts, dict) and type(facts.get("bytes")) is int and isinstance(facts.get("sha256"), str)


def verify_checkpoint(path: Path | str, only: tuple[str, ...] | None = None, check: CheckNotes | None = None) -> None:
    """Read the files of a checkpoint, all groups or those in `only`, and let `check` look at its notes.

    Raises DamagedError if one is not what was written.
    """
    manifest = _read_manifest(Path(path))
    if check is not None:
        try:
            check(manifest["notes"])
        except DamagedError as error:
            raise DamagedError(f"{Path(path) / MANIFEST} is damaged: {error}") from error
    for file, facts in _files(Path(path), manifest, only).values():
        _verify(file, facts)


def read_checkpoint(path: Path | str, only: tuple[str, ...] | None = None, *, verified: bool = False) -> Checkpoint:
    """Load a checkpoint folder (or the file `latest` beside some), all groups or those in `only`.

    verified: its files have been checked just now. Raises DamagedError for a damaged one, ValueError for another
    schema.
    """
    path = follow_latest(Path(path))
    manifest, groups = _read_manifest(path), {}
    for group, (file, facts) in _files(path, manifest, only).items():
        if not verified:
            _verify(file, facts)
        groups[group] = load_file(file)
    return Checkpoint(manifest["step"], groups, manifest["notes"])


def follow_latest(path: Path) -> Path:
    """The checkpoint folder that a file `latest` names; any other path as it is.

    Raises ValueError for a file `latest` that names none.
    """
    if path.name != LATEST or not path.is_file():
        return path
    name = path.read_bytes()[:100].decode(errors="replace").strip()
    if not NAME.fullmatch(name):
        raise ValueError(f"{path} is damaged: it says {name!r}, which names no checkpoint; give the folder itself")
    return path.parent / name


def _files(path: Path, manifest: Mapping[str, Any], only: tuple[str, ...] | None) -> dict[str, tuple[Path, Any]]:
    groups = {name.removesuffix(".safetensors"): (path / name, facts) for name, facts in manifest["files"].items()}
    return {group: file for group, file in groups.items() if only is None or group in only}


def _verify(file: Path, facts: Mapping[str, Any]) -> None:
    size = file.stat().st_size if file.is_file() else None
    if size != facts["bytes"]:
        raise DamagedError(f"checkpoint file {file} is damaged: {size} bytes, {facts['bytes']} were written")
    if sha256_file(file) != facts["sha256"]:
        raise DamagedError(f"checkpoint file {file} is damaged: its SHA-256 differs from the manifest")

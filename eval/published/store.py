"""Published weights on disk: where they lie, which of them are there, whether they are what they should be.

Nothing here touches the network. The folder is the config key `weights_dir` of an entry, else the environment variable
LAYERSYNC_WEIGHTS, else ~/.cache/layersync/weights; each entry of the registry has a folder of its name in it. The file
`hashes.json` beside them holds what was measured when a file was imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eval.published.entry import WeightsEntry, WeightsFile
from eval.published.registry import find_entry

VARIABLE = "LAYERSYNC_WEIGHTS"
DEFAULT_ROOT = "~/.cache/layersync/weights"
HASHES = "hashes.json"
OK, ABSENT, UNKNOWN = "ok", "absent", "no hash to compare with"


def weights_root(config_value: str | None = None) -> Path:
    """The folder of all weights: the config key `weights_dir`, else LAYERSYNC_WEIGHTS, else the cache of the user.

    Raises ValueError when it is a file.
    """
    root = Path(config_value or os.environ.get(VARIABLE) or DEFAULT_ROOT).expanduser()
    if root.exists() and not root.is_dir():
        raise ValueError(f"the weights folder {root} (weights_dir, or {VARIABLE}) is a file")
    return root


def locate(name: str, root: Path | str | None = None) -> Path:
    """The file of a one-file entry, the folder of another; nothing is fetched.

    root  the weights folder, `weights_root(config.weights_dir)`; None: `weights_root()`

    Raises ValueError, with what is missing, its origin and place and the commands, when a file is absent or has another
    size than it should. Contents are compared by `verified`.
    """
    entry, root = find_entry(name), _root(root)
    recorded = Recorded.load(root)
    for file in entry.files:
        path = place(entry, file, root)
        if not path.is_file():
            raise ValueError(
                f"weights '{name}' are missing: {expected_file(entry, file, root)}; {commands(entry, root)}"
            )
        if state(entry, file, root, recorded) != OK:
            sizes = _sizes(path, entry, file, recorded)
            raise ValueError(f"weights '{name}' are damaged: {path} has {sizes}; {commands(entry, root)}")
    return target(entry, root)


def verified(name: str, root: Path | str | None = None) -> dict[str, str]:
    """SHA-256 of every file of an entry, by path below its folder, for a record of what measured.

    Raises ValueError as `locate` does, and for a file that is not what it was.
    """
    entry, root = find_entry(name), _root(root)
    locate(name, root)
    recorded, hashes = Recorded.load(root), {}
    for file in entry.files:
        hashes[file.path] = check(place(entry, file, root), entry, file, recorded)
    return hashes


def locate_file(name: str, given: Path | None, root: Path | str | None, key: str) -> tuple[Path, str]:
    """The file of a one-file entry, or the one `given` in its place, and its SHA-256.

    Raises ValueError as `verified` does, and, naming the config `key`, for a given file that is not there.
    """
    if given is None:
        (sha256,) = verified(name, root).values()
        return locate(name, root), sha256
    if not given.is_file():
        raise ValueError(f"config key '{key}': there is no file {given}")
    from core.storage.atomic import sha256_file

    return given, sha256_file(given)


def target(entry: WeightsEntry, root: Path) -> Path:
    """The path that a reader is given: the file, or the folder."""
    return place(entry, entry.files[0], root) if entry.kind == "file" else root / entry.name


def place(entry: WeightsEntry, file: WeightsFile, root: Path) -> Path:
    """The path where a file belongs."""
    return root / entry.name / file.path


def expected_file(entry: WeightsEntry, file: WeightsFile, root: Path) -> str:
    """A sentence on which file from where goes to which place."""
    return f"{file.path} from {file.url} belongs at {place(entry, file, root)}"


def commands(entry: WeightsEntry, root: Path) -> str:
    """The commands that put weights into their place."""
    fetch = f"`python -m eval.weights fetch {entry.name}{_option(root)}` fetches them, "
    return (fetch if not all(file.by_hand for file in entry.files) else "") + add_command(entry, root)


def add_command(entry: WeightsEntry, root: Path) -> str:
    """The command that takes a copy, and what must be known for it."""
    what = "FILE" if entry.kind == "file" else "DIR"
    note = f" ({entry.notes})" if entry.gated or any(file.by_hand for file in entry.files) else ""
    return f"`python -m eval.weights add {entry.name} {what}{_option(root)}` takes a copy{note}"


def _option(root: Path) -> str:
    return "" if root == weights_root() else f" --weights-dir {root}"


def _root(root: Path | str | None) -> Path:
    return weights_root(None if root is None else str(root))


# What was measured


@dataclass(frozen=True)
class Recorded:
    """`hashes.json`: SHA-256 and bytes of imported files, by path below the weights folder."""

    files: dict[str, dict]

    @classmethod
    def load(cls, root: Path) -> Recorded:
        """Read what was recorded so far; ValueError when the file is damaged."""
        path = root / HASHES
        try:
            files = json.loads(path.read_text())["files"] if path.exists() else {}
            for facts in files.values():
                if not (isinstance(facts["bytes"], int) and re.fullmatch("[0-9a-f]{64}", facts["sha256"])):
                    raise ValueError("a line of another form")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error!r}); without it, files are trusted anew by `add`") from error
        return cls(files)

    def sha256(self, entry: WeightsEntry, file: WeightsFile) -> str | None:
        """The SHA-256 of a file at its import."""
        return self._facts(entry, file).get("sha256")

    def size(self, entry: WeightsEntry, file: WeightsFile) -> int | None:
        """The bytes of a file: published, else at its import."""
        return file.size if file.size is not None else self._facts(entry, file).get("bytes")

    def _facts(self, entry: WeightsEntry, file: WeightsFile) -> dict:
        return self.files.get(f"{entry.name}/{file.path}", {})


def record(entry: WeightsEntry, file: WeightsFile, root: Path, sha256: str) -> None:
    """Remember what a file in its place is; several processes may do so at once."""
    from core.storage.atomic import write_atomic

    facts = {"sha256": sha256, "bytes": place(entry, file, root).stat().st_size}
    with (root / f".{HASHES}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = Recorded.load(root).files | {f"{entry.name}/{file.path}": facts}
        write_atomic(root / HASHES, json.dumps({"schema_version": 1, "files": files}, indent=1, sort_keys=True) + "\n")


# Whether a file is what it should be


def state(entry: WeightsEntry, file: WeightsFile, root: Path, recorded: Recorded) -> str:
    """OK, ABSENT, or what its size is instead; contents are not read."""
    path = place(entry, file, root)
    if not path.is_file():
        return f"{path} is a link that leads nowhere" if path.is_symlink() else ABSENT
    expected = recorded.size(entry, file)
    right = path.stat().st_size == expected if expected is not None else path.stat().st_size > 0
    return OK if right else _sizes(path, entry, file, recorded)


def _sizes(path: Path, entry: WeightsEntry, file: WeightsFile, recorded: Recorded) -> str:
    return f"{path.stat().st_size} bytes instead of {recorded.size(entry, file) or 'some'}"


def check(path: Path, entry: WeightsEntry, file: WeightsFile, recorded: Recorded, source: str = "") -> str:
    """SHA-256 of `path`, a file that is or is to become `file`.

    source  how to call it in an error; by default its path

    Raises ValueError when its size or hash is not the published one, or not the one of its import.
    """
    from core.storage.atomic import sha256_file

    source, named = source or str(path), f"{entry.name}/{file.path}"
    size, expected = path.stat().st_size, recorded.size(entry, file)
    if size == 0 or expected not in (None, size):
        raise ValueError(f"{source} is not {named}: {size} bytes instead of {expected or 'some'}")
    sha256, trusted = sha256_file(path), recorded.sha256(entry, file)
    if file.sha256 is not None and not sha256.startswith(file.sha256):
        published = file.sha256 + "..." * (not file.known)
        raise ValueError(f"{source} is not {named}: its SHA-256 is {sha256} instead of {published}")
    if trusted not in (None, sha256):
        remedy = f"to trust this one, take the old one out of {HASHES}"
        raise ValueError(f"{source} is not what {named} was at its import: SHA-256 {sha256}, then {trusted}; {remedy}")
    return sha256


def report(entry: WeightsEntry, root: Path) -> Iterator[tuple[WeightsFile, str, bool]]:
    """Each file of an entry that has any in place: what it is, after reading it all, and whether it is damaged."""
    recorded = Recorded.load(root)
    states = {file: state(entry, file, root, recorded) for file in entry.files}
    if set(states.values()) == {ABSENT}:
        return
    for file, found in states.items():
        if found == OK:
            try:
                check(place(entry, file, root), entry, file, recorded)
                compared = file.sha256 is not None or recorded.sha256(entry, file) is not None
                yield file, OK if compared else UNKNOWN, False
            except (ValueError, OSError) as error:
                yield file, f"DAMAGED: {error}", True
        else:
            yield file, found if found == ABSENT else f"DAMAGED: {found}", found != ABSENT


# Into their place


def add(entry: WeightsEntry, source: Path, root: Path, link: bool = False) -> list[WeightsFile]:
    """Verify and copy (or link) what `source`, a file or a folder, holds of an entry; the files that were taken.

    Raises ValueError, before anything is changed, for a file that is not what it should be and a folder that lacks one.
    """
    pairs, recorded = _match(entry, source), Recorded.load(root)
    hashes = {file: check(path, entry, file, recorded) for file, path in pairs.items()}
    for file, path in pairs.items():
        destination = place(entry, file, root)
        if not (destination.exists() and destination.samefile(path)):
            _put(path, destination, link)
            if check(destination, entry, file, recorded) != hashes[file]:
                destination.unlink()
                raise ValueError(f"{path} changed while it was copied; nothing of it was kept")
        record(entry, file, root, hashes[file])
    return list(pairs)


def _match(entry: WeightsEntry, source: Path) -> dict[WeightsFile, Path]:
    """The file of the source for each file of the entry."""
    if source.is_dir():
        return _match_folder(entry, source)
    if not source.is_file():
        raise ValueError(f"no file or folder {source} to add to '{entry.name}'")
    if entry.kind == "file":
        files = [file for file in entry.files if file.known or Path(file.path).suffix == source.suffix]
    else:
        files = [file for file in entry.files if Path(file.path).name == source.name]
    if len(files) != 1:
        names = ", ".join(file.path for file in entry.files)
        what = "it" if entry.kind == "file" else "one of them, by its name, or a folder that holds them"
        raise ValueError(f"{source} is not clearly a file of '{entry.name}' ({names}); add {what}")
    return {files[0]: source}


def _match_folder(entry: WeightsEntry, source: Path) -> dict[WeightsFile, Path]:
    """Files by their path here, by their path in the hub repository, or by their bare name where it is unique."""
    bare = [Path(file.path).name for file in entry.files]
    found: dict[WeightsFile, Path] = {}
    for file, name in zip(entry.files, bare, strict=True):
        paths = [file.path, *([entry.remote_path(file)] if entry.repository else []), *[name] * (bare.count(name) == 1)]
        options = [source / path for path in paths if (source / path).is_file()]
        if options:
            found[file] = options[0]
    lacking = [file.path for file in entry.files if file not in found and (file.by_hand or not _mixed(entry))]
    if lacking:
        raise ValueError(f"the folder {source} lacks {', '.join(lacking)} of '{entry.name}'")
    return found


def _mixed(entry: WeightsEntry) -> bool:
    """Some files come by hand, the others can be fetched after them."""
    return len({file.by_hand for file in entry.files}) == 2


def _put(source: Path, destination: Path, link: bool) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.with_name(f".{destination.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        if link:
            temporary.symlink_to(source.resolve())
        else:
            with source.open("rb") as reader, temporary.open("wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 22)
                writer.flush()
                os.fsync(writer.fileno())
        temporary.replace(destination)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()

"""The files of a large folder, listed once: kept beside the caches, and taken from there while no folder has changed.

A walk reads every name of every folder; a look at the list costs one `stat` for each folder. That shows files that
came, went or were renamed, since each sets the times of its folder. It does not show that a file was replaced in
place: whoever opens it finds out, as of a file that is replaced while a run is under way.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from core.data.files import MOST_THREADS, Found, tell, walk
from core.storage.atomic import write_atomic
from core.storage.json_files import parse_json

log = logging.getLogger(__name__)

VERSION = 1
LEAST_FILES = 4096  # a smaller folder is walked as quickly as its list is checked
SETTLED = 2_000_000_000  # nanoseconds: a folder that changed so shortly before may have changed again in the same tick
PIECE = 64  # folders that a thread looks at in one go
FACTS = ("st_mtime_ns", "st_ctime_ns", "st_size", "st_nlink", "st_ino")  # of a folder; ctime is what no tool sets back


@dataclass(frozen=True)
class Names:
    """Paths of files below a folder, sorted by their parts, as bytes: NUL between two."""

    packed: bytes

    def split(self) -> list[bytes]:
        """Each as bytes, to be kept in one array: a million strings would be copied into every loader process."""
        return self.packed.split(b"\0") if self.packed else []


def listed(root: Path, suffixes: tuple[str, ...], others: tuple[str, ...], cache_dir: str | None) -> Names:
    """The files that `core.data.files.files_under` gives, and tells of, from the list kept in `cache_dir`.

    A list that is missing, damaged, or of a folder that has changed is made anew, by one process: others wait for it.
    cache_dir None: nothing is kept. Raises OSError for a folder that cannot be read.
    """
    if cache_dir is None:
        return _told(walk(root, suffixes, others))
    wanted = {"version": VERSION, "suffixes": list(suffixes), "others": list(others)}
    key = json.dumps([str(root.resolve()), wanted])
    file = Path(cache_dir).expanduser() / f"files_{hashlib.sha256(key.encode()).hexdigest()[:16]}.list"
    names = _kept(file, root, wanted)
    if names is not None:
        return names
    with _turn(file):
        names = _kept(file, root, wanted, quiet=True) if file.exists() else None
        if names is not None:  # another process was quicker
            return names
        begun = time.time_ns()
        found = walk(root, suffixes, others)
        _keep(file, root, wanted, found, begun)
    return _told(found)


def _told(found: Found) -> Names:
    tell(found.told)
    return _packed(found.paths)


def _packed(paths: Iterable[str]) -> Names:
    return Names(os.fsencode("\0".join(paths)))


def _kept(file: Path, root: Path, wanted: dict, quiet: bool = False) -> Names | None:
    """The kept list, what was left out told again; None where there is none, or it is damaged or old, as is said."""
    try:
        facts, packed = _checked(file.read_bytes(), wanted)
        changed = _changed(root, facts["folders"], facts["lost"])
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("the list of files %s cannot be read: %s", file, error)
        return None
    except ValueError as error:
        if not quiet:
            log.warning("the list of files %s is damaged (%s); it is made anew", file, error)
        return None
    if changed is not None:
        if not quiet:
            log.info("%s has changed since the files of %s were listed; they are listed anew", changed, root)
        return None
    tell(facts["told"])
    return Names(packed)


def _checked(content: bytes, wanted: dict) -> tuple[dict, bytes]:
    """The facts and the names of a list; ValueError for what `_keep` has not written."""
    digest, _, rest = content.partition(b"\n")
    if digest != _digest(rest):
        raise ValueError("its bytes are not those that were written")
    header, _, packed = rest.partition(b"\n")
    facts = parse_json(header, "its second line")
    if any(facts.get(key) != value for key, value in wanted.items()):
        raise ValueError(f"needed: version {VERSION}")
    return facts, packed


def _digest(rest: bytes) -> bytes:
    return hashlib.sha256(rest).hexdigest().encode()


def _changed(root: Path, folders: dict[str, list[int]], lost: list[list]) -> str | None:
    """The first folder that is not what it was, or the first link that now leads somewhere else; None for none."""
    base, places = os.fspath(root), list(folders.items())

    def first_changed(piece: list[tuple[str, list[int]]]) -> str | None:
        for name, facts in piece:
            place = os.path.join(base, name) if name else base
            try:
                if _facts(os.stat(place)) != facts:
                    return place
            except OSError:  # gone: the walk says what is wrong
                return place
        return None

    with ThreadPoolExecutor(MOST_THREADS) as pool:
        changed = list(pool.map(first_changed, (places[at : at + PIECE] for at in range(0, len(places), PIECE))))
    links = (os.path.join(base, link) for link, *leads in lost if _leads(os.path.join(base, link)) != leads)
    return next((place for place in changed if place is not None), None) or next(links, None)


def _leads(link: str) -> list:
    """Where a link leads to, whether anything is there, and whether that is a folder."""
    return [os.path.realpath(link), os.path.exists(link), os.path.isdir(link)]


def _facts(status: os.stat_result) -> list[int]:
    return [getattr(status, name) for name in FACTS]


def _keep(file: Path, root: Path, wanted: dict, found: Found, begun: int) -> None:
    """Write the list, but of a small folder, or of one that is changing now; that it cannot be written is told."""
    newest = max(max(status.st_mtime_ns, status.st_ctime_ns) for status in found.folders.values())
    if len(found.paths) < LEAST_FILES or newest > begun - SETTLED:
        return
    start, packed = len(os.path.join(root, "")), _packed(found.paths).packed
    header = {
        **wanted,
        "root": str(root.resolve()),
        "count": len(found.paths),
        "folders": {place[start:]: _facts(status) for place, status in found.folders.items()},
        "lost": [[link[start:], *_leads(link)] for link in found.lost],
        "told": found.told,
    }
    content = json.dumps(header).encode() + b"\n" + packed
    try:
        write_atomic(file, _digest(content) + b"\n" + content)
    except OSError as error:
        log.warning("the list of files of %s cannot be kept: %s", root, error)
        return
    log.info("the list of %d files of %s is kept in %s", len(found.paths), root, file)


@contextlib.contextmanager
def _turn(file: Path) -> Iterator[None]:
    """One process at a time makes a list; where there are no locks each makes it for itself, as is told."""
    lock, made = file.with_suffix(".lock"), not file.parent.exists()
    with contextlib.ExitStack() as opened:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            held = opened.enter_context(lock.open("a"))
            opened.callback(_clear, lock, made)
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError as error:
            log.warning("no lock %s (%s); every process lists the files for itself", lock, error)
        yield


def _clear(lock: Path, made: bool) -> None:
    """Remove a lock, for who waits for it looks at the list next, and the folder that was made for it in vain."""
    lock.unlink(missing_ok=True)
    if made and not any(lock.parent.iterdir()):
        lock.parent.rmdir()

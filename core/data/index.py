"""What the media files of a collection hold: found once, kept in a cache, looked at again where a file has changed.

A domain says what its files are, a `MediaKind`: their name endings, and how one is probed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from core.data.listing import listed
from core.storage.atomic import write_atomic
from core.storage.json_files import parse_json

log = logging.getLogger(__name__)
Item, Result = TypeVar("Item"), TypeVar("Result")

SCHEMA_VERSION = 2  # 2: whether a file is cut off; lengths of MP3 as they are
NUM_LISTED = 5  # how many offenders an error message lists
CHUNK = 4096  # calls queued at once: a million of them take a gigabyte
PIECE, LEAST_PIECES = 32, 128  # calls handed to a thread at once, which costs as much as a look at a file; pieces
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)  # no file, or a link that leads to none
Entry = list[int]  # size, mtime_ns, and the facts


@dataclass(frozen=True)
class MediaKind:
    """One kind of media files.

    name      the word for them in messages, and the name of the index
    suffixes  the endings of their names, in lower case
    facts     dataclass of integers: what is known of a file; ValueError for numbers that no file has
    probe     path -> its facts, without decoding it; ValueError, naming the file, for a broken one
    others    endings of other files of this medium, which are not read: how many there are is told
    find      root and what `core.data.files.files_under` gives for suffixes and others there -> sorted paths of what is
              an item, where that is more than the files of these endings
    index     the name of the index, where it is not `name`: of files that are probed in another way
    """

    name: str
    suffixes: tuple[str, ...]
    facts: type
    probe: Callable[[Path], Any]
    others: tuple[str, ...] = ()
    find: Callable[[Path, Callable[..., list[Path]]], list[Path]] | None = None
    index: str | None = None


@dataclass(frozen=True)
class Index:
    """Facts of the files of a collection, by their paths below its root, and what is wrong with the broken ones."""

    facts: dict[str, Any]
    broken: dict[str, str]


def find_media(root: Path, kind: MediaKind, cache_dir: str | None = None) -> list[str]:
    """Sorted paths below `root` of the files of a kind, links followed, hidden ones left out; ValueError for none.

    cache_dir: keeps the list of a large folder, see `core.data.listing`; None: the folder is walked.
    """
    if kind.find:

        def files(suffixes: tuple[str, ...], others: tuple[str, ...]) -> list[Path]:
            return [root / os.fsdecode(path) for path in listed(root, suffixes, others, cache_dir).split()]

        found = [str(path.relative_to(root)) for path in kind.find(root, files)]
    else:
        found = [os.fsdecode(path) for path in listed(root, kind.suffixes, kind.others, cache_dir).split()]
    if not found:
        raise ValueError(f"data.root is {str(root)!r}: no {kind.name} file there ({', '.join(kind.suffixes)})")
    return found


def index_file(root: Path, kind: MediaKind, cache_dir: str) -> Path:
    """Where the index of a collection is kept: named by a hash of the root's absolute path."""
    digest = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()
    return Path(cache_dir).expanduser() / f"{kind.index or kind.name}_index_{digest[:16]}.json"


def index_media(
    root: Path,
    paths: Sequence[str],
    kind: MediaKind,
    cache_dir: str | None,
    max_broken: int = 0,
    check: Callable[[Any], None] | None = None,
) -> Index:
    """Facts of the files `paths` below `root`; those with the size and time of the cached index are not opened.

    cache_dir   holds the index; None: nothing is cached
    max_broken  so many files may be missing or broken: each is logged and left out. Files are probed, not decoded:
                damage in the middle of one shows when it is read
    check       facts -> ValueError for what the data set cannot use, such as a number of channels: broken too

    Raises ValueError, listing the first, for more broken files; OSError for a file that cannot be read.
    """
    file = None if cache_dir is None else index_file(root, kind, cache_dir)
    old = _load(file, kind) if file else {}
    new: dict[str, Entry] = {}
    facts: dict[str, Any] = {}
    broken: dict[str, str] = {}
    for number, (path, seen) in enumerate(in_threads(lambda path: _look(root, path, kind, old.get(path)), paths), 1):
        if isinstance(seen, list):
            new[path], seen = seen, _facts(root / path, kind, seen, check)
        (broken if isinstance(seen, str) else facts)[path] = seen
        if len(broken) > max_broken and number % CHUNK == 0:
            break
    if file and any(old.get(path) != entry for path, entry in new.items()):
        _save(file, root, kind, old | new)
    leave_out(broken, max_broken, f"{kind.name} files")
    return Index(facts, broken)


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result]]:
    """Each item with what `function` makes of it, in order, on all cores."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            size = max(1, min(PIECE, len(chunk) // LEAST_PIECES))
            pieces = [chunk[first : first + size] for first in range(0, len(chunk), size)]
            for piece, results in zip(pieces, pool.map(lambda piece: list(map(function, piece)), pieces), strict=True):
                yield from zip(piece, results, strict=True)


def leave_out(broken: Mapping[Any, str], max_broken: int, noun: str) -> None:
    """Log what is wrong with each of the broken files that are left out.

    Raises ValueError, listing the first, for more of them than data.max_broken.
    """
    if len(broken) > max_broken:
        first = "; ".join(list(broken.values())[:NUM_LISTED])
        raise ValueError(f"broken {noun}: {len(broken)}, data.max_broken is {max_broken}; the first: {first}")
    for why in broken.values():
        log.warning("left out: %s", why)


def refuse_lost_classes(before: Sequence[int], after: Sequence[int], names: Sequence[str], why: str) -> None:
    """Raises ValueError where labels that were there `before` files were left out are not there `after` it."""
    lost = sorted(set(before) - set(after))
    if lost:
        raise ValueError(f"{why} in the classes {[names[label] for label in lost][:NUM_LISTED]}")


def _look(root: Path, path: str, kind: MediaKind, old: Entry | None) -> Entry | str:
    """The entry of a file, or what is wrong with it."""
    try:
        status = os.stat(os.path.join(root, path))
        seen = [status.st_size, status.st_mtime_ns]
        return old if old and old[:2] == seen else [*seen, *astuple(kind.probe(root / path))]
    except ValueError as error:
        return str(error)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
        return f"{kind.name} file {root / path} is not there"


def _facts(path: Path, kind: MediaKind, entry: Entry, check: Callable[[Any], None] | None) -> Any | str:
    """The facts of an entry, or why the data set cannot use the file."""
    facts = kind.facts(*entry[2:])
    try:
        if check is not None:
            check(facts)
    except ValueError as error:
        return f"{kind.name} file {path}: {error}"
    return facts


def _load(file: Path, kind: MediaKind) -> dict[str, Entry]:
    """The cached entries by path; none where there is no index, or, with a warning, where it is damaged."""
    try:
        return _checked(parse_json(file.read_bytes(), "its JSON"), kind)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        log.warning("the %s index %s is damaged or old (%s); it is made anew", kind.name, file, error)
        return {}


def _checked(content: object, kind: MediaKind) -> dict[str, Entry]:
    width = 2 + len(fields(kind.facts))
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"needed: schema_version {SCHEMA_VERSION}")
    files = content.get("files")
    entries = files.values() if isinstance(files, dict) else [None]
    if not all(isinstance(entry, list) and [type(n) for n in entry] == [int] * width for entry in entries):
        raise ValueError(f"needed: {width} integers for each file")
    for entry in files.values():
        kind.facts(*entry[2:])
    return files


def _save(file: Path, root: Path, kind: MediaKind, entries: dict[str, Entry]) -> None:
    content = {"schema_version": SCHEMA_VERSION, "root": str(root.resolve()), "files": dict(sorted(entries.items()))}
    write_atomic(file, json.dumps(content))
    log.info("%s index of %d files written to %s", kind.name, len(entries), file)

"""What the files of a collection hold: found once, kept in a cache, looked at again only where a file has changed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from audio.sounds.files import AUDIO_SUFFIXES, AudioFacts, probe
from core.data.files import files_under
from core.storage.atomic import write_atomic

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
NUM_LISTED = 5  # how many offenders an error message lists
CHUNK = 4096  # files between two looks at the number of broken ones
Entry = list[int]  # size, mtime_ns, frames, sample_rate, channels


@dataclass(frozen=True)
class Index:
    """Facts of the files of a collection, by their paths below its root, and what is wrong with the broken ones."""

    facts: dict[str, AudioFacts]
    broken: dict[str, str]


def find_audio(root: Path) -> list[str]:
    """Sorted paths below `root` of the audio files there, links followed, hidden ones left out; ValueError for none."""
    found = [str(path.relative_to(root)) for path in files_under(root, AUDIO_SUFFIXES)]
    if not found:
        raise ValueError(f"data.root is {str(root)!r}: no audio file there ({', '.join(AUDIO_SUFFIXES)})")
    return found


def index_file(root: Path, cache_dir: str) -> Path:
    """Where the index of a collection is kept: named by a hash of the root's absolute path."""
    digest = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()
    return Path(cache_dir).expanduser() / f"audio_index_{digest[:16]}.json"


def index_audio(root: Path, paths: Sequence[str], cache_dir: str | None, max_broken: int = 0) -> Index:
    """Facts of the files `paths` below `root`; those with the size and time of the cached index are not opened.

    cache_dir   holds the index; None: nothing is cached
    max_broken  so many files may be missing or broken: each is logged and left out. Files are probed, not decoded:
                damage in the middle of one shows when it is read

    Raises ValueError, listing the first, for more broken files; OSError for a file that cannot be read.
    """
    file = None if cache_dir is None else index_file(root, cache_dir)
    old = _load(file) if file else {}
    new: dict[str, Entry] = {}
    broken: dict[str, str] = {}
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            for path, seen in zip(chunk, pool.map(lambda path: _look(root, path, old.get(path)), chunk), strict=True):
                (broken if isinstance(seen, str) else new)[path] = seen
            if len(broken) > max_broken:
                break
    if file and any(old.get(path) != entry for path, entry in new.items()):
        _save(file, root, old | new)
    _judge(broken, max_broken)
    return Index({path: AudioFacts(*entry[2:]) for path, entry in new.items()}, broken)


def _look(root: Path, path: str, old: Entry | None) -> Entry | str:
    """The entry of a file, or what is wrong with it."""
    try:
        status = (root / path).stat()
        seen = [status.st_size, status.st_mtime_ns]
        return old if old and old[:2] == seen else [*seen, *astuple(probe(root / path))]
    except FileNotFoundError:
        return f"audio file {root / path} is not there"
    except ValueError as error:
        return str(error)


def _judge(broken: dict[str, str], max_broken: int) -> None:
    if len(broken) > max_broken:
        first = "; ".join(list(broken.values())[:NUM_LISTED])
        raise ValueError(f"broken audio files: {len(broken)}, data.max_broken is {max_broken}; the first: {first}")
    for why in broken.values():
        log.warning("left out: %s", why)


def _load(file: Path) -> dict[str, Entry]:
    """The cached entries by path; none where there is no index, or, with a warning, where it is damaged."""
    try:
        content = json.loads(file.read_bytes())
        return _checked(content)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        log.warning("the audio index %s is damaged (%s); it is made anew", file, error)
        return {}


def _checked(content: object) -> dict[str, Entry]:
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"needed: schema_version {SCHEMA_VERSION}")
    files = content.get("files")
    width = 2 + len(AudioFacts.__dataclass_fields__)
    entries = files.values() if isinstance(files, dict) else [None]
    if not all(isinstance(entry, list) and [type(n) for n in entry] == [int] * width for entry in entries):
        raise ValueError(f"needed: {width} integers for each file")
    return files


def _save(file: Path, root: Path, entries: dict[str, Entry]) -> None:
    content = {"schema_version": SCHEMA_VERSION, "root": str(root.resolve()), "files": dict(sorted(entries.items()))}
    write_atomic(file, json.dumps(content))
    log.info("audio index of %d files written to %s", len(entries), file)

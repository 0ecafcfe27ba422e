"""Files that are equal bit for bit, found before a collection is split: the same bytes on both sides leak.

Only files of equal size are read; what was read is kept in a cache and read again where a file has changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.data.index import MediaKind, index_media
from core.storage.atomic import sha256_file


@dataclass(frozen=True)
class Content:
    """The SHA-256 of a file's bytes, as a number."""

    sha256: int


def read_content(path: Path) -> Content:
    """The content of a file."""
    return Content(int(sha256_file(path), 16))


CONTENT = MediaKind("content", (), Content, read_content)


def equal_files(root: Path, paths: Sequence[str], cache_dir: str | None) -> dict[str, str]:
    """For each file below `root` that equals one before it in `paths`, the first that it equals; they are all there.

    cache_dir: keeps the hashes by size and time of the files; None: nothing is kept.
    """
    by_size = defaultdict(list)
    for path in paths:
        by_size[(root / path).stat().st_size].append(path)
    alike = [path for group in by_size.values() if len(group) > 1 for path in group]
    hashes = index_media(root, alike, CONTENT, cache_dir).facts if alike else {}
    first: dict[Content, str] = {}
    found = {}
    for path in alike:
        known = first.setdefault(hashes[path], path)
        if known != path:
            found[path] = known
    return found

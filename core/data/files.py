"""Finding the files of a data set: in one order on every machine, and nothing passed over in silence.

All commands of all domains find their files here, so that what is trained on is what is measured.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

log = logging.getLogger(__name__)

MOST_THREADS = 16  # that wait for a network disk; on a local one the walk is Python's


def existing_folder(root: str, key: str = "data.root") -> Path:
    """The folder that the config `key` names; ValueError where there is none."""
    path = Path(root).expanduser()
    if not path.is_dir():
        raise ValueError(f"{key} is {root!r}, which is {'not a folder' if path.exists() else 'not there'}")
    return path


@dataclass(frozen=True)
class Found:
    """What a walk below a folder finds.

    paths    of the files below it, sorted by their parts
    folders  each folder that was looked into, by its path, as it was just before
    lost     links that led nowhere, to a folder around them, or to one that was walked already
    told     lines for the log
    """

    paths: list[str]
    folders: dict[str, os.stat_result]
    lost: list[str]
    told: list[str]


@dataclass
class _Folder:
    """What one folder holds: paths of media files, of folders, and of links to folders; see `Found` for the rest."""

    status: os.stat_result
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def files_under(folder: Path, suffixes: tuple[str, ...], others: tuple[str, ...] = ()) -> list[Path]:
    """Sorted files at any depth whose names end in `suffixes`, in either case; hidden files and folders are left out.

    Links are followed, but a link to a folder that holds it is not, and a folder that several links lead to is walked
    once. A link that leads nowhere is in the list, so that it counts as a broken file. Told in the log: links that are
    not followed, pipes, sockets and devices that are left out, and how many files have names that end in `others`:
    media that are not read.

    Raises OSError for a folder that cannot be read.
    """
    found = walk(folder, suffixes, others)
    tell(found.told)
    return [folder / path for path in found.paths]


def tell(lines: Iterable[str]) -> None:
    """Say in the log what a walk left out."""
    for line in lines:
        log.warning("%s", line)


def walk(root: Path, suffixes: tuple[str, ...], others: tuple[str, ...] = ()) -> Found:
    """What `files_under` gives and tells, and the folders it was found in, which several threads look into.

    Links to folders are followed last, sorted, those at the top before those below: what is there twice goes by its own
    place, or by that of the class that it is.
    """
    look = partial(_look_into, suffixes=suffixes, others=others)
    walked: dict[tuple[int, int], str] = {}
    found, passed_over, links = Found([], {}, [], []), Counter(), [os.fspath(root)]
    with ThreadPoolExecutor(MOST_THREADS) as pool:
        while links:
            following, links = sorted(links, key=lambda link: (link.count(os.sep), link)), []
            for link in following:
                level = [link]
                while level:
                    seen = zip(level, map(look, level) if len(level) == 1 else pool.map(look, level), strict=True)
                    folders = [folder for place, folder in seen if _is_new(place, folder, walked, found)]
                    level = [path for folder in folders for path in folder.folders]
                    links += [path for folder in folders for path in folder.links]
                    for folder in folders:
                        passed_over += folder.passed_over
    if passed_over:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(passed_over.items()))
        found.told.append(f"left out in {root}: {kinds}; read are {', '.join(suffixes)}")
    start = len(os.path.join(root, ""))
    found.paths[:] = sorted((path[start:] for path in found.paths), key=lambda path: path.replace(os.sep, "\0"))
    return found


def _is_new(place: str, folder: _Folder, walked: dict[tuple[int, int], str], found: Found) -> bool:
    """Whether a folder was not walked by another path; what it holds is then added to what was found."""
    first = walked.setdefault((folder.status.st_dev, folder.status.st_ino), place)
    if first != place:
        found.told.append(f"left out: {place} is the folder {first} once more")
        found.lost.append(place)
        return False
    found.folders[place] = folder.status
    found.paths.extend(folder.files)
    found.lost.extend(folder.lost)
    found.told.extend(folder.told)
    return True


def _look_into(folder: str, suffixes: tuple[str, ...], others: tuple[str, ...]) -> _Folder:
    seen = _Folder(os.stat(folder))  # before it is read: a change meanwhile shows
    for entry in _visible(folder):
        if _is_folder(entry):
            _sort_in(entry, seen)
            continue
        name = entry.name.lower()
        if name.endswith(suffixes):
            if entry.is_symlink() and _leads_nowhere(entry):
                seen.lost.append(entry.path)
            elif not entry.is_file():
                seen.told.append(f"left out: {entry.path} is a pipe, a socket or a device, not a file")
                continue
            seen.files.append(entry.path)
        elif name.endswith(others):
            seen.passed_over[os.path.splitext(name)[1]] += 1
        elif _leads_nowhere(entry):
            seen.told.append(f"left out: the link {entry.path} leads nowhere")
            seen.lost.append(entry.path)
    return seen


def _sort_in(entry: os.DirEntry, seen: _Folder) -> None:
    if not entry.is_symlink():
        seen.folders.append(entry.path)
    elif _holds_itself(entry.path):
        seen.told.append(f"left out: the link {entry.path} leads to a folder that holds it")
        seen.lost.append(entry.path)
    else:
        seen.links.append(entry.path)


def _visible(folder: str) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if entry.name[0] != "."]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle of links, which is none
        if entry.is_symlink():
            return False
        raise


def _leads_nowhere(entry: os.DirEntry) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _holds_itself(link: str) -> bool:
    """Whether the folder that a link leads to is one of those that the link lies in."""
    target, place = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return os.path.commonpath([target, place]) == target


def class_folders(root: Path) -> list[str]:
    """The sorted names of the folders in `root`, hidden ones left out: one for each class.

    A link to `root` or to a folder around it is no class. Raises ValueError for a link that leads nowhere: the classes
    after it would change their numbers.
    """
    visible = _visible(os.fspath(root))
    lost = sorted(entry.name for entry in visible if _leads_nowhere(entry))
    if lost:
        raise ValueError(f"{root} holds links that lead nowhere: {', '.join(lost)}; each could be a class")
    folders = [entry for entry in visible if _is_folder(entry)]
    return sorted(entry.name for entry in folders if not (entry.is_symlink() and _holds_itself(entry.path)))


def check_regular(path: Path) -> None:
    """Raises ValueError, without the path, for a folder, a pipe, a device and an empty file; OSError for no file."""
    status = path.stat()  # an OSError says what is wrong better than a decoder
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is a pipe or a device, not a file")
    if not status.st_size:
        raise ValueError("it is empty (0 bytes)")


def packed_paths(paths: list[Path], root: Path) -> list[bytes]:
    """Paths below `root` as bytes, to be kept in one array.

    A list of a million strings would be copied into every loader process as its counts are touched.
    """
    return [os.fsencode(path.relative_to(root)) for path in paths]

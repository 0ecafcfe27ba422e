"""Finding the files of a data set: in one order on every machine, and nothing passed over in silence.

All commands of all domains find their files here, so that what is trained on is what is measured.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)


def existing_folder(root: str, key: str = "data.root") -> Path:
    """The folder that the config `key` names; ValueError where there is none."""
    path = Path(root).expanduser()
    if not path.is_dir():
        raise ValueError(f"{key} is {root!r}, which is {'not a folder' if path.exists() else 'not there'}")
    return path


def files_under(folder: Path, suffixes: tuple[str, ...], others: tuple[str, ...] = ()) -> list[Path]:
    """Sorted files at any depth whose names end in `suffixes`, in either case; hidden files and folders are left out.

    Links are followed, but a link to a folder that holds it is not, and a folder that several links lead to is walked
    once. A link that leads nowhere is in the list, so that it counts as a broken file. Told in the log: links that are
    not followed, pipes, sockets and devices that are left out, and how many files have names that end in `others`:
    media that are not read.

    Raises OSError for a folder that cannot be read.
    """
    found, passed_over = [], Counter()
    for entry in _entries(folder):
        name = entry.name.lower()
        if name.endswith(suffixes):
            if _leads_nowhere(entry) or entry.is_file():
                found.append(Path(entry.path))
            else:
                log.warning("left out: %s is a pipe, a socket or a device, not a file", entry.path)
        elif name.endswith(others):
            passed_over[os.path.splitext(name)[1]] += 1
        elif _leads_nowhere(entry):
            log.warning("left out: the link %s leads nowhere", entry.path)
    if passed_over:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(passed_over.items()))
        log.warning("left out in %s: %s; read are %s", folder, kinds, ", ".join(suffixes))
    return sorted(found)


def _entries(root: Path) -> Iterator[os.DirEntry]:
    """What lies at any depth below a folder, folders themselves and hidden entries left out.

    Links to folders are followed last, sorted, those at the top before those below: what is there twice goes by its own
    place, or by that of the class that it is.
    """
    walked: dict[tuple[int, int], str] = {}
    links = [os.fspath(root)]
    while links:
        following, links = sorted(links, key=lambda link: (link.count(os.sep), link)), []
        for link in following:
            folders = [link]
            while folders:
                folder = folders.pop()
                status = os.stat(folder)
                first = walked.setdefault((status.st_dev, status.st_ino), folder)
                if first != folder:
                    log.warning("left out: %s is the folder %s once more", folder, first)
                    continue
                for entry in _visible(folder):
                    if not _is_folder(entry):
                        yield entry
                    elif not entry.is_symlink():
                        folders.append(entry.path)
                    elif _holds_itself(entry.path):
                        log.warning("left out: the link %s leads to a folder that holds it", entry.path)
                    else:
                        links.append(entry.path)


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

"""Finding the files of a data set: in one order on every machine, and nothing passed over in silence."""

from __future__ import annotations

import os
from pathlib import Path


def existing_folder(root: str, key: str = "data.root") -> Path:
    """The folder that the config `key` names; ValueError where there is none."""
    path = Path(root).expanduser()
    if not path.is_dir():
        raise ValueError(f"{key} is {root!r}, which is {'not a folder' if path.exists() else 'not there'}")
    return path


def files_under(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Sorted files at any depth, links followed, hidden ones left out; OSError for a folder that cannot be read."""

    def fail(error: OSError):
        raise error

    found = []
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        found += [Path(parent, name) for name in files if name[0] != "." and name.lower().endswith(suffixes)]
    return sorted(found)


def class_folders(root: Path) -> list[str]:
    """The sorted names of the folders in `root`, hidden ones left out: one for each class."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != ".")


def packed_paths(paths: list[Path], root: Path) -> list[bytes]:
    """Paths below `root` as bytes, to be kept in one array.

    A list of a million strings would be copied into every loader process as its counts are touched.
    """
    return [os.fsencode(path.relative_to(root)) for path in paths]

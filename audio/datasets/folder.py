"""Folders of audio files, with the names of folders as classes, and captions beside the files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from audio.datasets.windows import Collection, WindowDataset, WindowsConfig
from audio.sounds.sound import ClipFormat
from core.data.files import class_folders, existing_folder
from core.data.index import NUM_LISTED, find_audio

CLASSES = ("none", "folders")
CAPTION_SUFFIXES = (".csv", ".jsonl")
COLUMNS = ("path", "caption")
BESIDE = "txt"


@dataclass(frozen=True, kw_only=True)
class FolderConfig(WindowsConfig):
    """A folder of audio files at any depth, in either case of suffix; hidden ones are passed over.

    classes   "folders": the folders in the root are classes, and files beside them are passed over; "none"
    captions  a file below the root, .csv with the columns path and caption or .jsonl with these keys, whose paths
              start at the root; "txt": a text file beside each audio file; null: none. Every file needs one
    """

    classes: Literal["none", "folders"] = "none"
    captions: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.classes not in CLASSES:
            raise ValueError(f"data.classes is {self.classes!r}; allowed: {list(CLASSES)}")
        if self.captions not in (None, BESIDE) and not self.captions.endswith(CAPTION_SUFFIXES):
            raise ValueError(
                f"data.captions is {self.captions!r}; allowed: {BESIDE!r}, a file {' or '.join(CAPTION_SUFFIXES)}, null"
            )


class FolderDataset(WindowDataset):
    """The windows of a folder's audio files; see `WindowDataset`.

    Raises ValueError, naming the config key, for a root that is not there or holds no audio, for a class without a
    file, and for a file without a caption.
    """

    def __init__(self, config: FolderConfig, clip: ClipFormat):
        super().__init__(collect(config), config, clip)


def collect(config: FolderConfig) -> Collection:
    """The files of a folder with their classes and captions; none is opened."""
    root = existing_folder(config.root)
    paths, names, labels = find_audio(root), [], None
    if config.classes == "folders":
        names = class_folders(root)
        paths = [path for path in paths if len(Path(path).parts) > 1]
        folders = [Path(path).parts[0] for path in paths]
        empty = sorted(set(names) - set(folders))
        if empty or not names:
            such = f"{len(empty)} class folders without an audio file, such as {empty[:NUM_LISTED]}"
            raise ValueError(f"data.root is {config.root!r}, data.classes 'folders': {such if names else 'no folders'}")
        places = {name: place for place, name in enumerate(names)}
        labels = np.array([places[folder] for folder in folders], dtype=np.int64)
    captions = None if config.captions is None else _captions(root, paths, config.captions)
    return Collection(root, paths, paths, names, labels, captions)


def _captions(root: Path, paths: list[str], source: str) -> list[str]:
    """One text per file; ValueError, listing the first, where files have none."""
    by_path = _texts_beside(root, paths) if source == BESIDE else _caption_table(root / source)
    missing = [path for path in paths if not by_path.get(path)]
    if missing:
        raise ValueError(
            f"data.captions is {source!r}: {len(missing)} of {len(paths)} files have no caption, such as "
            f"{missing[:NUM_LISTED]}"
        )
    return [by_path[path] for path in paths]


def _texts_beside(root: Path, paths: list[str]) -> dict[str, str]:
    texts = {path: (root / path).with_suffix(".txt") for path in paths}
    return {path: _text(file) for path, file in texts.items() if file.is_file()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"data.captions: {file} is not UTF-8 text: {error}") from error


def _caption_table(file: Path) -> dict[str, str]:
    """Captions by path; ValueError, naming the line, for one that lacks a column or repeats a path."""
    if not file.is_file():
        raise ValueError(f"data.captions is {file.name!r}: there is no file {file}")
    found: dict[str, str] = {}
    for line, row in _rows(file):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in COLUMNS):
            raise ValueError(f"data.captions: {file}, line {line} is {row!r}; needed: {' and '.join(COLUMNS)}")
        path = str(Path(row["path"]))
        if path in found:
            raise ValueError(f"data.captions: {file}, line {line} captions {path!r} again")
        found[path] = row["caption"].strip()
    return found


def _rows(file: Path) -> Iterator[tuple[int, object]]:
    """Line and content of each row of a CSV or JSONL file."""
    text = _text(file)
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        for row in reader:
            yield reader.line_num, row
        return
    for line, content in enumerate(text.split("\n"), start=1):
        try:
            yield line, json.loads(content)
        except ValueError as error:
            raise ValueError(f"data.captions: {file}, line {line} is not JSON: {error}") from error

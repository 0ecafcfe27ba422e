"""MTG-Jamendo: full-length tracks with tags of genre, instrument and mood or theme, split by published TSV files.

A line of such a file holds track, artist and album id, path, duration, and then one column for each tag, written
`genre---rock`. The tags are the tracks' conditions; they are named here as they are written there.

Letters: n items of the data set, K tags of the vocabulary.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from audio.datasets.windows import WindowDataset, WindowsConfig
from audio.sounds.sound import ClipFormat
from core.data.captions import composed, read_text
from core.data.collection import Collection
from core.data.duplicates import equal_files
from core.data.files import existing_folder
from core.data.index import NUM_LISTED
from core.schema import FREE

log = logging.getLogger(__name__)

CATEGORIES = ("genre", "instrument", "mood/theme")
HEADER = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]
SEPARATOR = "---"
LOW_SUFFIX = ".low.mp3"  # of the published archive of lower quality
PUBLISHED = re.compile(r"\d\d/\d+(\.low)?\.mp3")  # how the archive names its tracks
DUPLICATES = ("remove", "keep")


@dataclass(frozen=True, kw_only=True)
class JamendoConfig(WindowsConfig):
    """Tracks of a published split. A track lies at the PATH of the TSV, `14/214.mp3`, or else at `14/214.low.mp3`.

    tsv         the split, such as autotagging_genre-train.tsv
    tags        categories whose tags are kept
    vocabulary  a text file of one tag a line, or another TSV, whose tags are the vocabulary: give all splits the same.
                null: the tags of `tsv`, sorted
    only        tags; tracks without any of them are left out. Empty: all tracks

    duplicates  "remove": of tracks whose files are equal bit for bit only the first by path is taken, whichever TSVs
                list them, so that no split holds a track of another; "keep": all are taken

    `split` cuts a TSV further, by artist.
    """

    tsv: str = field(metadata=FREE)
    tags: tuple[str, ...] = CATEGORIES
    vocabulary: str | None = None
    only: tuple[str, ...] = ()
    duplicates: Literal["remove", "keep"] = "remove"

    def __post_init__(self):
        super().__post_init__()
        if not self.tsv:
            raise ValueError(
                f"data.tsv is {self.tsv!r}; needed: a published split, such as autotagging_genre-train.tsv"
            )
        unknown = [name for name in self.tags if name not in CATEGORIES]
        if unknown or not self.tags:
            raise ValueError(f"data.tags is {list(self.tags)}; allowed: one or more of {list(CATEGORIES)}")
        if self.duplicates not in DUPLICATES:
            raise ValueError(f"data.duplicates is {self.duplicates!r}; allowed: {list(DUPLICATES)}")

    def build(self, clip: ClipFormat, patch_size: int) -> JamendoDataset:
        """The data set of clips of that format, whatever the backbone's patch is."""
        return JamendoDataset(self, clip)


@dataclass(frozen=True)
class Track:
    """A line of a TSV: its path, artist, and tags."""

    path: str
    artist: str
    tags: tuple[str, ...]


class JamendoDataset(WindowDataset):
    """The windows of the tracks of a split; `tag_names` (K) and `tag_sets` (n, K) say what is heard.

    Raises ValueError, naming the config key or the line, for a TSV of another kind, an unknown tag, or missing tracks.
    """

    def __init__(self, config: JamendoConfig, clip: ClipFormat):
        super().__init__(collect(config), config, clip)


def collect(config: JamendoConfig) -> Collection:
    """The tracks of a split with their tags; files are read only to tell those that are bit for bit the same."""
    root = existing_folder(config.root)
    tracks = read_tracks(_file(config.tsv, "data.tsv"), config.tags)
    if config.vocabulary is None:
        names = _vocabulary(tracks)
    else:
        names = read_vocabulary(_file(config.vocabulary, "data.vocabulary"), config.tags)
    sets = np.stack([tag_set(track.tags, names, f"{config.tsv}, {track.path}").numpy() for track in tracks])
    if config.only:
        rows = np.flatnonzero((sets & tag_set(config.only, names, "data.only").numpy()).any(axis=1))
        if not len(rows):
            raise ValueError(f"data.only is {list(config.only)}: no track of {config.tsv} has one of these tags")
        tracks, sets = [tracks[row] for row in rows], sets[rows]
    untagged = int((sets.sum(axis=1) == 0).sum())
    if untagged:
        log.info("%d of %d tracks have no tag of %s", untagged, len(tracks), list(config.tags))
    paths = [_audio_path(root, track.path) for track in tracks]
    found = Collection(root, paths, [track.artist for track in tracks], tag_names=names, tag_sets=sets)
    return found if config.duplicates == "keep" else without_duplicates(found, config.cache_dir)


def without_duplicates(tracks: Collection, cache_dir: str | None) -> Collection:
    """The tracks without those whose file equals an earlier one of the archive's, by path; how many, is told.

    Looked at are all tracks of the archive, those that the TSV does not list too. Raises ValueError where none is left.
    """
    archive = {str(path.relative_to(tracks.root)) for path in tracks.root.glob("*/*.mp3")}
    whole = {path.removesuffix(".mp3") + LOW_SUFFIX for path in archive}  # whose low file is not taken
    known = {path for path in archive - whole if PUBLISHED.fullmatch(path)}
    there = {path for path in (*known, *tracks.paths) if (tracks.root / path).is_file()}
    equal = equal_files(tracks.root, sorted(there), cache_dir)
    rows = [row for row, path in enumerate(tracks.paths) if path not in equal]
    if len(rows) < len(tracks.paths):
        log.warning(
            "%d of %d tracks are left out: their files are bit for bit those of other tracks (%d files in %s equal an "
            "earlier one); data.duplicates=keep takes them",
            len(tracks.paths) - len(rows),
            len(tracks.paths),
            len(equal),
            tracks.root,
        )
    if not rows:
        raise ValueError("data.duplicates is 'remove': every track of data.tsv equals one that another TSV lists")
    return tracks.rows(rows)


def tag_set(tags: Iterable[str], names: Sequence[str], key: str) -> Tensor:
    """(K,) uint8, 1 for each of `tags`; ValueError, naming `key` and what is spelled alike, for an unknown one."""
    row = torch.zeros(len(names), dtype=torch.uint8)
    places = {name: place for place, name in enumerate(names)}
    for tag in map(composed, tags):
        if tag not in places:
            near = near_matches(tag, names)
            known = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"known are {len(names)}, such as {names[:NUM_LISTED]}"
            )
            raise ValueError(f"{key}: unknown tag {tag!r}; {known}")
        row[places[tag]] = 1
    return row


def near_matches(tag: str, names: Sequence[str]) -> list[str]:
    """Up to `NUM_LISTED` names spelled like `tag`, with its category or without."""
    short = [name.split(SEPARATOR)[-1] for name in names]
    wanted = set(difflib.get_close_matches(tag.split(SEPARATOR)[-1], short, n=NUM_LISTED))
    return [name for name, each in zip(names, short, strict=True) if each in wanted][:NUM_LISTED]


def read_tracks(file: Path, categories: Sequence[str]) -> list[Track]:
    """The tracks of a TSV in its order, with their tags of `categories`; ValueError naming the line that is wrong."""
    lines = _lines(file, "data.tsv")
    if not lines or lines[0].split("\t") != HEADER:
        raise ValueError(f"{file}, line 1: needed: the columns {' '.join(HEADER)}, separated by tabs")
    tracks, seen = [], set()
    for number, line in enumerate(lines[1:], start=2):
        columns = line.split("\t")
        if len(columns) < len(HEADER):
            raise ValueError(f"{file}, line {number} has {len(columns)} columns; needed: {len(HEADER)} or more")
        path, tags = os.path.normpath(columns[3].strip() or "."), [composed(tag.strip()) for tag in columns[5:]]
        wrong = [tag for tag in tags if tag.split(SEPARATOR)[0] not in CATEGORIES or not tag.partition(SEPARATOR)[2]]
        if wrong:
            allowed = ", ".join(f"{name}{SEPARATOR}..." for name in CATEGORIES)
            raise ValueError(f"{file}, line {number}: tag {wrong[0]!r}; allowed: {allowed}")
        outside = os.path.isabs(path) or path.split(os.sep)[0] in (".", "..")
        if outside or composed(path) in seen:
            what = (
                f"the column PATH is {columns[3]!r}; needed: a path below data.root"
                if outside
                else f"the track {path} is listed twice"
            )
            raise ValueError(f"{file}, line {number}: {what}")
        seen.add(composed(path))
        tracks.append(Track(path, columns[1], tuple(tag for tag in tags if tag.split(SEPARATOR)[0] in categories)))
    if not tracks:
        raise ValueError(f"{file} lists no tracks")
    return tracks


def read_vocabulary(file: Path, categories: Sequence[str]) -> list[str]:
    """The tags of a text file, one a line, in its order, or the sorted ones of a TSV; ValueError for a repeated one."""
    if file.suffix.lower() == ".tsv":
        return _vocabulary(read_tracks(file, categories))
    names = [composed(line.strip()) for line in _lines(file, "data.vocabulary") if line.strip()]
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated or not names:
        raise ValueError(
            f"data.vocabulary {file} " + (f"repeats {repeated[:NUM_LISTED]}" if names else "holds no tags")
        )
    return names


def _vocabulary(tracks: Sequence[Track]) -> list[str]:
    return sorted({tag for track in tracks for tag in track.tags})


def _lines(file: Path, key: str) -> list[str]:
    lines = read_text(file, key).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _file(name: str, key: str) -> Path:
    file = Path(name).expanduser()
    if not file.is_file():
        raise ValueError(f"{key} is {name!r}, which is not a file")
    return file


def _audio_path(root: Path, path: str) -> str:
    """Where a track lies below the root, its name in any Unicode form; its own path where it lies nowhere."""
    names = (path, path.removesuffix(".mp3") + LOW_SUFFIX)
    forms = [form for name in names for form in (name, composed(name), unicodedata.normalize("NFD", name))]
    return next((form for form in forms if (root / form).is_file()), path)

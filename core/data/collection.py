"""The files of a collection before any is opened, with what is known of each: its class, caption and tags.

Letters: f files, K tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.data.captions import read_captions
from core.data.files import class_folders
from core.data.index import NUM_LISTED, MediaKind, find_media
from core.draws import fold_seed

CLASSES = ("none", "folders")
SPLITS = ("train", "heldout", "all")


@dataclass(frozen=True)
class Collection:
    """The files of a collection before any is opened; a field that is None does not apply.

    root         the folder
    paths        of the f files below it
    groups       f names; files of one name fall into the same split
    class_names  of all classes, in the order of the labels
    labels       (f,) int64
    captions     f texts
    tag_names    K
    tag_sets     (f, K) uint8
    """

    root: Path
    paths: list[str]
    groups: list[str]
    class_names: list[str] = field(default_factory=list)
    labels: np.ndarray | None = None
    captions: list[str] | None = None
    tag_names: list[str] = field(default_factory=list)
    tag_sets: np.ndarray | None = None

    def rows(self, rows: Sequence[int]) -> Collection:
        """The files `rows` alone."""
        return Collection(
            self.root,
            [self.paths[row] for row in rows],
            [self.groups[row] for row in rows],
            self.class_names,
            None if self.labels is None else self.labels[rows],
            None if self.captions is None else [self.captions[row] for row in rows],
            self.tag_names,
            None if self.tag_sets is None else self.tag_sets[rows],
        )


def split_rows(collection: Collection, split: str, heldout_share: float, stream: str) -> list[int]:
    """Rows of the files of a split; a hash of (stream, group) decides, so that a new file moves no other.

    Raises ValueError, naming the config keys, where none falls into it.
    """
    rows = list(range(len(collection.paths)))
    if split != "all":
        threshold, wanted = heldout_share * 2**63, split == "heldout"
        rows = [row for row in rows if (fold_seed(stream, collection.groups[row]) < threshold) == wanted]
    if not rows:
        raise ValueError(
            f"data.split is {split!r}, data.heldout_share {heldout_share}: none of the "
            f"{len(collection.paths)} files of {collection.root} falls into it"
        )
    return rows


def collect_folder(
    root: Path, kind: MediaKind, classes: str, captions: str | None, cache_dir: str | None = None
) -> Collection:
    """The files of a folder with their classes and captions; none is opened.

    classes   "folders": the folders in the root are classes, and files beside them are passed over; "none"
    captions  "txt", the name of a table below the root, or None; see `core.data.captions`
    cache_dir keeps the list of the files; see `core.data.listing`

    Raises ValueError, naming data.root, data.classes or data.captions, for a folder that lacks what is asked for.
    """
    paths, names, labels = find_media(root, kind, cache_dir), [], None
    if classes == "folders":
        names = class_folders(root)
        paths = [path for path in paths if len(Path(path).parts) > 1]
        folders = [Path(path).parts[0] for path in paths]
        empty = sorted(set(names) - set(folders))
        if empty or not names:
            such = f"{len(empty)} class folders without an {kind.name} file, such as {empty[:NUM_LISTED]}"
            raise ValueError(f"data.root is {str(root)!r}, data.classes 'folders': {such if names else 'no folders'}")
        places = {name: place for place, name in enumerate(names)}
        labels = np.array([places[folder] for folder in folders], dtype=np.int64)
    texts = None if captions is None else read_captions(root, paths, captions)
    return Collection(root, paths, paths, names, labels, texts)

"""UCF-101: clips of 101 actions, split by the published lists, which keep the clips of a group (gXX) together.

root/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi ...        the clips
lists/classInd.txt, lists/trainlist01.txt, testlist01.txt   the classes, numbered from 1, and three ways to split
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from core.data.captions import read_text
from core.data.collection import Collection
from core.data.files import existing_folder, files_under
from core.data.index import NUM_LISTED
from core.schema import FREE
from video.datasets.clips import FrameMasks
from video.datasets.windows import WindowDataset, WindowsConfig

log = logging.getLogger(__name__)

SPLITS, FOLDS = ("train", "test", "all"), (1, 2, 3)
LISTS_FOLDER, CLASSES_FILE = "ucfTrainTestlist", "classInd.txt"
NUM_CLASSES, NUM_CLIPS = 101, 13_320
PUBLISHED = {("train", 1): 9_537, ("test", 1): 3_783}
NAME = re.compile(r"v_(\w+)_g(\d+)_c(\d+)\.avi")


@dataclass(frozen=True, kw_only=True)
class Ucf101Config(WindowsConfig):
    """UCF-101 with its actions as classes.

    lists  the folder of classInd.txt and the lists; null: ucfTrainTestlist in the root, or beside it
    split  "train" or "test" of the lists, or "all": both
    fold   which of the three ways to split
    """

    lists: str | None = field(default=None, metadata=FREE)
    split: Literal["train", "test", "all"] = "train"
    fold: Literal[1, 2, 3] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (("split", SPLITS), ("fold", FOLDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"data.{name} is {getattr(self, name)!r}; allowed: {list(allowed)}")

    def build(self, frame_masks: FrameMasks | None = None) -> WindowDataset:
        """The data set of clips; ValueError, naming the config key or the line, for lists of another kind."""
        root = existing_folder(self.root)
        return WindowDataset(collect(root, find_lists(root, self.lists), self.split, self.fold), self, frame_masks)


def find_lists(root: Path, lists: str | None) -> Path:
    """The folder of the split lists; ValueError where there is none."""
    places = [root / LISTS_FOLDER, root.parent / LISTS_FOLDER, root]
    if lists is not None:
        places = [existing_folder(lists, "data.lists")]
    found = [place for place in places if (place / CLASSES_FILE).is_file()]
    if not found:
        raise ValueError(f"data.lists is {lists!r}: no file {CLASSES_FILE} in {', '.join(map(str, places))}")
    return found[0]


def collect(root: Path, lists: Path, split: str, fold: int) -> Collection:
    """The clips of a split in the order of its list, their labels those of classInd.txt.

    Raises ValueError for a group that is in both splits. Told: another number of clips than the published one, and
    files that no list names.
    """
    names = read_classes(lists / CLASSES_FILE)
    both = {each: read_list(lists / f"{each}list{fold:02}.txt", names) for each in ("train", "test")}
    shared = sorted({group_of(path) for path in both["train"]} & {group_of(path) for path in both["test"]})
    if shared:
        raise ValueError(
            f"data.lists is {str(lists)!r}: {len(shared)} groups are in the train list and in the test list, such as "
            f"{shared[:NUM_LISTED]}; clips of a group are cut from one film"
        )
    listed = both["train"] + both["test"]
    paths = listed if split == "all" else both[split]
    published = PUBLISHED.get((split, fold), NUM_CLIPS if split == "all" else len(paths))
    if len(paths) != published:
        log.warning("data.split %r of UCF-101 lists %d clips, the published one %d", split, len(paths), published)
    spare = {str(path.relative_to(root)) for path in files_under(root, (".avi",))} - set(listed)
    if spare:
        log.warning("left out in %s: %d files that no list names, such as %s", root, len(spare), sorted(spare)[:5])
    labels = np.array([names.index(Path(path).parts[0]) for path in paths], dtype=np.int64)
    return Collection(root, paths, [group_of(path) for path in paths], names, labels)


def group_of(path: str) -> str:
    """Class and group of a clip, such as "ApplyEyeMakeup g08"."""
    name = NAME.fullmatch(Path(path).name)
    return f"{name[1]} g{name[2]}"


def read_classes(file: Path) -> list[str]:
    """The names of the classes in their order; ValueError, naming the line, for lines that do not count from 1."""
    names = []
    for number, line in _lines(file):
        words = line.split()
        if len(words) != 2 or words[0] != str(len(names) + 1) or words[1] in names:
            raise ValueError(f"{file}, line {number} is {line!r}; needed: {len(names) + 1} and the name of a class")
        names.append(words[1])
    if len(names) != NUM_CLASSES:
        log.warning("%s names %d classes, UCF-101 has %d", file, len(names), NUM_CLASSES)
    return names


def read_list(file: Path, names: list[str]) -> list[str]:
    """The paths of a split list, once each; ValueError, naming the line, for another kind of line or another class."""
    paths, seen = [], set()
    for number, line in _lines(file):
        path, *label = line.split()
        folder, _, name = path.partition("/")
        if folder not in names or not NAME.fullmatch(name) or path in seen:
            what = (
                "listed twice" if path in seen else f"needed: CLASS/v_CLASS_gXX_cYY.avi, of a class of {CLASSES_FILE}"
            )
            raise ValueError(f"{file}, line {number} is {line!r}; {what}")
        if label and label != [str(names.index(folder) + 1)]:
            raise ValueError(
                f"{file}, line {number} is {line!r}; {CLASSES_FILE} numbers {folder} {names.index(folder) + 1}"
            )
        seen.add(path)
        paths.append(path)
    return paths


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    if not file.is_file():
        raise ValueError(f"data.lists: there is no file {file}")
    lines = [(number, line.strip()) for number, line in enumerate(read_text(file, "data.lists").split("\n"), 1)]
    if not any(line for _, line in lines):
        raise ValueError(f"data.lists: {file} is empty")
    return iter([(number, line) for number, line in lines if line])

"""The lists of a folder of motions: which of them are for training, and whether they are all that are published."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from core.data.captions import read_text
from core.data.index import NUM_LISTED

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test", "all", "train_val")
APART = ("train", "val", "test")  # no motion may be in two of these
NAME = re.compile(r"[\w-][\w.-]*")
MIRRORED = re.compile(r"M(?=\d+$)")  # M000021 is 000021 seen in a mirror
# Names in the published lists; HumanML3D, counted.
PUBLISHED = {"t2m": {"train": 23_384, "val": 1_460, "test": 4_384, "all": 29_228, "train_val": 24_844}, "kit": {}}
LIKE_PUBLISHED = 0.9  # a list of at least this share of the published one is taken for it
# Clips of the published HumanML3D that hold NaN: its numbers are for the others.
PUBLISHED_NAN = {"t2m": {"007975", "M007975"}, "kit": set()}


def read_split(root: Path, split: str) -> list[str]:
    """The names of `split`.txt, each once; ValueError, naming the file, for none, and for a name that is no file's."""
    file = root / f"{split}.txt"
    if not file.is_file():
        there = [name for name in SPLITS if (root / f"{name}.txt").is_file()]
        raise ValueError(
            f"data.root is {str(root)!r} and data.split is {split!r}: there is no file {file}; lists there: "
            f"{', '.join(there) or 'none'}"
        )
    names = [line.strip() for line in read_text(file, "data.split").split("\n") if line.strip()]
    for number, name in enumerate(names, start=1):
        if not NAME.fullmatch(name):
            raise ValueError(f"{file}, name {number} is {name!r:.80}; needed: the name of a motion, such as 000021")
    repeated = len(names) - len(set(names))
    if repeated or not names:
        raise ValueError(f"{file} " + (f"names {repeated} motions twice" if repeated else "is empty"))
    return names


def check_apart(root: Path, split: str, names: Sequence[str]) -> None:
    """Raises ValueError where a motion of `split`, or its mirror image, is in another of train, val and test."""
    if split not in APART:
        return
    own = {MIRRORED.sub("", name) for name in names}
    for other in APART:
        if other == split or not (root / f"{other}.txt").is_file():
            continue
        shared = sorted(own & {MIRRORED.sub("", name) for name in read_split(root, other)})
        if shared:
            raise ValueError(
                f"{root}: {len(shared)} motions of {split}.txt, or their mirror images, are in {other}.txt too, such "
                f"as {shared[:NUM_LISTED]}"
            )


def compare_with_published(skeleton: str, split: str, count: int) -> str | None:
    """How a list of `count` names differs from the published one; None: not at all, or it is another data set's."""
    published = PUBLISHED[skeleton].get(split)
    if published is None or count == published or not LIKE_PUBLISHED <= count / published <= 1 / LIKE_PUBLISHED:
        return None
    return f"{split}.txt names {count} motions, the published one {published}"

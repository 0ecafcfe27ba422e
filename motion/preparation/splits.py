"""Which clips are for training: lists that are given, or dealt out by the clips' names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.draws import fold_seed
from core.storage.atomic import write_atomic
from motion.preparation.layout import MIRROR, SPLITS, Layout, read_names

SHARES = {"val": 0.05, "test": 0.15}  # of the published data set, the rest is for training


def write_splits(layout: Layout, clips: Sequence[str], mirrors: bool, given: Path | None) -> dict[str, list[str]]:
    """Write train.txt, val.txt, test.txt, train_val.txt and all.txt of `clips`; the first three, by name.

    given  folder with the first three, of whose names those that are clips are kept; None: see `deal`
    """
    found = _read(given, clips) if given else deal(clips, mirrors)
    joined = {"train_val": found["train"] + found["val"], "all": [name for split in SPLITS for name in found[split]]}
    for name, names in (found | joined).items():
        write_atomic(layout.split(name), "".join(f"{each}\n" for each in names))
    return found


def deal(clips: Sequence[str], mirrors: bool) -> dict[str, list[str]]:
    """Each clip's split by a hash of its name: 5 % val and 15 % test, at least one each where there are three clips.

    A mirror is with its clip. Where clips come to a folder, few of the others change their split.
    """
    names = set(clips)
    own = [name for name in clips if not (mirrors and name.startswith(MIRROR) and name.removeprefix(MIRROR) in names)]
    order = sorted(own, key=lambda name: fold_seed("split", name))
    counts = {name: max(int(len(own) > 2), round(share * len(own))) for name, share in SHARES.items()}
    ends = counts["val"], counts["val"] + counts["test"]
    dealt = {"train": order[ends[1] :], "val": order[: ends[0]], "test": order[ends[0] : ends[1]]}
    both = {name: [name, MIRROR + name] if mirrors and MIRROR + name in names else [name] for name in own}
    return {split: sorted(each for name in dealt[split] for each in both[name]) for split in SPLITS}


def check_lists(folder: Path) -> None:
    """ValueError for a folder that lacks one of the three lists."""
    for split in SPLITS:
        if not (folder / f"{split}.txt").is_file():
            raise ValueError(f"splits is {str(folder)!r}, which has no {split}.txt")


def _read(folder: Path, clips: Sequence[str]) -> dict[str, list[str]]:
    there = set(clips)
    return {split: [name for name in read_names(folder / f"{split}.txt") if name in there] for split in SPLITS}

"""CLEVRER: 20,000 rendered clips of 128 frames, 480 x 320 pixels, as they are unpacked.

    root/video_train/video_00000-01000/video_00000.mp4 ... root/video_validation/... root/video_test/...

The number in a file's name says its split, wherever below the root it lies.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.data.collection import Collection
from core.data.files import existing_folder, files_under
from core.data.index import NUM_LISTED
from video.datasets.clips import FrameMasks
from video.datasets.windows import WindowDataset, WindowsConfig

log = logging.getLogger(__name__)

SPLITS = {
    "train": range(10_000),
    "validation": range(10_000, 15_000),
    "test": range(15_000, 20_000),
    "all": range(20_000),
}
NAME = re.compile(r"video_(\d{5})\.mp4")


@dataclass(frozen=True, kw_only=True)
class ClevrerConfig(WindowsConfig):
    """CLEVRER's clips without classes. They are not square: `fit` says whether they are cropped or squeezed.

    split  "train" (numbers 0-9999), "validation" (10000-14999), "test" (15000-19999) or "all"
    """

    split: Literal["train", "validation", "test", "all"] = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in SPLITS:
            raise ValueError(f"data.split is {self.split!r}; allowed: {list(SPLITS)}")

    def build(self, frame_masks: FrameMasks | None = None) -> WindowDataset:
        """The data set of clips; ValueError, naming the config key, for a root without any of the split."""
        return WindowDataset(collect(existing_folder(self.root), self.split), self, frame_masks)


def collect(root: Path, split: str) -> Collection:
    """The files of a split by their numbers; other names, and a count that is not the published one, are told."""
    numbers: dict[int, str] = {}
    others = []
    for path in files_under(root, (".mp4",)):
        match = NAME.fullmatch(path.name)
        number = int(match[1]) if match else -1
        if number not in SPLITS["all"]:
            others.append(str(path.relative_to(root)))
        elif number in numbers:
            raise ValueError(f"data.root is {str(root)!r}: video {number} is there twice: {numbers[number]} and {path}")
        else:
            numbers[number] = str(path.relative_to(root))
    if others:
        log.warning("left out in %s: %d files of other names, such as %s", root, len(others), others[:NUM_LISTED])
    wanted = SPLITS[split]
    paths = [numbers[number] for number in wanted if number in numbers]
    if not paths:
        raise ValueError(
            f"data.root is {str(root)!r}, data.split is {split!r}: no file video_{wanted[0]:05}.mp4 to "
            f"video_{wanted[-1]:05}.mp4 there"
        )
    if len(paths) != len(wanted):
        log.warning("data.split %r of CLEVRER has %d clips, the published one %d", split, len(paths), len(wanted))
    return Collection(root, paths, paths)

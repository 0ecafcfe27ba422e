"""Folders of video files and of frames, with the names of folders as classes, and captions beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.data.captions import check_captions
from core.data.collection import CLASSES, SPLITS, collect_folder, split_rows
from core.data.files import existing_folder
from video.datasets.clips import MAX_FPS, FrameMasks
from video.datasets.files import VIDEO
from video.datasets.windows import WindowDataset, WindowsConfig

SPLIT_STREAM = "video heldout"


@dataclass(frozen=True, kw_only=True)
class FolderConfig(WindowsConfig):
    """MP4, MKV, WebM, AVI and GIF files and folders of frames at any depth; hidden ones are passed over.

    classes        "folders": the folders in the root are classes, and files beside them are passed over; "none"
    captions       a file below the root, .csv with the columns path and caption or .jsonl with these keys, whose paths
                   start at the root; "txt": a text file beside each video; null: none. Every video needs one; a caption
                   without a video is told
    split          "train", "heldout" or "all" of the files; a hash decides, so that a new file moves no other
    heldout_share  of the files
    frame_rate     frames a second of folders of frames, which tell no time; null: clip.fps is refused for them
    """

    classes: Literal["none", "folders"] = "none"
    captions: str | None = None
    split: Literal["train", "heldout", "all"] = "all"
    heldout_share: float = 0.05
    frame_rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (("classes", CLASSES), ("split", SPLITS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"data.{name} is {getattr(self, name)!r}; allowed: {list(allowed)}")
        if not 0 < self.heldout_share < 1:
            raise ValueError(f"data.heldout_share is {self.heldout_share!r}; allowed: above 0 and below 1")
        if self.frame_rate is not None and not 0 < self.frame_rate <= MAX_FPS:
            raise ValueError(f"data.frame_rate is {self.frame_rate!r}; allowed: above 0, {MAX_FPS:g} at most, or null")
        check_captions(self.captions)

    def build(self, frame_masks: FrameMasks | None = None) -> FolderDataset:
        """The data set of clips; frame_masks: which tokens hold which frames, where short files are padded."""
        return FolderDataset(self, frame_masks)


class FolderDataset(WindowDataset):
    """The clips of a folder; see `WindowDataset`.

    Raises ValueError, naming the config key, for a root that is not there or holds no video, for a class without a
    file, and for a file without a caption.
    """

    def __init__(self, config: FolderConfig, frame_masks: FrameMasks | None):
        collection = collect_folder(
            existing_folder(config.root), VIDEO, config.classes, config.captions, config.cache_dir
        )
        rows = split_rows(collection, config.split, config.heldout_share, SPLIT_STREAM)
        super().__init__(collection.rows(rows), config, frame_masks)

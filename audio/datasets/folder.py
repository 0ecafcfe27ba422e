"""Folders of audio files, with the names of folders as classes, and captions beside the files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from audio.datasets.windows import WindowDataset, WindowsConfig
from audio.sounds.files import AUDIO
from audio.sounds.sound import ClipFormat
from core.data.captions import check_captions
from core.data.collection import CLASSES, collect_folder
from core.data.files import existing_folder


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
        check_captions(self.captions)

    def build(self, clip: ClipFormat, patch_size: int) -> FolderDataset:
        """The data set of clips of that format, whatever the backbone's patch is."""
        return FolderDataset(self, clip)


class FolderDataset(WindowDataset):
    """The windows of a folder's audio files; see `WindowDataset`.

    Raises ValueError, naming the config key, for a root that is not there or holds no audio, for a class without a
    file, and for a file without a caption.
    """

    def __init__(self, config: FolderConfig, clip: ClipFormat):
        collection = collect_folder(
            existing_folder(config.root), AUDIO, config.classes, config.captions, config.cache_dir
        )
        super().__init__(collection, config, clip)

"""Encoded images of class folders or parquet shards, decoded when they are asked for.

Letters: n images of a data set, C channels, H height, W width in pixels.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.files import class_folders, existing_folder
from core.data.index import NUM_LISTED, in_threads, leave_out, refuse_lost_classes
from core.data.listing import listed
from core.data.pixels import from_uint8
from core.schema import FREE
from image.datasets.decode import center_crop, decode_image, naming, read_bytes, to_bytes
from image.datasets.images import ImageDataset
from image.datasets.parquet import ParquetSource

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".jxl", ".tif", ".tiff")  # told, not read
BESIDE = -1  # in place of the label of a file beside the class folders


@dataclass(frozen=True)
class _FilesConfig:
    """Encoded images of any size.

    root        the folder that holds them
    size        side of the square image, pixels
    channels    3 for RGB, 1 for grey
    flip        mirror an image with probability 1/2
    max_broken  0: a broken image is an error when it is read. Above 0: every process decodes all images once when it
                builds the data set (a core-hour per million) and leaves out so many at most; each is logged, so that
                the files can be mended and the option taken back
    """

    root: str = field(metadata=FREE)
    size: int = 256
    channels: Literal[1, 3] = 3
    flip: bool = True
    max_broken: int = 0

    def __post_init__(self):
        if not self.root:
            raise ValueError(f"data.root is {self.root!r}; needed: the folder that holds the images")
        if self.size < 1:
            raise ValueError(f"data.size is {self.size!r}; allowed: 1 pixel or more")
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels is {self.channels!r}; allowed: 1 (grey) or 3 (RGB)")
        if self.max_broken < 0:
            raise ValueError(f"data.max_broken is {self.max_broken!r}; allowed: 0 (a broken image is an error) or more")

    @property
    def media_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image, known without the data."""
        return self.channels, self.size, self.size

    @property
    def transform(self) -> dict[str, Any]:
        """What decides the pixels of a given image; see `image.datasets.decode`."""
        return {"crop": "adm", "channels": self.channels, "size": self.size, "flip": self.flip}


@dataclass(frozen=True)
class FolderConfig(_FilesConfig):
    """One folder per class, as in ImageNet: `root/<class>/**/<image>.{jpeg,jpg,png,webp}`, in either case.

    Hidden files, other kinds of files and files beside the class folders are passed over.

    cache_dir  keeps the list of the files of a large folder; null: every run walks the folder
    """

    cache_dir: str | None = field(default="runs/cache", metadata=FREE)

    def build(self) -> FileDataset:
        """The images; ValueError, naming the config key, for a root that does not hold any."""
        return FileDataset(FolderSource(existing_folder(self.root), self.cache_dir), self)


@dataclass(frozen=True)
class ParquetConfig(_FilesConfig):
    """ImageNet as the hub stores it: shards `root/**/<split>*.parquet` with the columns `image` and `label`.

    split      how the names of the shards begin; * and ? are wildcards
    cache_dir  where the `datasets` library keeps its Arrow copy, as large as the shards; null: the library's default
    """

    split: str = "train"
    cache_dir: str | None = field(default=None, metadata=FREE)

    def __post_init__(self):
        super().__post_init__()
        if not self.split or "/" in self.split:
            raise ValueError(f"data.split is {self.split!r}; allowed: the first letters of the shards' file names")

    def build(self) -> FileDataset:
        """The images; ValueError, naming the config key, for a root that does not hold any."""
        return FileDataset(ParquetSource(existing_folder(self.root), self.split, self.cache_dir), self)


class FileDataset(ImageDataset):
    """Encoded images of a source, decoded when they are asked for; `decode_image` says how.

    A source gives `class_names`, `labels` (n,) int64, the bytes of a row and the place where a person finds it.
    """

    def __init__(self, source: FolderSource | ParquetSource, config: FolderConfig | ParquetConfig):
        self._source, self._size = source, config.size
        self._rows = np.arange(len(source.labels))
        labels = torch.from_numpy(source.labels)
        super().__init__(config.media_shape, source.class_names, labels, config.flip)
        if config.max_broken:
            self._leave_out(self.find_broken(), config.max_broken)

    def pixels(self, index: int, mirror: bool = False) -> Tensor:
        """Image `index`, decoded and cropped."""
        return from_uint8(self._bytes(index, mirror))

    def stored(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """What `item` gives, `media` as bytes (C, H, W) uint8."""
        return {"media": self._bytes(index, self.draw(rng)), "condition": int(self.labels[index])}

    def _bytes(self, index: int, mirror: bool = False) -> Tensor:
        row = int(self._rows[index])
        with naming(f"{self._source.where(row)} (index {index})"):
            image = decode_image(self._source.read(row), self.media_shape[0])
            pixels = to_bytes(center_crop(image, self._size))
        return pixels.flip(-1) if mirror else pixels

    def name(self, index: int) -> str:
        """The file, or the shard and the row in it."""
        return self._source.where(int(self._rows[index]))

    def find_broken(self) -> dict[int, str]:
        """Decode every image, on all cores: what is wrong with the broken ones, by index; OSError if the disk fails."""
        log.info("decoding %d images to find broken ones", len(self))
        return {index: why for index, why in in_threads(self._defect, range(len(self))) if why}

    def _defect(self, index: int) -> str | None:
        try:
            self._bytes(index)
        except ValueError as error:
            return str(error)
        return None

    def _leave_out(self, broken: dict[int, str], max_broken: int) -> None:
        leave_out(broken, max_broken, "images")
        keep = np.setdiff1d(np.arange(len(self)), list(broken))
        labels = self.labels.tolist()
        why = f"every image is broken ({'; '.join(list(broken.values())[:NUM_LISTED])})"
        refuse_lost_classes(labels, self.labels[keep].tolist(), self.class_names, why)
        self._rows, self.labels, self.num_broken = self._rows[keep], self.labels[keep], len(broken)


class FolderSource:
    """Images in class folders: labels follow the sorted folder names, rows the sorted paths.

    Raises ValueError for a root without class folders and for a class without an image.
    """

    def __init__(self, root: Path, cache_dir: str | None = None):
        self._root = root
        self.class_names = class_folders(root)
        if not self.class_names:
            raise ValueError(f"data.root is {str(root)!r}, which holds no folders; needed: one folder per class")
        packed = listed(root, IMAGE_SUFFIXES, OTHER_SUFFIXES, cache_dir).split()
        places = {os.fsencode(name): place for place, name in enumerate(self.class_names)}
        labels = [places.get(path.partition(b"/")[0], BESIDE) for path in packed]
        held = set(labels)
        empty = [name for place, name in enumerate(self.class_names) if place not in held]
        if empty:
            such = f"({', '.join(IMAGE_SUFFIXES)}) in {len(empty)} class folders, such as {empty[:NUM_LISTED]}"
            raise ValueError(f"data.root is {str(root)!r}: no image {such}")
        self.labels = np.array([label for label in labels if label != BESIDE], dtype=np.int64)
        self._paths = np.array([path for path, label in zip(packed, labels, strict=True) if label != BESIDE])

    def read(self, row: int) -> bytes:
        """All bytes of a file."""
        return read_bytes(self.where(row))

    def where(self, row: int) -> str:
        """The path of a file."""
        return os.path.join(self._root, os.fsdecode(self._paths[row]))

"""Labelled images: handwritten digits that need no download, class folders, parquet shards, and cached latents.

Every data set gives square images in [-1, 1] and takes its one augmentation, the horizontal flip, from the generator
that is handed in. A file that cannot be decoded is an error, or is counted and left out if `data.max_broken` allows it;
no image ever stands in for another.

Letters: n images of a data set, C channels, H height, W width in pixels.
"""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.files import class_folders, existing_folder, files_under, packed_paths
from core.draws import fold_seed
from core.latents.cache import LatentShards
from image.datasets.decode import center_crop, decode_image, to_media

log = logging.getLogger(__name__)

CACHE_KIND = "image"
CACHE_COMMAND = "python -m image.cache"
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
SPLITS = ("train", "heldout", "all")
HELDOUT_SHARE = 0.2
NUM_LISTED = 5  # how many offenders an error message lists


@dataclass(frozen=True)
class DigitsConfig:
    """scikit-learn's handwritten digits: 1797 real grey images of 8x8 pixels, a small stand-in that needs no download.

    split  "train" (80 %), "heldout" (20 % of each digit) or "all"
    """

    split: Literal["train", "heldout", "all"] = "train"

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"data.split is {self.split!r}; allowed: {list(SPLITS)}")

    @property
    def media_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image, known without the data."""
        return 1, 8, 8

    @property
    def transform(self) -> dict[str, Any]:
        """What decides the pixels of a given image."""
        return {"crop": "none", "channels": 1, "size": 8, "flip": False}


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

    root: str
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
    """


@dataclass(frozen=True)
class ParquetConfig(_FilesConfig):
    """ImageNet as the hub stores it: shards `root/**/<split>*.parquet` with the columns `image` and `label`.

    split      how the names of the shards begin; * and ? are wildcards
    cache_dir  where the `datasets` library keeps its Arrow copy, as large as the shards; null: the library's default
    """

    split: str = "train"
    cache_dir: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.split or "/" in self.split:
            raise ValueError(f"data.split is {self.split!r}; allowed: the first letters of the shards' file names")


@dataclass(frozen=True)
class LatentsConfig:
    """A latent cache, written by `python -m image.cache`.

    root      the folder of the cache
    size      side of the images that were encoded, pixels
    channels  of those images
    flip      take a mirrored image's latent with probability 1/2; needs a cache of both mirrors
    """

    root: str
    size: int = 256
    channels: Literal[1, 3] = 3
    flip: bool = True

    def __post_init__(self):
        if not self.root:
            raise ValueError(f"data.root is {self.root!r}; needed: the folder of a latent cache")
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels is {self.channels!r}; allowed: 1 (grey) or 3 (RGB)")

    @property
    def media_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that were encoded, known without the cache."""
        return self.channels, self.size, self.size


PIXEL_DATASETS: dict[str, type] = {"digits": DigitsConfig, "folder": FolderConfig, "parquet": ParquetConfig}
DATASETS: dict[str, type] = {**PIXEL_DATASETS, "latents": LatentsConfig}
PixelsDataConfig = DigitsConfig | FolderConfig | ParquetConfig


class ImageDataset:
    """What all data sets of pixels share; fulfils `core.contracts.Dataset`.

    media_shape  (C, H, W)
    class_names  one name per label
    labels       (n,) int64
    flip         True when `item` mirrors at random, so that a cache needs both `pixels(i, False)` and `pixels(i, True)`
    num_broken   images that were left out because they could not be decoded
    """

    num_broken = 0

    def __init__(self, media_shape: tuple[int, int, int], class_names: list[str], labels: Tensor, flip: bool):
        self.media_shape, self.class_names = media_shape, class_names
        self.labels, self.flip = labels, flip

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int, mirror: bool = False) -> Tensor:
        """Image `index` (C, H, W) float32 in [-1, 1]; ValueError, naming the file, when it cannot be decoded."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Where a person finds image `index`."""
        raise NotImplementedError

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """`media` (C, H, W) float32 in [-1, 1] and `condition`, the int label; `rng` decides the flip."""
        mirror = self.flip and bool(rng.random() < 0.5)
        return {"media": self.pixels(index, mirror), "condition": int(self.labels[index])}


def build_dataset(config: PixelsDataConfig | LatentsConfig) -> ImageDataset | LatentShards:
    """The data set that `config` describes; ValueError, naming the config key, for a root that does not hold one."""
    if isinstance(config, DigitsConfig):
        return DigitsDataset(config)
    if isinstance(config, FolderConfig):
        return FileDataset(FolderSource(existing_folder(config.root)), config)
    if isinstance(config, ParquetConfig):
        return FileDataset(ParquetSource(existing_folder(config.root), config.split, config.cache_dir), config)
    if isinstance(config, LatentsConfig):
        return _open_cache(config)
    raise ValueError(f"data is a {type(config).__name__}; allowed: {', '.join(DATASETS)}")


def _open_cache(config: LatentsConfig) -> LatentShards:
    cache = LatentShards(config.root, flip=config.flip, make_command=CACHE_COMMAND)
    if cache.spec.kind != CACHE_KIND:
        raise ValueError(f"data.root is {config.root!r}, a cache of kind {cache.spec.kind!r}; allowed: {CACHE_KIND!r}")
    if cache.media_shape != config.media_shape:
        channels, height, _ = cache.media_shape
        raise ValueError(
            f"data.size is {config.size} and data.channels {config.channels}, but the cache {config.root} was made of "
            f"images with data.size={height} data.channels={channels}"
        )
    return cache


class DigitsDataset(ImageDataset):
    """Digits of 8x8 pixels, all of a split in memory: `images` (n, 1, 8, 8) in [-1, 1] and `labels` (n,).

    No flip: a mirrored digit is no digit. The same people wrote both splits, so `heldout` measures new images, not new
    hands.
    """

    def __init__(self, config: DigitsConfig):
        from sklearn.datasets import load_digits  # a second to import, and of no use to the other data sets

        digits = load_digits()
        rows = _digit_rows(digits.target, config.split)
        self._split = config.split
        self.images = torch.from_numpy(digits.images[rows]).float()[:, None] / 8 - 1  # 0..16 -> [-1, 1]
        labels = torch.from_numpy(digits.target[rows]).long()
        super().__init__(config.media_shape, [str(name) for name in digits.target_names], labels, flip=False)

    def pixels(self, index: int, mirror: bool = False) -> Tensor:
        """Image `index`, a (1, 8, 8) copy."""
        return self.images[index].flip(-1) if mirror else self.images[index].clone()

    def name(self, index: int) -> str:
        """The row of the split."""
        return f"digit {index} of {self._split}"


def _digit_rows(labels: np.ndarray, split: str) -> np.ndarray:
    """Rows of a split in ascending order; which rows are held out depends on hashes, not on a library's generator."""
    heldout = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label).tolist(), key=lambda row: fold_seed("digits heldout", row))
        heldout[rows[: round(HELDOUT_SHARE * len(rows))]] = True
    return np.flatnonzero({"train": ~heldout, "heldout": heldout, "all": np.full_like(heldout, True)}[split])


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
        row = int(self._rows[index])
        try:
            image = decode_image(self._source.read(row), self.media_shape[0])
        except ValueError as error:
            raise ValueError(f"broken image {self._source.where(row)} (index {index}): {error}") from error
        media = to_media(center_crop(image, self._size))
        return media.flip(-1) if mirror else media

    def name(self, index: int) -> str:
        """The file, or the shard and the row in it."""
        return self._source.where(int(self._rows[index]))

    def find_broken(self) -> dict[int, str]:
        """Decode every image, on all cores: what is wrong with the broken ones, by index; OSError if the disk fails."""
        log.info("decoding %d images to find broken ones", len(self))
        broken = {}
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(self), 4096):  # not at once: a million queued calls take a gigabyte
                indices = range(start, min(start + 4096, len(self)))
                defects = pool.map(self._defect, indices)
                broken |= {index: why for index, why in zip(indices, defects, strict=True) if why}
        return broken

    def _defect(self, index: int) -> str | None:
        try:
            self.pixels(index)
        except ValueError as error:
            return str(error)
        return None

    def _leave_out(self, broken: dict[int, str], max_broken: int) -> None:
        if len(broken) > max_broken:
            first = "\n  ".join(list(broken.values())[:NUM_LISTED])
            raise ValueError(f"{len(broken)} broken images, data.max_broken is {max_broken}; the first are\n  {first}")
        for why in broken.values():
            log.warning("left out: %s", why)
        keep = np.setdiff1d(np.arange(len(self)), list(broken))
        lost = set(self.labels.tolist()) - set(self.labels[keep].tolist())
        if lost:
            raise ValueError(f"every image is broken in the classes {[self.class_names[label] for label in lost]}")
        self._rows, self.labels, self.num_broken = self._rows[keep], self.labels[keep], len(broken)


class FolderSource:
    """Images in class folders: labels follow the sorted folder names, rows the sorted paths.

    Raises ValueError for a root without class folders and for a class without an image.
    """

    def __init__(self, root: Path):
        self._root = root
        self.class_names = class_folders(root)
        if not self.class_names:
            raise ValueError(f"data.root is {str(root)!r}, which holds no folders; needed: one folder per class")
        paths = [files_under(root / name, IMAGE_SUFFIXES) for name in self.class_names]
        empty = [name for name, found in zip(self.class_names, paths, strict=True) if not found]
        if empty:
            such = f"({', '.join(IMAGE_SUFFIXES)}) in {len(empty)} class folders, such as {empty[:NUM_LISTED]}"
            raise ValueError(f"data.root is {str(root)!r}: no image {such}")
        self.labels = np.repeat(np.arange(len(paths), dtype=np.int64), [len(found) for found in paths])
        self._paths = np.array([path for found in paths for path in packed_paths(found, root)])

    def read(self, row: int) -> bytes:
        """All bytes of a file."""
        return Path(self.where(row)).read_bytes()

    def where(self, row: int) -> str:
        """The path of a file."""
        return os.path.join(self._root, os.fsdecode(self._paths[row]))


class ParquetSource:
    """Rows of parquet shards, read through the `datasets` library from its memory-mapped Arrow copy.

    Classes are the names of the ClassLabel feature. Without one they are the distinct labels, sorted, so that two
    splits agree only where both hold every label. Raises ValueError for shards that are missing, damaged or laid out
    otherwise, ImportError without the `hf` extra.
    """

    def __init__(self, root: Path, split: str, cache_dir: str | None = None):
        try:
            import datasets
        except ImportError:
            raise ImportError("data.name=parquet needs the extra 'hf': pip install 'layersync[hf]'") from None
        pattern = f"{split}*.parquet"
        self._shards = [path for path in files_under(root, (".parquet",)) if fnmatch.fnmatch(path.name, pattern)]
        self._first_rows = np.cumsum([0, *(_num_rows(shard) for shard in self._shards)])
        if not self._first_rows[-1]:
            raise ValueError(f"data.root is {str(root)!r}, data.split is {split!r}: no file {pattern} with rows there")
        shards = [glob.escape(str(shard)) for shard in self._shards]  # the library reads its paths as patterns
        table = datasets.load_dataset("parquet", data_files=shards, split="train", cache_dir=cache_dir)
        missing = {"image", "label"} - set(table.column_names)
        if missing:
            raise ValueError(f"data.root is {str(root)!r}: {pattern} lacks the columns {sorted(missing)}")
        self._images = table.select_columns("image").cast_column("image", datasets.Image(decode=False))
        feature = table.features["label"]
        names = feature.names if isinstance(feature, datasets.ClassLabel) else None
        self.class_names, self.labels = _classes(table.data.column("label"), names)

    def read(self, row: int) -> bytes:
        """The bytes in a row; ValueError for a row that holds none, or only a path on its maker's machine."""
        image = self._images[row]["image"]
        if not image or not image["bytes"]:
            raise ValueError("the row holds no bytes")
        return image["bytes"]

    def where(self, row: int) -> str:
        """The shard and the row within it, from 0."""
        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return f"{self._shards[shard]}, row {row - self._first_rows[shard]}"


def _num_rows(shard: Path) -> int:
    from pyarrow import ArrowInvalid, parquet  # comes with `datasets`

    try:
        return parquet.read_metadata(shard).num_rows
    except ArrowInvalid as error:
        raise ValueError(f"damaged parquet file {shard}: {error}") from error


def _classes(column: Any, names: list[str] | None) -> tuple[list[str], np.ndarray]:
    """Class names and labels (n,) int64 from an Arrow column of numbers, which may have `names`, or of strings."""
    values = column.to_numpy()
    if column.null_count or values.dtype.kind == "f":
        raise ValueError("column 'label' has empty rows or fractions; needed: a class in every row")
    if names is None:
        distinct, labels = np.unique(values, return_inverse=True)
        return [str(name) for name in distinct], labels.astype(np.int64)
    outside = values[(values < 0) | (values >= len(names))]
    if len(outside):
        raise ValueError(f"column 'label' holds {outside[0]} (no labels published?); allowed: 0..{len(names) - 1}")
    return list(names), values.astype(np.int64)

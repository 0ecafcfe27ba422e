"""Images that are there already, to be measured: a folder of files or an .npz, read a batch at a time.

Letters: n images, B batch, H height, W width in pixels, C channels.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from core.data.files import files_under
from core.data.pixels import to_uint8
from core.storage.arrays import npz_array, npz_keys
from core.storage.atomic import sha256_file
from core.storage.provenance import json_sha256
from eval.measure.extractor import Extractor, FeatureExtraction
from eval.measure.media import ArrayMedia, Media
from eval.measure.metrics import Metric, ReferenceStatistics
from eval.measure.reference import (
    FACTS,
    MediaReference,
    Reference,
    Size,
    StatisticsReference,
    check_statistics,
    check_statistics_suffice,
    load_statistics,
)
from image.datasets.decode import decode_image, image_size, naming, read_bytes
from image.datasets.digits import DigitsConfig
from image.datasets.files import IMAGE_SUFFIXES, OTHER_SUFFIXES
from image.datasets.scenes import ScenesConfig

MAX_THREADS = 8
MAX_PIXELS = 2**26  # of an image: 8192x8192; larger ones take gigabytes, and extractors see 299 pixels of a side


class Images(Media):
    """n uint8 images in a fixed order; `rows` gives (B, C, H, W)."""

    unit = "image"

    def rows(self, first: int, last: int) -> Tensor:
        """Images first <= i < last: (B, C, H, W) uint8; ValueError for a broken one or one of another size."""
        raise NotImplementedError


class FolderImages(Images):
    """Image files of one size at any depth below a folder, in the order of their paths, as RGB."""

    kind = "folder"

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name
        self.paths = files_under(folder, IMAGE_SUFFIXES, OTHER_SUFFIXES)
        if not self.paths:
            raise ValueError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        with naming(str(self.paths[0])):
            width, height = image_size(read_bytes(self.paths[0]))
        self.size = height, width, 3

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, first: int, last: int) -> Tensor:
        """Decoded on several threads."""
        paths = self.paths[first:last]
        images = np.empty((len(paths), *self.size), dtype=np.uint8)
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            deque(pool.map(self._read, paths, images), maxlen=0)
        return rearrange(torch.from_numpy(images), "b h w c -> b c h w")

    def _read(self, path: Path, pixels: np.ndarray) -> None:
        """Decode a file into `pixels` (H, W, 3)."""
        with naming(str(path)):
            data = read_bytes(path)
            width, height = image_size(data)
        if (height, width, 3) != self.size:
            first = f"{self.paths[0].name} is {self.size[1]}x{self.size[0]}"
            raise ValueError(f"{path} is {width}x{height} pixels, {first}; all must be alike")
        if width * height > MAX_PIXELS:
            raise ValueError(f"{path} is {width}x{height} pixels; images to be measured have {MAX_PIXELS:,} at most")
        with naming(str(path)):
            pixels[:] = decode_image(data, 3)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 over every path below the folder and its file's SHA-256."""
        return json_sha256({str(path.relative_to(self.folder)): sha256_file(path) for path in self.paths})


class NpzImages(Images):
    """`arr_0` uint8 (n, H, W, C) of an .npz, as ADM's evaluator takes it, and labels in `arr_1` where it has them.

    An array that is not compressed stays on the disk and is read as it is needed.
    """

    kind = "npz"

    def __init__(self, path: Path):
        self.path, self.name = path, path.name
        self.array = npz_array(path, "arr_0")
        if self.array.dtype != np.uint8 or self.array.ndim != 4 or self.array.shape[-1] not in (1, 3):
            found = f"{self.array.dtype} {self.array.shape}"
            raise ValueError(f"arr_0 of {path} is {found}; needed: uint8 (n, height, width, 1 or 3)")
        if not self.array.size:
            raise ValueError(f"arr_0 of {path} holds no image")
        if "arr_1" in npz_keys(path):
            self.labels = self._labels(npz_array(path, "arr_1"))

    def _labels(self, labels: np.ndarray) -> Tensor:
        count = len(self.array)
        if labels.shape != (count,) or labels.dtype.kind not in "iu" or not _are_classes(labels):
            found = f"{labels.dtype} {labels.shape}"
            raise ValueError(f"arr_1 of {self.path} is {found}; needed: classes from 0, ({count},), one for each image")
        return torch.from_numpy(labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, first: int, last: int) -> Tensor:
        """Read from the file."""
        return rearrange(torch.from_numpy(np.array(self.array[first:last])), "b h w c -> b c h w")

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file."""
        return sha256_file(self.path)


def _are_classes(labels: np.ndarray) -> bool:
    return bool(labels.min() >= 0 and labels.max() <= np.iinfo(np.int64).max)


def open_images(path: Path, key: str) -> Images:
    """The images in a folder or an .npz; ValueError naming the config key for anything else."""
    if path.is_dir():
        return FolderImages(path)
    if path.is_file() and path.suffix == ".npz":
        return NpzImages(path)
    what = "another kind of file" if path.exists() else "not there"
    raise ValueError(f"{key} is {str(path)!r}, which is {what}; allowed: a folder of images or an .npz")


DIGITS = {"digits": "train", "digits_heldout": "heldout"}  # reference=NAME -> the split
SCENES = {"scenes": "train", "scenes_heldout": "heldout"}
REFERENCE_SCENES = 6_000  # at most, of the train split


class AdmReference(Reference):
    """A reference batch of ADM: statistics of a whole data set, and some images of it for precision and recall only."""

    def __init__(self, path: Path):
        self.path, self.name = path, path.name
        check_statistics(path)
        self.media = NpzImages(path) if "arr_0" in npz_keys(path) else None
        self.count = None if self.media is None else len(self.media)
        self.size = None if self.media is None else tuple(self.media.array.shape[1:3])

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "kind": "adm", "sha256": sha256_file(self.path), "num_samples": None}

    def check(self, metrics: Sequence[Metric], features: str) -> None:
        if features != "inception_adm":
            names = ", ".join(metric.name for metric in metrics)
            raise ValueError(
                f"{self.path} is a reference of another protocol: its statistics are ADM's, but {names} would be taken "
                f"with features={features}; allowed with it: inception_adm"
            )
        if self.media is None:
            check_statistics_suffice("reference", self.path, metrics, "image")

    def statistics(
        self, metrics: Sequence[Metric], extractor: Extractor, extraction: FeatureExtraction
    ) -> ReferenceStatistics | None:
        moments = load_statistics(self.path, metrics, extractor).moments
        if all(metric.needs != "features" for metric in metrics):
            return ReferenceStatistics(moments, media=self.media)
        features = extraction.extract_features(self.media, extractor)
        return None if features is None else ReferenceStatistics(moments, features.arrays, self.media)


class DigitsReference(MediaReference):
    """scikit-learn's digits in [-1, 1]; as the bytes of image files for an extractor that takes no floats."""

    def __init__(self, split: str):
        digits = DigitsConfig(split=split).build()
        name = f"scikit-learn's digits, {split}"
        media = ArrayMedia(name, "image", digits.images, digits.labels)
        super().__init__(media, size_of(media))
        self.as_bytes = ArrayMedia(name, "image", to_uint8(digits.images), digits.labels)

    def media_for(self, extractor: Extractor) -> Media:
        return self.media if extractor.takes_floats else self.as_bytes


def scenes_reference(data: ScenesConfig) -> MediaReference:
    """Rendered scenes of a split, of the train split the first ones only."""
    scenes = data.build()
    count = min(len(scenes), REFERENCE_SCENES) if data.split == "train" else len(scenes)
    name = f"rendered scenes of {data.size} pixels, seed {data.seed}, {data.split}"
    return of_images(ArrayMedia(name, "image", scenes.bytes_at(range(count)), scenes.labels[:count]))


def size_of(images: Media) -> Size:
    """(H, W)."""
    return tuple(images.rows(0, 1).shape[-2:])


def open_reference(value: str) -> Reference:
    """Open what the config key `reference` names; ValueError for what is none, and for a damaged file."""
    if value in DIGITS and not Path(value).exists():
        return DigitsReference(DIGITS[value])
    path = Path(value).expanduser()
    if path.is_file() and path.suffix == ".npz":
        keys = npz_keys(path)
        if {"mu", "sigma"} & set(keys):
            return StatisticsReference(path, "image") if FACTS in keys else AdmReference(path)
    try:
        return of_images(open_images(path, "reference"))
    except ValueError as error:
        if path.exists():
            raise
        raise ValueError(f"{error}, or {', '.join([*DIGITS, *SCENES])}") from None


def of_images(images: Media) -> MediaReference:
    """Images to compare with."""
    return MediaReference(images, size_of(images))

"""What images are compared with: images, ADM's reference batch, or statistics that were measured before.

An .npz says by its keys which it is: `arr_0` alone are images, `mu` and `sigma` ADM's statistics, `facts` beside them
makes it ours.

Letters: H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoint import sha256_file
from core.pixels import to_uint8
from eval.collection import ArrayMedia, Media
from eval.extraction import Extractor, Take
from eval.measuring import Against, Wanted
from eval.npz import npz_keys
from eval.reference import (
    FACTS,
    MediaReference,
    Reference,
    Size,
    StatisticsReference,
    load_statistics,
    refuse_features,
)
from image.collection import NpzImages, open_images
from image.data import DigitsConfig, build_dataset

DIGITS = {"digits": "train", "digits_heldout": "heldout"}  # reference=NAME -> the split


class AdmReference(Reference):
    """A reference batch of ADM: statistics of a whole data set, and some images of it for precision and recall only."""

    def __init__(self, path: Path):
        self.path, self.name = path, path.name
        self.media = NpzImages(path) if "arr_0" in npz_keys(path) else None
        self.count = None if self.media is None else len(self.media)
        self.size = None if self.media is None else tuple(self.media.array.shape[1:3])

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "kind": "adm", "sha256": sha256_file(self.path), "num_samples": None}

    def check(self, metrics: Wanted, features: str) -> None:
        if features != "inception_adm":
            raise ValueError(
                f"{self.path} is a reference of another protocol: its statistics are ADM's, but {', '.join(metrics)} "
                f"would be taken with features={features}; allowed with it: inception_adm"
            )
        if self.media is None:
            refuse_features("reference", self.path, metrics, "image")

    def against(self, metrics: Wanted, extractor: Extractor, take: Take) -> Against | None:
        features: Mapping[str, np.ndarray] | None = {}
        if any(metric.needs == "features" for metric in metrics.values()):
            features = take(self.media, extractor)
            if features is None:
                return None
        return Against(load_statistics(self.path, metrics, extractor).moments, features, self.media)


class DigitsReference(MediaReference):
    """scikit-learn's digits in [-1, 1]; as the bytes of image files for an extractor that takes no floats."""

    def __init__(self, split: str):
        digits = build_dataset(DigitsConfig(split=split))
        name = f"scikit-learn's digits, {split}"
        media = ArrayMedia(name, "image", digits.images, digits.labels)
        super().__init__(media, size_of(media))
        self.as_bytes = ArrayMedia(name, "image", to_uint8(digits.images), digits.labels)

    def seen_by(self, extractor: Extractor) -> Media:
        return self.media if extractor.takes_floats else self.as_bytes


def size_of(images: Media) -> Size:
    """(H, W)."""
    return tuple(images.rows(0, 1).shape[-2:])


def check_size(size: Size, reference: Reference) -> None:
    """Raises ValueError for samples of another (H, W) than the reference's."""
    if reference.size is not None and size != reference.size:
        shapes = [f"{width}x{height}" for height, width in (size, reference.size)]
        raise ValueError(f"samples are {shapes[0]} pixels, the reference {reference.name} {shapes[1]}; both must agree")


def open_reference(value: str) -> Reference:
    """What the config key `reference` names; ValueError for what is none, and for a damaged file."""
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
        raise ValueError(f"{error}, or {', '.join(DIGITS)}") from None


def of_images(images: Media) -> MediaReference:
    """Images to compare with."""
    return MediaReference(images, size_of(images))

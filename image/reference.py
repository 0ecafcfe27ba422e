"""What samples are compared with: images, ADM's reference batch, or statistics that were measured before.

An .npz says by its keys which it is: `arr_0` alone are images, `mu` and `sigma` ADM's statistics, `facts` beside them
makes it ours. Statistics belong to the features that they were measured with and are refused for any other.

Letters: n images, D features, H height, W width.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoint import sha256_file, write_atomic
from core.distributed import World
from eval.statistics import load_moments, moments
from image.collection import ArrayImages, Images, NpzImages, npz_array, npz_keys, open_images
from image.data import DigitsConfig, build_dataset
from image.features import Extractor
from image.measure import METRICS, Against, check_finite, extract

DIGITS = {"digits": "train", "digits_heldout": "heldout"}  # reference=NAME -> the split
FACTS = "facts"  # our own statistics say what they are
STATISTICS = {"main": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
Extract = Callable[[Images, Extractor], dict[str, np.ndarray] | None]


class Reference:
    """Something to compare with.

    size    (H, W) of its images; None where it is not known
    count   images that features can be taken of; None: only its statistics are there
    """

    name: str
    size: tuple[int, int] | None
    count: int | None

    def facts(self) -> dict[str, Any]:
        """What a record says of it: name, kind, sha256, num_samples."""
        raise NotImplementedError

    def check(self, metrics: Sequence[str], features: str) -> None:
        """Raises ValueError for metrics that need more than it has, and `features` it was not measured with."""

    def check_features(self, metrics: Sequence[str], extractor: Extractor) -> None:
        """Raises ValueError for other weights or preprocessing than it was measured with."""

    def against(self, metrics: Sequence[str], extractor: Extractor, take: Extract) -> Against | None:
        """What the metrics need of it, in the main process; `take` extracts features on all processes."""
        raise NotImplementedError


class ImagesReference(Reference):
    """Images, whose features are taken anew."""

    def __init__(self, images: Images):
        self.images, self.name, self.count = images, images.name, len(images)
        self.size = tuple(images.rows(0, 1).shape[-2:])

    def facts(self) -> dict[str, Any]:
        return self.images.facts()

    def against(self, metrics: Sequence[str], extractor: Extractor, take: Extract) -> Against | None:
        if all(METRICS[name].needs == "nothing" for name in metrics):
            return Against({}, {})
        features = take(self.images, extractor)
        if features is None:
            return None
        wanted = [_stream(name, extractor) for name in metrics if METRICS[name].needs == "moments"]
        return Against({of: moments(features[of]) for of in dict.fromkeys(wanted)}, features)


class StatisticsReference(Reference):
    """Statistics that `save_statistics` wrote; a record names the images behind them, not the file."""

    count = None

    def __init__(self, path: Path):
        self.path, self.name = path, path.name
        try:
            self.told = json.loads(str(npz_array(path, FACTS)))
            self.size = tuple(self.told["size"])
            self.features, self.reference = self.told["features"], self.told["reference"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"reference is {str(path)!r}, whose '{FACTS}' are damaged: {error}") from error

    def facts(self) -> dict[str, Any]:
        return self.reference

    def check(self, metrics: Sequence[str], features: str) -> None:
        _statistics_only(self.path, metrics)

    def check_features(self, metrics: Sequence[str], extractor: Extractor) -> None:
        own = extractor.facts() if metrics else {}
        other = {key: (self.features.get(key), own[key]) for key in own if self.features.get(key) != own[key]}
        if other:
            told = "; ".join(f"{key} {there} there, {here} here" for key, (there, here) in other.items())
            raise ValueError(f"{self.path} is a reference of another protocol: features' {told}")

    def against(self, metrics: Sequence[str], extractor: Extractor, take: Extract) -> Against:
        return _load(self.path, metrics, extractor)


class AdmReference(Reference):
    """A reference batch of ADM: statistics of a whole data set, and some images of it for precision and recall only."""

    def __init__(self, path: Path):
        self.path, self.name = path, path.name
        self.images = NpzImages(path) if "arr_0" in npz_keys(path) else None
        self.count = None if self.images is None else len(self.images)
        self.size = None if self.images is None else tuple(self.images.array.shape[1:3])

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "kind": "adm", "sha256": sha256_file(self.path), "num_samples": None}

    def check(self, metrics: Sequence[str], features: str) -> None:
        if features != "inception_adm":
            raise ValueError(
                f"{self.path} is a reference of another protocol: its statistics are ADM's, but {', '.join(metrics)} "
                f"would be taken with features={features}; allowed with it: inception_adm"
            )
        if self.images is None:
            _statistics_only(self.path, metrics)

    def against(self, metrics: Sequence[str], extractor: Extractor, take: Extract) -> Against | None:
        features: Mapping[str, np.ndarray] | None = {}
        if any(METRICS[name].needs == "features" for name in metrics):
            features = take(self.images, extractor)
            if features is None:
                return None
        return Against(_load(self.path, metrics, extractor).moments, features)


def open_reference(value: str) -> Reference:
    """What the config key `reference` names; ValueError for what is none, and for a damaged file."""
    if value in DIGITS and not Path(value).exists():
        split = build_dataset(DigitsConfig(split=DIGITS[value]))
        return ImagesReference(ArrayImages(f"scikit-learn's digits, {DIGITS[value]}", split.images, split.labels))
    path = Path(value).expanduser()
    if path.is_file() and path.suffix == ".npz":
        keys = npz_keys(path)
        if {"mu", "sigma"} & set(keys):
            return StatisticsReference(path) if FACTS in keys else AdmReference(path)
    try:
        return ImagesReference(open_images(path, "reference"))
    except ValueError as error:
        if path.exists():
            raise
        raise ValueError(f"{error}, or {', '.join(DIGITS)}") from None


def save_statistics(path: Path, reference: Reference, extractor: Extractor, features: Mapping[str, np.ndarray]) -> None:
    """Write the statistics of a reference's features, in ADM's form, with what they are in `facts`."""
    told = {"features": extractor.facts(), "reference": reference.facts(), "size": reference.size}
    arrays: dict[str, np.ndarray] = {FACTS: np.array(json.dumps(told))}
    for kind, (mean, covariance) in STATISTICS.items():
        of = extractor.main if kind == "main" else kind
        if of in features:
            measured = moments(features[of])
            arrays |= {mean: measured.mean, covariance: measured.covariance, "n": np.int64(measured.num_samples)}
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomic(path, content.getvalue())


def taker(world: World, batch_size: int, stop: Callable[[], bool], progress: Callable) -> Extract:
    """How features are taken on all processes: checked, and with a bar from `progress(total, what)`."""

    def take(images: Images, extractor: Extractor) -> dict[str, np.ndarray] | None:
        with progress(len(images), f"{extractor.name} of {images.name}") as bar:
            features = extract(images, extractor, batch_size, world, bar.update, stop)
        world.on_main(lambda: check_finite(features, extractor.name, images.name))
        return features

    return take


def _stream(metric: str, extractor: Extractor) -> str:
    return extractor.main if METRICS[metric].of == "main" else METRICS[metric].of


def _statistics_only(path: Path, metrics: Sequence[str]) -> None:
    lacking = [name for name in metrics if METRICS[name].needs == "features"]
    if lacking:
        raise ValueError(f"reference {path} holds statistics only; {', '.join(lacking)} need the images themselves")


def _load(path: Path, metrics: Sequence[str], extractor: Extractor) -> Against:
    wanted = {_stream(name, extractor) for name in metrics if METRICS[name].needs == "moments"}
    return Against({of: load_moments(path, spatial=of == "spatial") for of in sorted(wanted)}, {})

"""References, what samples are compared with: other media, or statistics of them that were measured before.

Statistics are an .npz with `mu` and `sigma`, and what they are in `facts`. They belong to the features that they were
measured with and are refused for any other.

Letters: n pieces of media, D features.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.storage.arrays import npz_array, npz_keys
from core.storage.atomic import write_atomic
from core.storage.json_files import parse_json
from eval.measure.extractor import ExtractedFeatures, Extractor, FeatureExtraction
from eval.measure.media import Media
from eval.measure.metrics import Metric, ReferenceStatistics
from eval.statistics.frechet import load_moments, moments

FACTS = "facts"  # our own statistics say what they are
STATISTICS = {"main": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
Size = tuple[int, ...] | None


class Reference:
    """Something to compare with.

    size    what of its media the samples' must agree with, as the domain has it: (height, width); None: not known
    count   pieces of media that features can be taken of; None: only its statistics are there
    media   those; None where there are none
    """

    name: str
    size: Size
    count: int | None
    media: Media | None = None

    def facts(self) -> dict[str, Any]:
        """A record's entries for it: name, kind, sha256, num_samples."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Its facts, and which draw of them it is where a seed draws its media."""
        return self.facts()

    def media_for(self, extractor: Extractor) -> Media | None:
        """Its media in the form that the extractor takes."""
        return self.media

    def check(self, metrics: Sequence[Metric], features: str) -> None:
        """Raises ValueError for metrics that need more than it has, and `features` it was not measured with."""

    def check_features(self, metrics: Sequence[Metric], extractor: Extractor) -> None:
        """Raises ValueError for other weights or preprocessing than it was measured with."""

    def statistics(
        self, metrics: Sequence[Metric], extractor: Extractor, extraction: FeatureExtraction
    ) -> ReferenceStatistics | None:
        """What the metrics need of it, in the main process; None in the others."""
        raise NotImplementedError


class MediaReference(Reference):
    """Media, whose features are taken anew."""

    def __init__(self, media: Media, size: Size):
        self.media, self.name, self.count, self.size = media, media.name, len(media), size

    def facts(self) -> dict[str, Any]:
        return self.media.facts()

    def statistics(
        self, metrics: Sequence[Metric], extractor: Extractor, extraction: FeatureExtraction
    ) -> ReferenceStatistics | None:
        if all(metric.needs == "nothing" for metric in metrics):
            return ReferenceStatistics()
        media = self.media_for(extractor)
        features = extraction.extract_features(media, extractor)
        if features is None:
            return None
        arrays = features.arrays
        by_name = {name: moments(arrays[name]) for name in moment_names(metrics, extractor)}
        return ReferenceStatistics(by_name, arrays, media)


class StatisticsReference(Reference):
    """Statistics that `save_statistics` wrote; a record names the media behind them, not the file.

    unit: what a piece of media is called; key: the config key that names the file.
    """

    count = None

    def __init__(self, path: Path, unit: str, key: str = "reference"):
        self.path, self.name, self.unit, self.key = path, path.name, unit, key
        try:
            content = _checked_facts(parse_json(str(npz_array(path, FACTS)), f"'{FACTS}'"))
        except ValueError as error:
            raise ValueError(f"{key} is {str(path)!r}, whose '{FACTS}' are damaged: {error}") from error
        check_statistics(path)
        self.size = None if content["size"] is None else tuple(content["size"])
        self.features, self.reference = content["features"], content["reference"]

    def facts(self) -> dict[str, Any]:
        return self.reference

    def check(self, metrics: Sequence[Metric], features: str) -> None:
        check_statistics_suffice(self.key, self.path, metrics, self.unit)

    def check_features(self, metrics: Sequence[Metric], extractor: Extractor) -> None:
        own = extractor.facts() if metrics else {}
        other = {key: (self.features.get(key), own[key]) for key in own if self.features.get(key) != own[key]}
        if other:
            details = "; ".join(f"{key} {there} there, {here} here" for key, (there, here) in other.items())
            raise ValueError(f"{self.path} is a reference of another protocol: features' {details}")

    def statistics(
        self, metrics: Sequence[Metric], extractor: Extractor, extraction: FeatureExtraction
    ) -> ReferenceStatistics:
        return load_statistics(self.path, metrics, extractor)


def _checked_facts(content: Any) -> dict[str, Any]:
    """The facts of saved statistics; ValueError for what does not say size, features and reference."""
    said = content if isinstance(content, dict) else {}
    size = said.get("size", "")
    whole = size is None or (isinstance(size, list) and all(type(each) is int and each > 0 for each in size))
    if not whole or not all(isinstance(said.get(name), dict) for name in ("features", "reference")):
        raise ValueError(f"they are {content!r:.80}; needed: size (numbers), features and reference (mappings)")
    return said


def save_statistics(path: Path, reference: Reference, features: ExtractedFeatures) -> None:
    """Write the statistics of a reference's features, in ADM's form, with what they are in `facts`.

    `n` counts rows of features, `facts` pieces of media.
    """
    extractor = features.extractor
    content = {"features": extractor.facts(), "reference": reference.facts(), "size": reference.size}
    arrays: dict[str, np.ndarray] = {FACTS: np.array(json.dumps(content))}
    for kind, (mean, covariance) in STATISTICS.items():
        name = extractor.main if kind == "main" else kind
        if name in features.arrays:
            measured = moments(features.arrays[name])
            arrays |= {mean: measured.mean, covariance: measured.covariance, "n": np.int64(measured.num_samples)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    write_atomic(path, file.getvalue())


def check_statistics(path: Path) -> None:
    """Raises ValueError for a file whose moments are damaged or none, before samples are made to compare with them."""
    keys = npz_keys(path)
    for kind, names in STATISTICS.items():
        if kind == "main" or set(names) & set(keys):
            load_moments(path, spatial=kind == "spatial")


def load_statistics(path: Path, metrics: Sequence[Metric], extractor: Extractor) -> ReferenceStatistics:
    """The moments in a file that the metrics need; ValueError for features whose moments such files do not hold."""
    spatial = {extractor.main: False, "spatial": True}
    lacking = [metric.name for metric in needing("moments", metrics) if metric.features_name(extractor) not in spatial]
    if lacking:
        raise ValueError(f"{path} holds statistics of features '{extractor.main}' only, not of {', '.join(lacking)}'s")
    names = sorted(moment_names(metrics, extractor))
    return ReferenceStatistics({name: load_moments(path, spatial=spatial[name]) for name in names})


def check_statistics_suffice(key: str, path: Path, metrics: Iterable[Metric], unit: str) -> None:
    """Raises ValueError for metrics that need the features of a reference's media, where it has statistics only."""
    lacking = [metric.name for metric in needing("features", metrics)]
    if lacking:
        raise ValueError(f"{key} {path} holds statistics only; {', '.join(lacking)} need the {unit}s themselves")


def moment_names(metrics: Iterable[Metric], extractor: Extractor) -> list[str]:
    """The names of the features whose moments the metrics need."""
    return list(dict.fromkeys(metric.features_name(extractor) for metric in needing("moments", metrics)))


def needing(what: str, metrics: Iterable[Metric]) -> list[Metric]:
    """The metrics that need `what` of a reference."""
    return [metric for metric in metrics if metric.needs == what]

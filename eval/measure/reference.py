"""What samples are compared with: other media, or statistics of them that were measured before.

Statistics are an .npz with `mu` and `sigma`, and what they are in `facts`. They belong to the features that they were
measured with and are refused for any other.

Letters: n pieces of media, D features.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.storage.atomic import write_atomic
from eval.measure.extractor import Extractor, Take
from eval.measure.media import Media
from eval.measure.table import MetricsByName, ReferenceStatistics
from eval.statistics.arrays import npz_array
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
        """What a record says of it: name, kind, sha256, num_samples."""
        raise NotImplementedError

    def seen_by(self, extractor: Extractor) -> Media | None:
        """Its media in the form that the extractor looks at."""
        return self.media

    def check(self, metrics: MetricsByName, features: str) -> None:
        """Raises ValueError for metrics that need more than it has, and `features` it was not measured with."""

    def check_features(self, metrics: MetricsByName, extractor: Extractor) -> None:
        """Raises ValueError for other weights or preprocessing than it was measured with."""

    def against(self, metrics: MetricsByName, extractor: Extractor, take: Take) -> ReferenceStatistics | None:
        """What the metrics need of it, in the main process; `take` extracts features on all processes."""
        raise NotImplementedError


class MediaReference(Reference):
    """Media, whose features are taken anew."""

    def __init__(self, media: Media, size: Size):
        self.media, self.name, self.count, self.size = media, media.name, len(media), size

    def facts(self) -> dict[str, Any]:
        return self.media.facts()

    def against(self, metrics: MetricsByName, extractor: Extractor, take: Take) -> ReferenceStatistics | None:
        if all(metric.needs == "nothing" for metric in metrics.values()):
            return ReferenceStatistics({}, {})
        media = self.seen_by(extractor)
        features = take(media, extractor)
        if features is None:
            return None
        return ReferenceStatistics({of: moments(features[of]) for of in streams(metrics, extractor)}, features, media)


class StatisticsReference(Reference):
    """Statistics that `save_statistics` wrote; a record names the media behind them, not the file.

    unit: what a piece of media is called; key: the config key that names the file.
    """

    count = None

    def __init__(self, path: Path, unit: str, key: str = "reference"):
        self.path, self.name, self.unit, self.key = path, path.name, unit, key
        try:
            self.content = json.loads(str(npz_array(path, FACTS)))
            size = self.content["size"]
            self.size = None if size is None else tuple(size)
            self.features, self.reference = self.content["features"], self.content["reference"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{key} is {str(path)!r}, whose '{FACTS}' are damaged: {error}") from error

    def facts(self) -> dict[str, Any]:
        return self.reference

    def check(self, metrics: MetricsByName, features: str) -> None:
        refuse_features(self.key, self.path, metrics, self.unit)

    def check_features(self, metrics: MetricsByName, extractor: Extractor) -> None:
        own = extractor.facts() if metrics else {}
        other = {key: (self.features.get(key), own[key]) for key in own if self.features.get(key) != own[key]}
        if other:
            content = "; ".join(f"{key} {there} there, {here} here" for key, (there, here) in other.items())
            raise ValueError(f"{self.path} is a reference of another protocol: features' {content}")

    def against(self, metrics: MetricsByName, extractor: Extractor, take: Take) -> ReferenceStatistics:
        return load_statistics(self.path, metrics, extractor)


def save_statistics(path: Path, reference: Reference, extractor: Extractor, features: Mapping[str, np.ndarray]) -> None:
    """Write the statistics of a reference's features, in ADM's form, with what they are in `facts`.

    `n` counts rows of features, `facts` pieces of media.
    """
    content = {"features": extractor.facts(), "reference": reference.facts(), "size": reference.size}
    arrays: dict[str, np.ndarray] = {FACTS: np.array(json.dumps(content))}
    for kind, (mean, covariance) in STATISTICS.items():
        of = extractor.main if kind == "main" else kind
        if of in features:
            measured = moments(features[of])
            arrays |= {mean: measured.mean, covariance: measured.covariance, "n": np.int64(measured.num_samples)}
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomic(path, content.getvalue())


def load_statistics(path: Path, metrics: MetricsByName, extractor: Extractor) -> ReferenceStatistics:
    """The moments in a file that the metrics need; ValueError for features whose moments such files do not hold."""
    held = {extractor.main: False, "spatial": True}
    lacking = [
        name for name, metric in metrics.items() if metric.needs == "moments" and metric.stream(extractor) not in held
    ]
    if lacking:
        raise ValueError(f"{path} holds statistics of features '{extractor.main}' only, not of {', '.join(lacking)}'s")
    return ReferenceStatistics(
        {of: load_moments(path, spatial=held[of]) for of in sorted(streams(metrics, extractor))}, {}
    )


def refuse_features(key: str, path: Path, metrics: MetricsByName, unit: str) -> None:
    """Raises ValueError for metrics that need the features of a reference's media, where it has statistics only."""
    lacking = [name for name, metric in metrics.items() if metric.needs == "features"]
    if lacking:
        raise ValueError(f"{key} {path} holds statistics only; {', '.join(lacking)} need the {unit}s themselves")


def streams(metrics: MetricsByName, extractor: Extractor) -> list[str]:
    """The features whose moments the metrics need."""
    wanted = [metric.stream(extractor) for metric in metrics.values() if metric.needs == "moments"]
    return list(dict.fromkeys(wanted))

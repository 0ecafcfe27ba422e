"""From features to numbers: a domain's metrics are a table, each with what it needs and how it is computed.

    TABLE = Table(
        metrics={"fad": Metric(frechet, ("clap",)), **precision_recall_metrics(("clap",))},
        defaults={"clap": ("fad",)},
        unit="clip",
    )

Letters: n pieces of media, n' rows of their features, m rows of the reference's, D features, K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from eval.measure.extractor import Extractor
from eval.measure.media import Media
from eval.statistics.estimate import Estimate
from eval.statistics.frechet import Moments, frechet_distance, frechet_infinity, moments
from eval.statistics.kernel import kernel_distance
from eval.statistics.neighbours import Blocks, PrecisionRecall, precision_recall

log = logging.getLogger(__name__)
NEEDS = ("moments", "features", "nothing")


@dataclass(frozen=True)
class ReferenceStatistics:
    """What a reference has for one extractor.

    moments   by the features' names
    features  (m, D) by name
    media     behind the features; None where only statistics are there
    """

    moments: Mapping[str, Moments]
    features: Mapping[str, np.ndarray]
    media: Media | None = None


@dataclass(frozen=True)
class Operands:
    """What one metric is computed from.

    metric     its name
    of         which features
    features   all features of the samples, (n', D) by name
    against    what the reference has
    samples    the media themselves: how many, their labels
    extractor  that took the features
    device     for what is worth moving there
    shared     what metrics of one call compute together
    """

    metric: str
    of: str
    features: Mapping[str, np.ndarray]
    against: ReferenceStatistics
    samples: Media
    extractor: Extractor
    device: torch.device
    shared: dict[Any, Any] = field(default_factory=dict)

    @property
    def own(self) -> np.ndarray:
        """The samples' features (n', D)."""
        return self.features[self.of]

    @property
    def reference(self) -> np.ndarray:
        """The reference's features (m, D)."""
        return self.against.features[self.of]

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made by the first metric that asks for `key` in these features."""
        place = (key, self.of)
        if place not in self.shared:
            self.shared[place] = make()
        return self.shared[place]

    def check_aligned(self) -> None:
        """Raises ValueError where features are not one row for each sample, which a metric with labels needs."""
        if len(self.own) != len(self.samples):
            raise ValueError(
                f"{self.metric}: features '{self.of}' ({self.extractor.name}) have {len(self.own)} rows for "
                f"{len(self.samples)} {self.samples.unit}s; it needs one for each, beside its label"
            )


Compute = Callable[[Operands], Estimate]
Missing = Callable[[Media], str | None]


@dataclass(frozen=True)
class Metric:
    """What a metric asks for, and how it is computed.

    compute    the number, in the main process
    features   extractors that it is defined for, by name
    of         which of their features; "main" is the extractor's own choice
    needs      of the reference: its moments, the features of its media, or nothing
    at_least   pieces of media, of the samples and of a reference that it needs; a number, or one by extractor's name
    beside     taken with its own extractor, the first of `features`, whatever the config key `features` is
    missing    what given samples lack for it, in words, for an error; null: nothing
    """

    compute: Compute
    features: tuple[str, ...]
    of: str = "main"
    needs: str = "moments"
    at_least: int | Callable[[str], int] = 2
    beside: bool = False
    missing: Missing = lambda media: None

    def __post_init__(self) -> None:
        if self.needs not in NEEDS:
            raise ValueError(f"a metric needs {self.needs!r} of the reference; allowed: {', '.join(NEEDS)}")

    def stream(self, extractor: Extractor) -> str:
        """The name of the features that it is taken in."""
        return extractor.main if self.of == "main" else self.of

    def least(self, extractor: str) -> int:
        """How many pieces of media it needs at least."""
        return self.at_least if isinstance(self.at_least, int) else self.at_least(extractor)


MetricsByName = Mapping[str, Metric]  # by name, in the order in which they are told


@dataclass(frozen=True)
class Table:
    """The metrics of a domain.

    metrics   by name
    defaults  what is measured where the config does not say, by extractor; its keys are the extractors
    unit      what a piece of media is called
    """

    metrics: MetricsByName
    defaults: Mapping[str, tuple[str, ...]]
    unit: str

    def plan(self, names: Sequence[str] | None, features: str) -> dict[str, list[str]]:
        """The metrics' names, or the defaults, by extractor; ValueError for an unknown metric or extractor."""
        if features not in self.defaults:
            raise ValueError(f"features is {features!r}; allowed: {', '.join(self.defaults)}")
        wanted: dict[str, list[str]] = {}
        for name in dict.fromkeys(names or self.defaults[features]):
            wanted.setdefault(self.extractor_name(name, features), []).append(name)
        return wanted

    def extractor_name(self, metric: str, features: str) -> str:
        """Which extractor a metric is taken with; ValueError for one that is not defined for `features`."""
        if metric not in self.metrics:
            raise ValueError(f"config key 'metrics' has {metric!r}; allowed: {', '.join(self.metrics)}")
        entry = self.metrics[metric]
        if entry.beside:
            return entry.features[0]
        if features not in entry.features:
            raise ValueError(
                f"config key 'metrics' has {metric!r} but features is {features!r}; allowed for it: "
                f"{', '.join(entry.features)}"
            )
        return features

    def of(self, names: Sequence[str]) -> MetricsByName:
        """The entries of these metrics, in their order."""
        return {name: self.metrics[name] for name in names}

    def compared(self, names: Sequence[str]) -> MetricsByName:
        """The metrics that need a reference."""
        return {name: entry for name, entry in self.of(names).items() if entry.needs != "nothing"}

    def check_count(self, names: Sequence[str], extractor: str, samples: int, reference: int | None) -> None:
        """Raises ValueError when the samples, or the media of the reference, are fewer than a metric needs.

        reference: None where nothing is to be taken from its media.
        """
        for name, entry in self.of(names).items():
            least, compared = entry.least(extractor), reference is not None and entry.needs != "nothing"
            told = f"{self.unit}s of the reference"
            for count, what in ((samples, "samples"), *[(reference, told)] * compared):
                if count < least:
                    needed = f"needs at least {least} {what}, there are {count}"
                    raise ValueError(f"{name} with features={extractor} {needed}")

    def measure(
        self,
        names: Sequence[str],
        extractor: Extractor,
        features: Mapping[str, np.ndarray],
        against: ReferenceStatistics,
        samples: Media,
        device: torch.device,
    ) -> dict[str, Estimate]:
        """The numbers of one extractor's metrics; `features` (n', D) by name, of the n pieces of media `samples`.

        An estimate counts media; where features have several rows for a piece, `rows` of its parameters is n'.
        """
        found: dict[str, Estimate] = {}
        shared: dict[Any, Any] = {}
        for name, entry in self.of(names).items():
            of = entry.stream(extractor)
            operands = Operands(name, of, features, against, samples, extractor, device, shared)
            found[name] = in_media(entry.compute(operands), len(features[of]), len(samples))
        return found


def in_media(estimate: Estimate, rows: int, count: int) -> Estimate:
    """An estimate of n' rows as one of n pieces of media: the same where they are as many."""
    if rows == count:
        return estimate
    return replace(estimate, num_samples=count, parameters={**estimate.parameters, "rows": rows})


# Metrics that a table can name


def frechet(operands: Operands) -> Estimate:
    """Fréchet distance to the reference's moments; warns of its bias where there are no more rows than features."""
    (count, width), name = operands.own.shape, operands.metric
    if count <= width:
        log.warning("%s of %d samples with %d features: its bias is large below %d", name, count, width, width + 1)
    return Estimate(frechet_distance(moments(operands.own), operands.against.moments[operands.of]), count)


def unbiased_frechet(*, points: int = 25, smallest: int = 500, replace: bool = False, seed: int = 0) -> Compute:
    """FD-infinity, see `eval.statistics.frechet.frechet_infinity`; the table's `at_least` must be above `smallest`."""

    def compute(operands: Operands) -> Estimate:
        reference = operands.against.moments[operands.of]
        options = {"points": points, "smallest": smallest, "replace": replace, "seed": seed}
        return frechet_infinity(operands.own, reference, **options)

    return compute


def kernel(*, subsets: int, size: int) -> Compute:
    """Kernel distance to the reference's features, over subsets; `at_least` must be `size`."""
    return lambda operands: kernel_distance(operands.own, operands.reference, subsets=subsets, subset_size=size)


def default_blocks(extractor: str, device: torch.device) -> Blocks:
    """Distances in float32."""
    return Blocks(device=str(device))


def precision_recall_metrics(
    features: tuple[str, ...], k: int = 3, blocks: Callable[[str, torch.device], Blocks] = default_blocks
) -> dict[str, Metric]:
    """The entries `precision` and `recall`, computed together; `blocks(extractor's name, device)` takes distances."""

    def both(operands: Operands) -> PrecisionRecall:
        own, reference = operands.own, operands.reference
        how = blocks(operands.extractor.name, operands.device)
        return operands.once("precision and recall", lambda: precision_recall(own, reference, k=k, blocks=how))

    asks = {"features": features, "needs": "features", "at_least": k + 1}
    return {
        "precision": Metric(lambda operands: both(operands).precision, **asks),
        "recall": Metric(lambda operands: both(operands).recall, **asks),
    }


def class_accuracy(operands: Operands) -> Estimate:
    """Share of the samples whose largest logit, of (n, K), is the class that they were asked to be."""
    operands.check_aligned()
    right = torch.from_numpy(operands.own).argmax(1) == operands.samples.labels
    return Estimate(right.double().mean().item(), len(operands.own))


def labels_missing(where: str) -> Missing:
    """For `Metric.missing`: samples whose classes nobody knows; `where` says how they can be given."""
    told = f"needs to know which class each sample was asked to be: {where}"
    return lambda media: None if media.labels is not None else told

"""The metrics of a domain as a table: what is measured by default, what fits together, the numbers of one extractor.

    TABLE = Table(
        metrics=(FrechetDistance("fad", ("clap",)), Precision("precision", ("clap",)), Recall("recall", ("clap",))),
        defaults={"clap": ("fad",)},
        unit="clip",
    )

Letters: n pieces of media, n' rows of their features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from eval.measure.extractor import ExtractedFeatures
from eval.measure.metrics import Metric, ReferenceStatistics
from eval.statistics.estimate import Estimate


@dataclass(frozen=True)
class Table:
    """The metrics of a domain.

    metrics   in the order in which an error lists them
    defaults  names of what is measured where the config does not say, by extractor; its keys are the extractors
    unit      what a piece of media is called
    """

    metrics: Sequence[Metric]
    defaults: Mapping[str, tuple[str, ...]]
    unit: str

    def of(self, names: Sequence[str]) -> list[Metric]:
        """The metrics of these names, in their order; ValueError for an unknown one."""
        by_name = {metric.name: metric for metric in self.metrics}
        for name in names:
            if name not in by_name:
                raise ValueError(f"config key 'metrics' has {name!r}; allowed: {', '.join(by_name)}")
        return [by_name[name] for name in names]

    def by_extractor(self, names: Sequence[str] | None, features: str) -> dict[str, list[Metric]]:
        """The metrics of these names, or the defaults, by extractor.

        Raises ValueError for an unknown metric or extractor, and for a metric that is not defined for `features`.
        """
        if features not in self.defaults:
            raise ValueError(f"features is {features!r}; allowed: {', '.join(self.defaults)}")
        found: dict[str, list[Metric]] = {}
        for metric in self.of(list(dict.fromkeys(names or self.defaults[features]))):
            if not metric.beside and features not in metric.extractors:
                raise ValueError(
                    f"config key 'metrics' has {metric.name!r} but features is {features!r}; allowed for it: "
                    f"{', '.join(metric.extractors)}"
                )
            found.setdefault(metric.extractors[0] if metric.beside else features, []).append(metric)
        return found


def compared(metrics: Iterable[Metric]) -> list[Metric]:
    """The metrics that need a reference."""
    return [metric for metric in metrics if metric.needs != "nothing"]


def compute_metrics(
    metrics: Iterable[Metric], samples: ExtractedFeatures, reference: ReferenceStatistics
) -> dict[str, Estimate]:
    """The numbers of one extractor's metrics by name.

    An estimate counts media; where features have several rows for a piece, `rows` of its parameters is n'.
    """
    found: dict[str, Estimate] = {}
    for metric in metrics:
        estimate = metric.compute(samples, reference)
        found[metric.name] = in_media(estimate, len(metric.sample_rows(samples)), len(samples.media))
    return found


def in_media(estimate: Estimate, rows: int, count: int) -> Estimate:
    """An estimate of n' rows as one of n pieces of media: the same where they are as many."""
    if rows == count:
        return estimate
    return replace(estimate, num_samples=count, parameters={**estimate.parameters, "rows": rows})

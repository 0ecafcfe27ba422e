"""The metrics of a domain as a table: what is measured by default, what fits together, the numbers of one extractor.

    TABLE = Table(
        metrics=of_each(FrechetDistance("fad", ("clap", "vggish")), NeighbourPrecision("precision", ("clap",))),
        defaults={"clap": ("clap/fad",), "vggish": ("vggish/fad",)},
        unit="clip",
    )

Where a metric is defined for several extractors, evaluators of the field, its name holds the evaluator's: clap/fad.
What a config calls fad is that of its `features`.

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

    def of(self, names: Sequence[str], features: str | None = None) -> list[Metric]:
        """The metrics of these names, in their order; ValueError for an unknown one.

        features: whose metric is meant by a name that holds no evaluator's.
        """
        by_name = {metric.name: metric for metric in self.metrics}
        whole = [own if (own := f"{features}/{name}") in by_name else name for name in names]
        for name in whole:
            if name not in by_name:
                raise ValueError(f"config key 'metrics' has {name!r}{self._instead(name, features)}")
        return [by_name[name] for name in whole]

    def _instead(self, name: str, features: str | None) -> str:
        """What else an unknown name may have been, in words."""
        evaluators = [metric.extractors[0] for metric in self.metrics if metric.name.endswith(f"/{name}")]
        if features is not None and evaluators:
            return f" but features is {features!r}; allowed for it: {', '.join(evaluators)}"
        short = dict.fromkeys(metric.name.rpartition("/")[2] for metric in self.metrics)
        return f"; allowed: {', '.join(short)}, each as EVALUATOR/{next(iter(short))} too where there are several"

    def by_extractor(self, names: Sequence[str] | None, features: str) -> dict[str, list[Metric]]:
        """The metrics of these names, or the defaults, by extractor.

        Raises ValueError for an unknown metric or extractor, and for a metric that is not defined for `features`.
        """
        if features not in self.defaults:
            raise ValueError(f"features is {features!r}; allowed: {', '.join(self.defaults)}")
        found: dict[str, list[Metric]] = {}
        for metric in self.of(list(dict.fromkeys(names or self.defaults[features])), features):
            if not metric.beside and features not in metric.extractors:
                raise ValueError(
                    f"config key 'metrics' has {metric.name!r} but features is {features!r}; allowed for it: "
                    f"{', '.join(metric.extractors)}"
                )
            found.setdefault(metric.extractors[0] if metric.beside else features, []).append(metric)
        return found


def of_each(*metrics: Metric, plain: str | None = None, beside: bool = False) -> tuple[Metric, ...]:
    """Each metric once for each of its extractors, the evaluator in its name: clap_music/fad.

    plain   the extractor whose metrics are what the field means by the bare names
    beside  they may be taken in one call, each with its own extractor
    """
    found = []
    for metric in metrics:
        for name in metric.extractors:
            whole = metric.name if name == plain else f"{name}/{metric.name}"
            found.append(replace(metric, name=whole, extractors=(name,), beside=beside))
    return tuple(found)


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

"""Samples measured by published evaluators while a run trains, against a reference that its config names.

Letters: n samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.processes.world import World
from eval.measure.extractor import Extractor, FeatureExtraction
from eval.measure.media import ArrayMedia
from eval.measure.metrics import Metric, ReferenceStatistics
from eval.measure.reference import Reference
from eval.measure.table import compared, compute_metrics

BATCH = 64  # pieces of media that an extractor is given at once


@dataclass
class InTrainingEvaluator:
    """Metrics of several extractors by their whole names; fulfils `core.contracts.Evaluator`.

    metrics      by the extractors' names
    extractors   by name
    as_files     media in [-1, 1] -> what their files would hold, for an extractor that takes no floats
    unit         what a sample is called
    num_samples  n, of a measurement

    The reference's features are taken once, at the first measurement. Raises ValueError, when it is made, for a
    reference that does not fit the metrics, or too few samples.
    """

    metrics: Mapping[str, Sequence[Metric]]
    extractors: Mapping[str, Extractor]
    reference: Reference
    as_files: Callable[[Tensor], Tensor]
    unit: str
    num_samples: int
    device: torch.device
    known: dict[str, ReferenceStatistics] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for name, metrics in self.metrics.items():
            self.reference.check(compared(metrics), name)
            self.reference.check_features(compared(metrics), self.extractors[name])
            for metric in metrics:
                metric.check_count(name, self.num_samples, self.reference.count, self.unit)

    def evaluate(self, media: Tensor, condition: Tensor) -> dict[str, float]:
        """The numbers of media (n, *media) in [-1, 1]; ValueError for features that are not finite."""
        found: dict[str, float] = {}
        extraction = FeatureExtraction(World(device=self.device), BATCH, self.unit)
        for name, metrics in self.metrics.items():
            extractor = self.extractors[name]
            rows = media if extractor.takes_floats else self.as_files(media)
            samples = ArrayMedia("samples", self.unit, rows)
            if name not in self.known:
                self.known[name] = self.reference.statistics(metrics, extractor, extraction)
            features = extraction.extract_features(samples, extractor)
            numbers = compute_metrics(metrics, features, self.known[name])
            found |= {metric: estimate.value for metric, estimate in numbers.items()}
        return {**found, "num_samples": len(media)}

"""The metrics of images, and what is measured by default.

Letters: n images, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from eval.measure.extractor import ExtractedFeatures
from eval.measure.metrics import (
    FrechetDistance,
    KernelDistance,
    Metric,
    NeighbourPrecision,
    NeighbourRecall,
    ReferenceStatistics,
)
from eval.measure.stand_in import stand_in_metrics
from eval.measure.table import Table
from eval.statistics.estimate import Estimate
from eval.statistics.inception_score import ADM, TORCH_FIDELITY, Splits, inception_score
from image.scenes.classes import ATTRIBUTES

INCEPTION = ("inception_adm", "inception_torch_fidelity")
ANY = (*INCEPTION, "dinov2", "digits", "scenes")


@dataclass(frozen=True)
class InceptionScore(Metric):
    """The Inception Score of logits (n, K), by each protocol's own parts."""

    needs = "nothing"

    def splits(self, extractor: str) -> Splits:
        """ADM's parts of 5000 in order, or torch-fidelity's 10 shuffled ones."""
        return ADM if extractor == "inception_adm" else TORCH_FIDELITY

    def least(self, extractor: str) -> int:
        """The samples of a part, or as many as there are parts."""
        splits = self.splits(extractor)
        return splits.size or splits.count

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The mean over the parts."""
        return inception_score(self.sample_rows(samples), self.splits(samples.extractor.name))


LABELS_FROM = "run=..., or arr_1"
BOTH = ("digits", "scenes")
DISTANCE, ACCURACY, *OF_ATTRIBUTES = stand_in_metrics("scenes", LABELS_FROM, ATTRIBUTES)
STAND_INS = (*(replace(metric, extractors=BOTH) for metric in (DISTANCE, ACCURACY)), *OF_ATTRIBUTES)

TABLE = Table(
    metrics=(
        FrechetDistance("fid", INCEPTION),
        FrechetDistance("sfid", ("inception_adm",), "spatial"),
        InceptionScore("is", INCEPTION, "logits"),
        NeighbourPrecision("precision", ANY),
        NeighbourRecall("recall", ANY),
        KernelDistance("kid", ANY),  # 100 subsets of 1000, as torch-fidelity
        FrechetDistance("fd_dinov2", ("dinov2",), beside=True),
        *STAND_INS,
    ),
    defaults={
        "inception_adm": ("fid", "sfid", "is", "precision", "recall"),
        "inception_torch_fidelity": ("fid", "is", "kid", "precision", "recall"),
        "dinov2": ("fd_dinov2",),
        "digits": ("frechet_distance", "class_accuracy"),
        "scenes": tuple(metric.name for metric in STAND_INS),
    },
    unit="image",
)

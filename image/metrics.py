"""The metrics of images, and what is measured by default.

`fid`, `is`, `precision` are ADM's; those of another evaluator have its name: inception_torch_fidelity/fid.

Letters: n images, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from eval.measure.efficientnet import NAME as EFFICIENTNET
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
from eval.measure.table import Table, of_each
from eval.statistics.estimate import Estimate
from eval.statistics.inception_score import ADM, TORCH_FIDELITY, Splits, inception_score

INCEPTION = ("inception_adm", "inception_torch_fidelity")
ANY = (*INCEPTION, "dinov2", EFFICIENTNET, "digits")


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


SEVERAL = of_each(
    FrechetDistance("fid", INCEPTION),
    FrechetDistance("sfid", INCEPTION[:1], "spatial"),
    InceptionScore("is", INCEPTION, "logits"),
    NeighbourPrecision("precision", ANY),
    NeighbourRecall("recall", ANY),
    KernelDistance("kid", ANY),  # 100 subsets of 1000, as torch-fidelity
    plain=INCEPTION[0],
)
TABLE = Table(
    metrics=(
        *SEVERAL,
        FrechetDistance("fd_dinov2", ("dinov2",), beside=True),
        FrechetDistance(f"fd_{EFFICIENTNET}", (EFFICIENTNET,), beside=True),
        *stand_in_metrics("digits", labels_from="run=..., or arr_1"),
    ),
    defaults={
        INCEPTION[0]: ("fid", "sfid", "is", "precision", "recall"),
        INCEPTION[1]: tuple(f"{INCEPTION[1]}/{name}" for name in ("fid", "is", "kid", "precision", "recall")),
        "dinov2": ("fd_dinov2",),
        EFFICIENTNET: (f"fd_{EFFICIENTNET}",),
        "digits": ("frechet_distance", "class_accuracy"),
    },
    unit="image",
)

"""The metrics of images, and what is measured by default.

`fid`, `is`, `precision` are ADM's; those of another evaluator have its name: inception_torch_fidelity/fid.

Letters: n images, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from core.data.pixels import to_uint8
from eval.measure.efficientnet import NAME as EFFICIENTNET
from eval.measure.extractor import ExtractedFeatures
from eval.measure.in_training import InTrainingEvaluator
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
from eval.weights import weights_root
from image.extractors import WeightsSource, published_extractor
from image.media import open_reference
from image.scenes.classes import ATTRIBUTES

INCEPTION = ("inception_adm", "inception_torch_fidelity")
ANY = (*INCEPTION, "dinov2", EFFICIENTNET, "digits", "scenes")


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
LABELS_FROM = "run=..., or arr_1"
BOTH = ("digits", "scenes")
DISTANCE, ACCURACY, *OF_ATTRIBUTES = stand_in_metrics("scenes", LABELS_FROM, ATTRIBUTES)
STAND_INS = (*(replace(metric, extractors=BOTH) for metric in (DISTANCE, ACCURACY)), *OF_ATTRIBUTES)

TABLE = Table(
    metrics=(
        *SEVERAL,
        FrechetDistance("fd_dinov2", ("dinov2",), beside=True),
        FrechetDistance(f"fd_{EFFICIENTNET}", (EFFICIENTNET,), beside=True),
        *STAND_INS,
    ),
    defaults={
        INCEPTION[0]: ("fid", "sfid", "is", "precision", "recall"),
        INCEPTION[1]: tuple(f"{INCEPTION[1]}/{name}" for name in ("fid", "is", "kid", "precision", "recall")),
        "dinov2": ("fd_dinov2",),
        EFFICIENTNET: (f"fd_{EFFICIENTNET}",),
        "digits": ("frechet_distance", "class_accuracy"),
        "scenes": tuple(metric.name for metric in STAND_INS),
    },
    unit="image",
)


@dataclass(frozen=True)
class ImagesEvaluationConfig:
    """Samples against other images while a run trains and at its end, by published evaluators.

    reference    what `python -m image.evaluate` takes: a folder or .npz of images, saved statistics, digits
    metrics      names; a bare one that several evaluators have is EfficientNet-Lite0's, which needs no download
    num_samples  that are made and measured
    weights_dir  of published evaluators; null: their default place
    """

    reference: str
    metrics: tuple[str, ...] = (f"fd_{EFFICIENTNET}",)
    num_samples: int = 2000
    weights_dir: str | None = None

    def __post_init__(self) -> None:
        if not self.reference:
            raise ValueError(f"evaluation.reference is {self.reference!r}; needed: a folder of images, or a file")
        if self.num_samples < 2:
            raise ValueError(f"evaluation.num_samples is {self.num_samples}; it must be at least 2")
        if not self.metrics or "digits" in self.by_extractor:
            raise ValueError(f"evaluation.metrics is {list(self.metrics)}; needed: metrics of published evaluators")

    @property
    def by_extractor(self) -> dict[str, list[Metric]]:
        """The metrics by their evaluators; ValueError for an unknown one."""
        found: dict[str, list[Metric]] = {}
        for metric in TABLE.of(self.metrics, EFFICIENTNET):
            found.setdefault(metric.extractors[0], []).append(metric)
        return found

    def build(self, cache: Path, device: torch.device, *of_the_run: object) -> InTrainingEvaluator:
        """The evaluator; ValueError where weights or the reference are absent, or do not fit."""
        weights = WeightsSource(weights_root(self.weights_dir))
        extractors = {name: published_extractor(name, weights, device) for name in self.by_extractor}
        reference = open_reference(self.reference)
        return InTrainingEvaluator(
            self.by_extractor, extractors, reference, to_uint8, TABLE.unit, self.num_samples, device
        )

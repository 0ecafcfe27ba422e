"""The metrics of images: what each is taken with, what it needs, and how it is computed.

Letters: n images, D features, K classes.
"""

from __future__ import annotations

import torch

from eval.measure.table import (
    Metric,
    Operands,
    Table,
    class_accuracy,
    frechet,
    kernel,
    labels_missing,
    precision_recall_metrics,
)
from eval.statistics.estimate import Estimate
from eval.statistics.inception_score import ADM, TORCH_FIDELITY, Splits, inception_score
from eval.statistics.neighbours import Blocks

KID_SUBSETS, KID_SIZE = 100, 1000  # as torch-fidelity
NEIGHBOURS = 3
INCEPTION = ("inception_adm", "inception_torch_fidelity")
ANY = (*INCEPTION, "dinov2", "digits")


def splits_of(extractor: str) -> Splits:
    """How the Inception Score cuts the samples: ADM's parts of 5000 in order, torch-fidelity's 10 shuffled ones."""
    return ADM if extractor == "inception_adm" else TORCH_FIDELITY


def splits_at_least(extractor: str) -> int:
    """The samples of a part, or as many as there are parts."""
    splits = splits_of(extractor)
    return splits.size or splits.count


def blocks_of(extractor: str, device: torch.device) -> Blocks:
    """ADM takes distances in float16 and blocks of 10,000."""
    where = str(device)
    return Blocks("adm_float16", 10_000, where) if extractor == "inception_adm" else Blocks(device=where)


def scored(operands: Operands) -> Estimate:
    """The Inception Score of logits (n, K)."""
    return inception_score(operands.own, splits_of(operands.extractor.name))


METRICS: dict[str, Metric] = {
    "fid": Metric(frechet, INCEPTION),
    "sfid": Metric(frechet, ("inception_adm",), of="spatial"),
    "is": Metric(scored, INCEPTION, of="logits", needs="nothing", at_least=splits_at_least),
    **precision_recall_metrics(ANY, NEIGHBOURS, blocks_of),
    "kid": Metric(kernel(subsets=KID_SUBSETS, size=KID_SIZE), ANY, needs="features", at_least=KID_SIZE),
    "fd_dinov2": Metric(frechet, ("dinov2",), beside=True),
    "frechet_distance": Metric(frechet, ("digits",)),
    "class_accuracy": Metric(
        class_accuracy,
        ("digits",),
        of="logits",
        needs="nothing",
        at_least=1,
        missing=labels_missing("run=..., or arr_1"),
    ),
}
DEFAULTS: dict[str, tuple[str, ...]] = {
    "inception_adm": ("fid", "sfid", "is", "precision", "recall"),
    "inception_torch_fidelity": ("fid", "is", "kid", "precision", "recall"),
    "dinov2": ("fd_dinov2",),
    "digits": ("frechet_distance", "class_accuracy"),
}
TABLE = Table(METRICS, DEFAULTS, unit="image")

"""The metrics of clips, and what is measured by default; a metric's name carries the evaluator's.

t2m263/fid, t2m263/r_precision_3, ...    by a published evaluator, which reads texts too
moves/fid, ...                           by the stand-in's
physics/skate_ratio, ...                 of the joints alone, whichever evaluator is named
"""

from __future__ import annotations

from eval.measure.metrics import Metric
from eval.measure.pairs import MeanFeature, Multimodality, PairCosine, text_media_metrics
from eval.measure.table import Table
from motion.data import UNIT
from motion.encoders.published import EVALUATORS, clip_name
from motion.extractors import PHYSICS
from motion.stand_in import METRICS, NAME

TEXTS_FROM = "run=... of a model of texts, or captions beside the samples"


def metrics_of(evaluator: str) -> tuple[Metric, ...]:
    """The metrics of a published evaluator."""
    return (*text_media_metrics(evaluator), Multimodality(f"{evaluator}/multimodality", (evaluator,)))


OF_PUBLISHED = {name: metrics_of(name) for name in EVALUATORS}
OF_JOINTS = tuple(MeanFeature(f"{PHYSICS.name}/{name}", (PHYSICS.name,), name, beside=True) for name in PHYSICS.numbers)
CLIP_SCORES = tuple(
    PairCosine(f"{name}/clip_score", (clip_name(name),), beside=True)
    for name, each in EVALUATORS.items()
    if each.contrastive
)
TABLE = Table(
    metrics=(*METRICS, *(metric for each in OF_PUBLISHED.values() for metric in each), *CLIP_SCORES, *OF_JOINTS),
    defaults={
        NAME: tuple(metric.name for metric in METRICS),
        **{name: tuple(metric.name for metric in (*each, *OF_JOINTS)) for name, each in OF_PUBLISHED.items()},
    },
    unit=UNIT,
)

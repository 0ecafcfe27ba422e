"""The metrics of clips, and what is measured by default."""

from __future__ import annotations

from eval.measure.stand_in import stand_in_metrics
from eval.measure.table import Table
from video.stand_in import ASPECTS

TABLE = Table(
    metrics=stand_in_metrics("digits", "run=..., or arr_1", ASPECTS),
    defaults={"digits": ("frechet_distance", "class_accuracy", "digit_accuracy", "direction_accuracy")},
    unit="clip",
)

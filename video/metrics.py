"""The metrics of clips, and what is measured by default."""

from __future__ import annotations

from eval.measure.stand_in import stand_in_metrics
from eval.measure.table import Table

TABLE = Table(
    metrics=stand_in_metrics("digits", labels_from="run=..., or arr_1"),
    defaults={"digits": ("frechet_distance", "class_accuracy")},
    unit="clip",
)

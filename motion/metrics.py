"""The metrics of clips, and what is measured by default; a metric's name carries the evaluator's."""

from __future__ import annotations

from eval.measure.table import Table
from motion.data import UNIT
from motion.stand_in import METRICS, NAME

TABLE = Table(
    metrics=METRICS,
    defaults={NAME: tuple(metric.name for metric in METRICS)},
    unit=UNIT,
)

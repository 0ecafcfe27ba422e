"""What a measurement returns: a number, how sure it is, and how it was taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`; `kind` says of what, since the field reports spreads and confidence intervals alike."""

    low: float
    high: float
    kind: str


@dataclass(frozen=True)
class Estimate:
    """One number of an evaluation.

    num_samples: generated samples behind it (of replications: how many values). interval: where the field reports one.
    parameters: everything that a second evaluation must share for the numbers to be comparable, JSON values.
    """

    value: float
    num_samples: int
    interval: Interval | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

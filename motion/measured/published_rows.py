"""What the published evaluations give for real motion, and whether ours gives it too.

An evaluation whose real row is another measures something else: other data, statistics or weights. Guo et al. (2022),
test splits: R-precision 1 to 3, FID, matching score, diversity. The tolerances are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TOLERANCES = {
    "fid": 0.05,
    "r_precision_1": 0.02,
    "r_precision_2": 0.02,
    "r_precision_3": 0.02,
    "matching_score": 0.1,
    "diversity": 0.5,
}
# By evaluator and split. For the evaluators of MARDM no row is known here.
REAL_ROWS: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("t2m263", "test"): {
        "fid": 0.002,
        "r_precision_1": 0.511,
        "r_precision_2": 0.703,
        "r_precision_3": 0.797,
        "matching_score": 2.974,
        "diversity": 9.503,
    },
    ("kit251", "test"): {
        "fid": 0.031,
        "r_precision_1": 0.424,
        "r_precision_2": 0.649,
        "r_precision_3": 0.779,
        "matching_score": 2.788,
        "diversity": 11.08,
    },
}


@dataclass(frozen=True)
class RealRow:
    """The comparison of an evaluation's real row with the published one.

    found      value by the metric's name without the evaluator's
    published  None: no row is known for this evaluator and split
    """

    evaluator: str
    split: str
    found: Mapping[str, float]
    published: Mapping[str, float] | None

    @classmethod
    def of(cls, evaluator: str, split: str, values: Mapping[str, float]) -> RealRow:
        """The row of values by their metrics' names."""
        found = {name.removeprefix(f"{evaluator}/"): value for name, value in values.items()}
        return cls(evaluator, split, found, REAL_ROWS.get((evaluator, split)))

    @property
    def off(self) -> dict[str, tuple[float, float]]:
        """The metrics that are beyond the tolerance: what was found, and what is published."""
        pairs = {
            name: (self.found[name], value) for name, value in (self.published or {}).items() if name in self.found
        }
        return {name: (own, other) for name, (own, other) in pairs.items() if abs(own - other) > TOLERANCES[name]}

    def text(self) -> str:
        """What a person is to know of it, in a line."""
        if self.published is None:
            return f"real motion: no published row is known for {self.evaluator} on the split {self.split}"
        if self.off:
            told = ", ".join(
                f"{name} {own:.4g} (published {other:.4g}, tolerance {TOLERANCES[name]:g})"
                for name, (own, other) in self.off.items()
            )
            return f"the real motion's row is not the published one of {self.evaluator}, {self.split}: {told}"
        return f"real motion: within tolerance of the published row of {self.evaluator}, {self.split}"

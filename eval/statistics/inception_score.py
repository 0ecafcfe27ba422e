"""Inception Score: are single predictions sure, and all of them together spread? Letters: n samples, K classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import scipy

from eval.statistics.arrays import Features, checked
from eval.statistics.estimate import Estimate, plus_minus_std


@dataclass(frozen=True)
class Splits:
    """A rule that cuts the samples into parts that are scored on their own; exactly one of size and count.

    size: samples of a part; a last shorter one counts like the others. count: parts as equal as can be. seed: of a
    shuffle before; None keeps the order, which then matters if the samples are sorted by class.
    """

    size: int | None = None
    count: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        given = [number for number in (self.size, self.count) if number is not None]
        if len(given) != 1 or given[0] < 1:
            raise ValueError(
                f"splits have size {self.size} and count {self.count}; exactly one must be set, at least 1"
            )

    def cut(self, rows: np.ndarray) -> list[np.ndarray]:
        """`rows` (n, ...) in parts."""
        if self.seed is not None:
            rows = rows[np.random.RandomState(self.seed).permutation(len(rows))]  # as torch-fidelity shuffles
        if self.size is not None:
            return [rows[start : start + self.size] for start in range(0, len(rows), self.size)]
        edges = [i * len(rows) // self.count for i in range(self.count + 1)]
        return [rows[start:stop] for start, stop in pairwise(edges)]


ADM = Splits(size=5000)  # guided-diffusion's evaluator
TORCH_FIDELITY = Splits(count=10, seed=2020)


def inception_score(
    predictions: Features, splits: Splits = ADM, *, of: Literal["logits", "probabilities"] = "logits"
) -> Estimate:
    """exp(mean over samples of KL(p(class | sample) || p(class))), from 1 to K (Salimans et al. 2016).

    predictions: (n, K). p(class) is the mean of a part's predictions; the value is the mean over parts, the interval
    ± their standard deviation. Raises ValueError for predictions that `checked` refuses, fewer samples than a part has,
    probabilities that are negative or do not add up to 1, or another `of`.
    """
    if of not in ("logits", "probabilities"):
        raise ValueError(f"predictions are of {of!r}; allowed: logits, probabilities")
    array = checked(predictions, "an Inception Score", max(splits.size or splits.count, 2), "predictions")
    array = array.astype(np.float64)
    if of == "probabilities":
        if (array < 0).any() or not np.allclose(array.sum(1), 1, atol=1e-3):
            raise ValueError("probabilities must be at least 0 and add up to 1 in every row; are these logits?")
        with np.errstate(divide="ignore"):
            array = np.log(array)
    else:
        array = scipy.special.log_softmax(array, axis=1)
    scores = [_score(part) for part in splits.cut(array)]
    return plus_minus_std(scores, len(array), "splits", asdict(splits))


def _score(log_p: np.ndarray) -> float:
    p = np.exp(log_p)
    surprise = np.log(p.mean(0).clip(np.finfo(np.float64).tiny))
    terms = np.where(p > 0, p * (np.where(p > 0, log_p, 0) - surprise), 0)  # 0 log 0 = 0
    return float(np.exp(terms.sum(1).mean()))

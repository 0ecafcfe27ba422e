"""The numbers of a comparison of methods: means over seeds with intervals, relative gain, speed-up. Pure functions.

Every value belongs to a method, a seed and an evaluation; seed i of one method and seed i of another share the order of
data, noise and times, so differences are taken seed by seed.

Letters: S seeds, E evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.draws import numpy_rng
from eval.statistics.estimate import Estimate, Interval

Better = Literal["lower", "higher"]
LEVEL = 0.95
# Words of the names of metrics, behind the evaluator's, that say which way is better; a word may be of several parts.
LOWER = (
    *("distance", "fid", "sfid", "fd", "fad", "fvd", "kid", "kad", "kvd", "kl", "mmd", "loss", "divergence", "error"),
    *("nll", "matching_score", "skate_ratio", "jerk", "penetration", "floating"),
)
HIGHER = (
    *("accuracy", "precision", "recall", "is", "inception_score", "coverage", "density", "psnr", "ssim"),
    *("clap_score", "clip_score"),
)


def direction(metric: str, better: str = "auto") -> Better:
    """Say which way `metric` is better; with better "auto" by its name, ValueError where the name does not say."""
    if better != "auto":
        return better
    words = f"_{metric.rpartition('/')[2]}_"  # i3d_cdfvd/precision is no FVD
    found = {
        "lower": any(f"_{part}_" in words for part in LOWER),
        "higher": any(f"_{part}_" in words for part in HIGHER),
    }
    if found["lower"] == found["higher"]:
        raise ValueError(f"better is 'auto', but the name of metric {metric!r} does not say it; allowed: lower, higher")
    return "lower" if found["lower"] else "higher"


def mean_over_seeds(values: np.ndarray) -> Estimate:
    """Mean of values (S,) with Student's 95 % interval, mean ± t(S - 1) std / sqrt(S); no interval for one seed."""
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Estimate(mean, count)
    from scipy.stats import t as student

    half = float(student.ppf((1 + LEVEL) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return Estimate(mean, count, Interval(mean - half, mean + half, f"Student's t over {count} seeds, 95 %"))


def relative_gain(baseline: np.ndarray, method: np.ndarray, better: Better) -> Estimate | None:
    """The gain of a method, in units of the baseline's mean; positive is better, None where that mean is 0.

    Values (S,) of both, paired by seed: the mean of the seeds' differences over |mean of the baseline|, with Student's
    interval of these differences. The paper's gains are of this form with one seed.
    """
    scale = abs(float(np.mean(baseline)))
    if scale == 0:
        return None
    sign = 1.0 if better == "lower" else -1.0
    return mean_over_seeds(sign * (np.asarray(baseline) - np.asarray(method)) / scale)


@dataclass(frozen=True)
class Reached:
    """The step at which a curve first has a value; `at_most`: it has it at its first evaluation, maybe before."""

    step: float
    at_most: bool = False


def first_reached(steps: Sequence[int], curve: np.ndarray, target: float, better: Better) -> Reached | None:
    """The smallest step at which a curve (E,) is at least as good as `target`, straight lines between evaluations."""
    sign = 1.0 if better == "lower" else -1.0
    excess = sign * (np.asarray(curve, dtype=np.float64) - target)  # positive: not there yet
    there = np.flatnonzero(excess <= 0)
    if len(there) == 0:
        return None
    last = int(there[0])
    if last == 0:
        return Reached(float(steps[0]), at_most=bool(excess[0] < 0))
    before, after = excess[last - 1], excess[last]
    share = before / (before - after)
    return Reached(float(steps[last - 1] + share * (steps[last] - steps[last - 1])))


@dataclass(frozen=True)
class SpeedUp:
    """Steps of the baseline to its final value over steps of the method to the same value: the paper's 8.75x.

    target          the baseline's final mean
    baseline_steps  all of its steps
    baseline_first  the step at which its mean curve first has that value; before the end where it is not monotone
    method_steps    the step at which the method's mean curve has it first; null: not within its steps
    factor          baseline_steps / method_steps; null where not reached
    at_least        it is reached at the first evaluation: the factor is a lower bound
    low, high       95 % percentiles of the factor over resampled seeds, 0 for not reached; null for one seed
    reached_share   share of the resamplings in which it is reached
    wall_factor     the same ratio of training seconds; null where they are unknown
    """

    target: float
    baseline_steps: int
    baseline_first: float
    method_steps: float | None
    factor: float | None
    at_least: bool
    low: float | None = None
    high: float | None = None
    reached_share: float | None = None
    wall_factor: float | None = None


def speed_up(
    steps: Sequence[int], baseline: np.ndarray, method: np.ndarray, better: Better, replicates: int = 2000
) -> SpeedUp:
    """The speed-up of a method over the baseline; curves (S, E) of both, paired by seed, at the same steps (E,).

    The mean curves are compared. The interval resamples seeds, the same for both; few seeds make it coarse.
    """
    mean = baseline.mean(0)
    target, total = float(mean[-1]), int(steps[-1])
    own = first_reached(steps, mean, target, better)
    reached = first_reached(steps, method.mean(0), target, better)
    spread = _resampled(steps, baseline, method, better, replicates) if len(baseline) > 1 else None
    low, high = (None, None) if spread is None else np.quantile(spread, [0.025, 0.975], method="inverted_cdf").tolist()
    return SpeedUp(
        target=target,
        baseline_steps=total,
        baseline_first=own.step,
        method_steps=None if reached is None else reached.step,
        factor=None if reached is None else total / reached.step,
        at_least=reached is not None and reached.at_most,
        low=low,
        high=high,
        reached_share=None if spread is None else float(np.mean(spread > 0)),
    )


def _resampled(
    steps: Sequence[int], baseline: np.ndarray, method: np.ndarray, better: Better, replicates: int
) -> np.ndarray:
    """Factors (replicates,) over resampled seeds, 0 for not reached."""
    rng = numpy_rng("speed-up", 0)
    factors = []
    for _ in range(replicates):
        rows = rng.integers(len(baseline), size=len(baseline))
        target = float(baseline[rows].mean(0)[-1])
        reached = first_reached(steps, method[rows].mean(0), target, better)
        factors.append(0.0 if reached is None else steps[-1] / reached.step)
    return np.array(factors)

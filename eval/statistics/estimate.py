"""What a measurement returns: a number, how sure it is, and how it was taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.draws import numpy_rng


@dataclass(frozen=True)
class Interval:
    """An interval from `low` to `high`; `kind` says of what: a spread or a confidence interval."""

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


Z_95 = 1.96  # as published evaluations write the 97.5 % quantile of the normal distribution


def bootstrap(
    statistic: Callable[..., float],
    *samples: np.ndarray,
    replicates: int = 1000,
    level: float = 0.95,
    paired: bool = False,
    seed: int = 0,
) -> Estimate:
    """statistic(*samples) with its percentile interval over resampled rows (Efron 1979).

    samples: arrays (n, ...). paired: row i belongs together in all of them, so they are resampled alike; otherwise each
    by itself. A distance with a bias of order 1/n (Fréchet) grows under resampling, which repeats rows: its interval
    may lie above the value. Raises ValueError for no sample, fewer than 2 rows, paired samples of different length, a
    level outside (0, 1) or fewer than 2 replicates.
    """
    lengths = [len(sample) for sample in samples]
    if not lengths or min(lengths) < 2:
        raise ValueError(f"a bootstrap needs at least 2 rows of every sample, got {lengths}")
    if paired and len(set(lengths)) > 1:
        raise ValueError(f"paired samples have {lengths} rows; they must be equally many")
    if not 0 < level < 1 or replicates < 2:
        raise ValueError(f"level is {level} and replicates {replicates}; allowed: between 0 and 1, and at least 2")
    rng = numpy_rng("bootstrap", seed)
    values = []
    for _ in range(replicates):
        rows = [rng.integers(length, size=length) for length in lengths]
        values.append(statistic(*(s[rows[0 if paired else i]] for i, s in enumerate(samples))))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(
        value=float(statistic(*samples)),
        num_samples=lengths[0],
        interval=Interval(float(low), float(high), f"bootstrap percentiles, {100 * level:g} %"),
        parameters={"replicates": replicates, "level": level, "paired": paired, "seed": seed},
    )


def replications(values: Sequence[float]) -> Estimate:
    """Mean of the same evaluation run several times, ± 1.96 std / sqrt(number), the std that of the population.

    This is how text-to-motion papers report (Guo et al. 2022, 20 replications). Raises ValueError for fewer than 2
    values or one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise ValueError(f"replications need at least 2 finite values, got {values}")
    mean, half = float(array.mean()), float(Z_95 * array.std() / np.sqrt(len(array)))
    return Estimate(
        mean, len(array), Interval(mean - half, mean + half, "replications, 95 %"), {"replications": len(array)}
    )


def plus_minus_std(values: Sequence[float], num_samples: int, parts: str, parameters: dict) -> Estimate:
    """Mean ± population standard deviation over `parts` (subsets, splits) of one set: a spread, no confidence."""
    mean, std = float(np.mean(values)), float(np.std(values))
    kind = f"± standard deviation over {len(values)} {parts}"
    return Estimate(mean, num_samples, Interval(mean - std, mean + std, kind), parameters)


def over_seeds(values: Mapping[int, float], num_samples: int, parameters: Mapping[str, Any]) -> Estimate:
    """Mean of one measurement with several seeds, ± the sample standard deviation; the interval's kind has each value.

    How many seeds there are is one of the parameters, which ones is not. Raises ValueError for fewer than 2.
    """
    if len(values) < 2:
        raise ValueError(f"seeds are {list(values)}; a deviation needs 2 at least")
    mean, std = float(np.mean(list(values.values()))), float(np.std(list(values.values()), ddof=1))
    each = ", ".join(f"{value:.6g} ({seed})" for seed, value in values.items())
    interval = Interval(mean - std, mean + std, f"± sample standard deviation over {len(values)} seeds: {each}")
    return Estimate(mean, num_samples, interval, {**parameters, "seeds": len(values)})

"""Kernel distance (KID), unbiased at any number of samples. Letters: n samples, D features, S samples of a subset."""

from __future__ import annotations

import numpy as np

from eval.statistics.arrays import Features, check_width, checked
from eval.statistics.estimate import Estimate, plus_minus_std


def kernel_distance(
    generated: Features, reference: Features, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> Estimate:
    """Squared maximum mean discrepancy of features (n, D), kernel (x y / D + 1)^3 (KID, Bińkowski et al. 2018).

    The mean over random subsets of both sides, each without replacement; the interval is ± their standard deviation.
    The subsets are those that torch-fidelity draws from the same seed with `generated` as its input 1. The value may be
    below 0. Raises ValueError for features that `checked` refuses, sides of different width, or fewer samples than a
    subset.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"KID has {subsets} subsets of {subset_size}; allowed: at least 1 of at least 2")
    first = checked(generated, "KID", subset_size, "generated features").astype(np.float64)
    second = checked(reference, "KID", subset_size, "reference features").astype(np.float64)
    check_width(first, second)
    rng = np.random.RandomState(seed)  # the generator of torch-fidelity
    values = []
    for _ in range(subsets):
        x = first[rng.choice(len(first), subset_size, replace=False)]
        y = second[rng.choice(len(second), subset_size, replace=False)]
        values.append(squared_discrepancy(x, y))
    parameters = {"subsets": subsets, "subset_size": subset_size, "seed": seed, "kernel": "(x y / D + 1)^3"}
    return plus_minus_std(values, len(first), "subsets", parameters)


def squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate from x (S, D) and y (S', D): pairs of a sample with itself are left out."""

    def within(z: np.ndarray) -> float:
        kernel = _kernel(z, z)
        return (kernel.sum() - np.trace(kernel)) / (len(z) * (len(z) - 1))

    return float(within(x) + within(y) - 2 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T / x.shape[1] + 1
    return base * base * base  # NumPy's power is ten times as slow

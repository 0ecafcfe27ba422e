"""Kernel distances, unbiased at any number of samples: KID over subsets, KAD over all pairs.

Letters: n m samples, D features, S samples of a subset.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

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


Bandwidth = Literal["reference", "evaluated"]
Median = Literal["lower", "mean_of_two"]
KAD_SCALE = 100  # by which the distance is multiplied when it is told
BLOCK = 2048  # rows of a block of pairs


def gaussian_distance(
    generated: Features, reference: Features, *, bandwidth: Bandwidth | float, median: Median = "lower"
) -> Estimate:
    """100 times the unbiased squared discrepancy of (n, D) and (m, D), kernel exp(-d^2 / (2 b^2)): KAD (2502.15602).

    bandwidth  whose median pairwise distance b is: the reference's, as the paper's toolkit says, or that of the
               evaluated set, as its code has it; or b itself. Only with a given b may the two sets change places
    median     for an even number of pairs: the smaller of the two in the middle (the toolkit's), or their mean

    The value may be below 0. In float64; the toolkit works in float32 and adds 1e-8 to 2 b^2. Raises ValueError for
    features that `checked` refuses, sides of different width, and a bandwidth of 0.
    """
    x = checked(generated, "KAD", 2, "generated features").astype(np.float64)
    y = checked(reference, "KAD", 2, "reference features").astype(np.float64)
    check_width(x, y)
    centre = y.mean(0)  # moves no distance, and saves digits
    x, y = x - centre, y - centre
    b = (
        float(bandwidth)
        if not isinstance(bandwidth, str)
        else median_distance(y if bandwidth == "reference" else x, median)
    )
    if not b > 0:
        raise ValueError(f"KAD: the bandwidth of the kernel is {b}; needed: above 0 (half of the pairs are equal)")
    means = [_gaussian_mean(z, None, b) for z in (x, y)]
    value = KAD_SCALE * (sum(means) - 2 * _gaussian_mean(x, y, b))
    rule = f"median pairwise distance of the {bandwidth} set, {median}" if isinstance(bandwidth, str) else b
    parameters = {"kernel": "exp(-d^2 / (2 b^2))", "bandwidth": rule, "scale": KAD_SCALE, "estimate": "unbiased"}
    return Estimate(value, len(x), parameters=parameters)


def median_distance(rows: np.ndarray, rule: Median = "lower") -> float:
    """The median of the distances of all pairs i < j of rows (n, D), whatever memory they would take."""
    pairs = len(rows) * (len(rows) - 1) // 2
    ranks = {(pairs - 1) // 2} if rule == "lower" else {(pairs - 1) // 2, pairs // 2}
    return float(np.mean([np.sqrt(_nth_square(rows, rank)) for rank in ranks]))


def _nth_square(rows: np.ndarray, rank: int) -> float:
    """The squared distance of that rank, from 0: its 64 bits, 16 at a time, which sort as numbers from 0 on do."""
    found = 0
    for shift in (48, 32, 16, 0):
        counts = np.zeros(1 << 16, dtype=np.int64)
        for block in _squares(rows, None):
            bits = block.view(np.uint64)
            bits = bits if shift == 48 else bits[(bits >> np.uint64(shift + 16)) == found]
            counts += np.bincount(((bits >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64), minlength=1 << 16)
        below = np.cumsum(counts)
        place = int(np.searchsorted(below, rank, side="right"))
        rank -= int(below[place - 1]) if place else 0
        found = found << 16 | place
    return float(np.array(found, dtype=np.uint64).view(np.float64))


def _gaussian_mean(x: np.ndarray, y: np.ndarray | None, b: float) -> float:
    """The mean of the kernel over all pairs of x (n, D) and y (m, D), or over the pairs i < j of x."""
    total, count = 0.0, 0
    for block in _squares(x, y):
        total += float(np.exp(block / (-2 * b * b)).sum())
        count += block.size
    return total / count


def _squares(x: np.ndarray, y: np.ndarray | None) -> Iterator[np.ndarray]:
    """Squared distances of all pairs of rows of x and y, or of the pairs i < j of x, in flat blocks."""
    other = x if y is None else y
    for start in range(0, len(x), BLOCK):
        rows = x[start : start + BLOCK]
        for first in range(start if y is None else 0, len(other), BLOCK):
            columns = other[first : first + BLOCK]
            block = (rows**2).sum(1)[:, None] + (columns**2).sum(1) - 2 * rows @ columns.T
            block = np.maximum(block, 0) + 0.0  # no -0, whose bits are those of a large number
            yield block[np.triu_indices(len(rows), 1)] if y is None and first == start else block.reshape(-1)

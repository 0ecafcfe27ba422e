"""How far apart generated samples are: all of them, and those of one condition.

Letters: n samples, D features, C conditions, R repeats of a condition, P pairs.
"""

from __future__ import annotations

import numpy as np

from core.draws import numpy_rng
from eval.statistics.arrays import Features, as_array, checked
from eval.statistics.estimate import Estimate


def diversity(features: Features, *, pairs: int = 300, seed: int = 0) -> Estimate:
    """Mean Euclidean distance of random pairs of features (n, D) (Guo et al. 2022).

    Both sides of the pairs are drawn without replacement, each by itself, so that a sample may meet itself, as in the
    published code. Raises ValueError for what `checked` refuses, or fewer samples than pairs.
    """
    _check_pairs(pairs)
    array = checked(features, "diversity", max(pairs, 2)).astype(np.float64)
    first, second = draw_pairs("diversity", len(array), pairs, seed)
    return Estimate(pair_distance(array, first, second), len(array), parameters={"pairs": pairs, "seed": seed})


def multimodality(features: Features, *, pairs: int = 10, seed: int = 0) -> Estimate:
    """Mean Euclidean distance of random pairs among the repeats of one condition, features (C, R, D) (Guo et al. 2022).

    The same pairs of repeats for every condition; published with 30 repeats of 100 texts. Raises ValueError for what
    `checked` refuses, another number of axes, or fewer repeats than pairs.
    """
    _check_pairs(pairs)
    array = as_array(features).astype(np.float64)
    if array.ndim != 3 or array.shape[1] < max(pairs, 2):
        raise ValueError(f"multimodality needs features (C, R, D), R at least {max(pairs, 2)}, got {array.shape}")
    checked(array.reshape(-1, array.shape[-1]), "multimodality")
    first, second = draw_pairs("multimodality", array.shape[1], pairs, seed)
    samples = array.shape[0] * array.shape[1]
    return Estimate(pair_distance(array, first, second), samples, parameters={"pairs": pairs, "seed": seed})


def pair_distance(features: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Mean distance of features[..., first, :] and features[..., second, :], features (..., n, D), indices (P,)."""
    return float(np.linalg.norm(features[..., first, :] - features[..., second, :], axis=-1).mean())


def draw_pairs(name: str, samples: int, pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two lists of `pairs` indices below `samples`, each without repetition; a function of (name, seed)."""
    rng = numpy_rng(name, seed)
    return rng.choice(samples, pairs, replace=False), rng.choice(samples, pairs, replace=False)


def _check_pairs(pairs: int) -> None:
    if pairs < 1:
        raise ValueError(f"pairs is {pairs}; it must be at least 1")

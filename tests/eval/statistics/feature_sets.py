"""Made-up features that the tests of the statistics share, float64 unless said otherwise."""

import numpy as np


def normal(rows, width, seed=0):
    """Standard normal features (rows, width)."""
    return np.random.default_rng(seed).normal(size=(rows, width))


def correlated(rows, width, seed=0):
    """Normal features (rows, width) with a random covariance of full rank and a random mean."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)

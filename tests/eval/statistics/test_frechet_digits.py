"""How many digits of a Fréchet distance are right where covariances are ill-conditioned or of deficient rank."""

import mpmath
import numpy as np
import pytest

from eval.statistics.frechet import Moments, frechet_distance


def full(width, decay, scale=1.0, seed=0):
    """A covariance of deviations from 1 to `decay` along random axes, its features in units from 1 to `scale`."""
    roots = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0] * np.geomspace(1, decay, width)
    units = np.geomspace(1, scale, width)
    return (roots @ roots.T + (roots @ roots.T).T) / 2 * np.outer(units, units)


def deficient(width, rank, scale=1.0, seed=0):
    """A covariance of that rank, exactly: of integers and powers of two."""
    roots = np.random.default_rng(seed).integers(-9, 10, (width, rank)).astype(float)
    units = 2.0 ** np.rint(np.linspace(0, np.log2(scale), width))
    return roots @ roots.T * np.outer(units, units)


def test_ill_conditioned_and_deficient_covariances_keep_eight_digits():
    """Against 60 digits: the eigenvalues of L^T B L with A = L L^T, of the float64 covariances as they are."""
    cases = [(full(14, 1e-3), full(14, 1e-3, seed=1)), (full(14, 1e-5), full(14, 1e-5, seed=1))]
    cases += [(full(14, 1e-3, 1e8), full(14, 1e-3, 1e8, seed=1)), (full(14, 1e-5), full(14, 1, seed=1))]
    cases += [(full(14, 1e-3), deficient(14, 5)), (full(14, 1e-5, 1e6), deficient(14, 9, 1e6))]
    with mpmath.workdps(60):
        for number, (a, b) in enumerate(cases):
            root = mpmath.cholesky(mpmath.matrix(a.tolist()))
            values = mpmath.eigsy(root.T * mpmath.matrix(b.tolist()) * root, eigvals_only=True)
            wanted = float(np.trace(a) + np.trace(b) - 2 * sum(mpmath.sqrt(abs(each)) for each in values))
            pair = [Moments(np.zeros(14), each, None) for each in (a, b)]
            for both in (pair, pair[::-1]):
                assert frechet_distance(*both) == pytest.approx(wanted, rel=1e-8), number

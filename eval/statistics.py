"""Features in, number out; knows no modality. n samples, D features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Mean (D,), unbiased covariance (D, D) and number of samples of a set of features, in float64."""

    mean: np.ndarray
    covariance: np.ndarray
    num_samples: int


def moments(features: np.ndarray) -> Moments:
    """Moments of features (n, D); raises ValueError for fewer than two samples, another shape, or values not finite."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"a Fréchet distance needs features (n, D) of at least 2 samples, got {features.shape}")
    if not np.isfinite(features).all():
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise ValueError(f"features of {len(bad)} samples are NaN or infinite, first at row {bad[0]}")
    return Moments(features.mean(0), np.cov(features, rowvar=False).reshape(features.shape[1], -1), len(features))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean difference|^2 + trace(A + B - 2 (A B)^(1/2)), the squared 2-Wasserstein distance of two Gaussians.

    The trace of the root is the sum of the roots of the eigenvalues of A^(1/2) B A^(1/2), which is symmetric and
    positive semi-definite: no complex root, no trouble with deficient rank, never negative.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of width {a.mean.size} and {b.mean.size} cannot be compared")
    root = _symmetric_root(a.covariance)
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace_root = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    difference = a.mean - b.mean
    value = difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace_root
    return float(max(value, 0.0))


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T

"""Mean and covariance of features, and the Fréchet distance between two sets; knows no modality.

Letters: n samples, D features, R rank.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy

from core.draws import numpy_rng
from core.storage.arrays import npz_array, npz_keys
from core.storage.atomic import write_atomic
from eval.statistics.arrays import Features, as_array, check_finite, check_width, checked
from eval.statistics.estimate import Estimate

FRECHET = "a Fréchet distance"
CANCELLATION = 1e-3  # of a distance below the traces that it is the difference of
ROUNDING = 1e-6  # of a covariance that was kept in float32, relative to its variances
SPATIAL = {"mu": "mu_s", "sigma": "sigma_s"}  # ADM's names of the spatial statistics


# Moments


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and unbiased covariance (D, D) of a set of features, float64, and how many samples they are of.

    num_samples: None where a file does not say it. root: (D, R) with root root^T = covariance, kept where there are no
    more samples than features, which is cheaper and more exact than to find it again in a covariance of deficient rank.
    """

    mean: np.ndarray
    covariance: np.ndarray
    num_samples: int | None
    root: np.ndarray | None = None

    def biased(self) -> Moments:
        """The same with the covariance divided by n in place of n - 1, as FVD's code has it (StyleGAN-V)."""
        if self.num_samples is None:
            raise ValueError("these moments do not say of how many samples they are: no biased covariance")
        scale = (self.num_samples - 1) / self.num_samples
        root = None if self.root is None else np.sqrt(scale) * self.root
        return Moments(self.mean, scale * self.covariance, self.num_samples, root)


def moments(features: Features) -> Moments:
    """Moments of features (n, D); raises ValueError for what `eval.statistics.arrays.checked` refuses."""
    array = checked(features, FRECHET).astype(np.float64)  # a copy
    mean = array.mean(0)
    array -= mean
    array /= np.sqrt(len(array) - 1)
    return Moments(mean, array.T @ array, len(array), array.T if len(array) <= array.shape[1] else None)


class RunningMoments:
    """Moments of features that come in batches and from several processes, without keeping the features.

    Means and sums of squares are joined as by Chan, Golub and LeVeque (1983), which subtracts nothing large: how the
    samples are cut into batches and parts moves the result by rounding only. An object can be pickled, so the parts of
    a job are joined by `merged(world.gather(running))` in the main process.
    """

    def __init__(self) -> None:
        self.num_samples = 0
        self._mean: np.ndarray | None = None
        self._scatter: np.ndarray | None = None  # (D, D), sum of outer products of deviations from the mean
        self._first: np.ndarray | None = None  # a sample that all others are compared with
        self._varies = False

    def add(self, features: Features) -> RunningMoments:
        """Take in a batch (n, D), n at least 1; raises ValueError for another shape or width, or values not finite."""
        array = as_array(features).astype(np.float64)
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(f"a batch of features must be (n, D), got {array.shape}")
        check_finite(array, first_row=self.num_samples)
        mean = array.mean(0)
        deviation = array - mean
        part = RunningMoments()
        part.num_samples, part._mean, part._scatter = len(array), mean, deviation.T @ deviation
        part._first, part._varies = array[0].copy(), bool((array != array[0]).any())
        return self.merge(part)

    def merge(self, other: RunningMoments) -> RunningMoments:
        """Take in the samples of another one, which stays as it is; raises ValueError for another width."""
        if other.num_samples == 0:
            return self
        if self.num_samples == 0:
            self._mean, self._scatter, self._first = other._mean.copy(), other._scatter.copy(), other._first
            self.num_samples, self._varies = other.num_samples, other._varies
            return self
        check_width(self._mean, other._mean)
        total = self.num_samples + other.num_samples
        difference = other._mean - self._mean
        weight = self.num_samples * other.num_samples / total
        self._scatter += other._scatter + weight * np.outer(difference, difference)
        self._mean += difference * (other.num_samples / total)
        self._varies |= other._varies or bool((other._first != self._first).any())
        self.num_samples = total
        return self

    def result(self) -> Moments:
        """The moments of all samples so far; raises ValueError for fewer than 2, or if all are equal."""
        if self.num_samples < 2:
            raise ValueError(f"{FRECHET} needs at least 2 samples, got {self.num_samples}")
        if not self._varies:
            raise ValueError(
                f"{FRECHET}: all {self.num_samples} samples have equal features; are the media all the same?"
            )
        return Moments(self._mean.copy(), self._scatter / (self.num_samples - 1), self.num_samples)


def merged(parts: Iterable[RunningMoments]) -> RunningMoments:
    """The samples of all parts together; the parts stay as they are."""
    total = RunningMoments()
    for part in parts:
        total.merge(part)
    return total


# Files


def save_moments(path: Path | str, measured: Moments) -> Path:
    """Write an .npz with `mu`, `sigma` and, where it is known, `n`: what ADM's evaluator and fadtk read too."""
    arrays = {"mu": measured.mean, "sigma": measured.covariance}
    if measured.num_samples is not None:
        arrays["n"] = np.int64(measured.num_samples)
    content = io.BytesIO()
    np.savez(content, **arrays)
    return write_atomic(path, content.getvalue())


def load_moments(path: Path | str, *, spatial: bool = False) -> Moments:
    """Read `save_moments`'s file or a reference batch of ADM, whose images (`arr_0`) are left alone.

    spatial: ADM's second pair, `mu_s` and `sigma_s`, for sFID. Raises ValueError, naming the file, if it is not there
    or no .npz, lacks a key, or holds statistics that do not fit each other or are not finite.
    """
    path = Path(path)
    names = [SPATIAL[key] if spatial else key for key in ("mu", "sigma")]
    try:
        keys = npz_keys(path)
        missing = [name for name in names if name not in keys]
        if missing:
            raise ValueError(f"no {' and no '.join(missing)} among its keys {sorted(keys)}")
        mean, covariance = (_numbers(npz_array(path, name), name) for name in names)
        num_samples = _count(npz_array(path, "n")) if "n" in keys else None
        _check_moments(mean, covariance)
    except ValueError as error:
        raise ValueError(f"{path} holds no statistics: {error}") from error
    return Moments(mean, covariance, num_samples)


def _numbers(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} is of type {array.dtype}; needed: real numbers")
    return array.astype(np.float64)


def _count(array: np.ndarray) -> int:
    if array.size != 1 or array.dtype.kind not in "fiu" or not 2 <= array.item() < np.inf:
        raise ValueError(f"its number of samples n is {array.tolist()!r:.40}; needed: one number, at least 2")
    return int(array.item())


def _check_moments(mean: np.ndarray, covariance: np.ndarray) -> None:
    """ValueError for what no features have; float32's rounding, which published files have, is let through."""
    if mean.ndim != 1 or not mean.size or covariance.shape != (mean.size, mean.size):
        raise ValueError(f"mean {mean.shape} and covariance {covariance.shape} do not fit each other")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("its mean or covariance is not finite")
    variances = np.diagonal(covariance)
    if (variances < 0).any():
        raise ValueError(f"its covariance has a negative variance, first at feature {np.flatnonzero(variances < 0)[0]}")
    if np.abs(covariance - covariance.T).max() > ROUNDING * variances.max():
        raise ValueError("its covariance is not symmetric")
    shift = ROUNDING * variances.sum() + np.finfo(np.float64).tiny
    _, info = scipy.linalg.lapack.dpotrf(covariance + shift * np.eye(mean.size), lower=1)
    if info:
        raise ValueError("its covariance has a negative eigenvalue: it is no covariance")


# Distance


def frechet_distance(a: Moments, b: Moments, *, biased: bool = False) -> float:
    """|mean difference|^2 + trace(A + B - 2 (A B)^(1/2)), the squared 2-Wasserstein distance of two Gaussians.

    (Dowson and Landau 1982; FID: Heusel et al. 2017.) With A = R R^T the trace of the root is the sum of the roots of
    the eigenvalues of R^T B R, which is symmetric and positive semi-definite: no complex root, no offset on the
    diagonal, no trouble with deficient rank, never negative. biased: covariances divided by n, as FVD has them. Raises
    ValueError for features of different width, and for moments that are none.
    """
    check_width(a.mean, b.mean)
    if biased:
        a, b = a.biased(), b.biased()
    difference = a.mean - b.mean
    traces = np.trace(a.covariance), np.trace(b.covariance)
    value = difference @ difference + traces[0] + traces[1] - 2 * _trace_root(a, b)
    if not value >= -CANCELLATION * sum(traces):
        raise ValueError(f"{FRECHET} of {value:g}: one of the covariances is none, or not finite")
    return float(max(value, 0.0))


def _trace_root(a: Moments, b: Moments) -> float:
    """trace (A B)^(1/2) of the two covariances.

    A feature that is constant in one of them adds nothing and is left out. Two triangular roots: the eigenvalues of
    R^T B R, at a third of the cost of the general way, the singular values of R_a^T R_b.
    """
    varies = (np.diagonal(a.covariance) > 0) & (np.diagonal(b.covariance) > 0)
    if not varies.any():
        return 0.0
    (root_a, triangular_a), (root_b, triangular_b) = _root(a, varies), _root(b, varies)
    if triangular_a and triangular_b:
        product, _ = scipy.linalg.lapack.dsygst(b.covariance[np.ix_(varies, varies)], root_a, itype=2, lower=1)
        return float(np.sqrt(np.clip(np.linalg.eigvalsh(product), 0, None)).sum())  # both use the lower triangle
    return float(np.linalg.svd(root_a.T @ root_b, compute_uv=False).sum())


def _root(of: Moments, varies: np.ndarray) -> tuple[np.ndarray, bool]:
    """(D, R) with root root^T = covariance of the features that vary, and whether it is square and lower triangular.

    Where rounding could hide a deficient rank, features are taken by what is left of their variance (Cholesky's factor
    with pivots, of the correlations), until only rounding is: the roots of 1e-16 are 1e-8 each, and there may be
    thousands. Exact to as many digits as by eigenvectors, at a sixth of their cost.
    """
    if of.root is not None:
        return of.root[varies], False
    covariance = of.covariance[np.ix_(varies, varies)]
    rounding = len(covariance) * np.finfo(np.float64).eps
    factor, info = scipy.linalg.lapack.dpotrf(covariance, lower=1, clean=1)
    if info == 0 and (np.diagonal(factor) ** 2 > rounding * np.diagonal(covariance)).all():
        return factor, True
    deviations = np.sqrt(np.diagonal(covariance))
    correlations = covariance / np.outer(deviations, deviations)
    factor, pivots, rank, _ = scipy.linalg.lapack.dpstrf(correlations, tol=rounding, lower=1)
    root = np.empty((len(covariance), rank))
    root[pivots - 1] = np.tril(factor)[:, :rank]
    return deviations[:, None] * root, False


def frechet_infinity(
    features: Features,
    reference: Moments,
    *,
    points: int = 25,
    smallest: int = 500,
    replace: bool = False,
    seed: int = 0,
) -> Estimate:
    """The Fréchet distance of features (n, D) to a reference without its bias of small samples (FD-infinity).

    The distance of random subsets of `points` sizes, evenly from `smallest` to n, is fitted by a straight line in
    1/size, whose value at 0 is reported (Chong and Forsyth 2020; Gui et al. 2024 with these sizes). The bias is a line
    only above D samples, so `smallest` should be more than D. replace: draw with replacement as fadtk does, which
    removes less of the bias, since the n samples then stand for the population. The value may be below 0. parameters
    also holds the line's slope and R^2. Raises ValueError for features that `checked` refuses, n not above `smallest`,
    or fewer than 2 points.
    """
    array = checked(features, "FD-infinity", at_least=smallest + 1)
    check_width(array, reference.mean)
    if points < 2 or smallest < 2:
        raise ValueError(f"FD-infinity has points {points} and smallest {smallest}; both must be at least 2")
    sizes = np.linspace(smallest, len(array), points).astype(int)
    distances = []
    for size in sizes:
        rows = numpy_rng("FD-infinity", seed, int(size)).choice(len(array), size, replace=replace)
        distances.append(frechet_distance(moments(array[rows]), reference))
    slope, intercept = np.polyfit(1 / sizes, distances, 1)
    residual = np.square(distances - intercept - slope / sizes).sum()
    total = np.square(distances - np.mean(distances)).sum()
    parameters = {"points": points, "smallest": smallest, "replace": replace, "seed": seed, "slope": float(slope)}
    parameters["r_squared"] = float(1 - residual / total) if total > 0 else 1.0
    return Estimate(float(intercept), len(array), parameters=parameters)

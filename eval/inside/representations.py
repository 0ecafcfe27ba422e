"""How alike two representations of the same n samples are: CKA, mutual nearest neighbours, CKNNA.

Features are (n, D), one row for each sample; the widths may differ. Everything is computed in float64.

    CKA         Kornblith et al., arXiv 1905.00414, section 3, with a linear kernel
    debiased    HSIC_1 of Song et al. (JMLR 13, 2012, equation 5), as in Nguyen et al., arXiv 2010.15327, equation 3
    neighbours  The Platonic Representation Hypothesis, arXiv 2405.07987, appendix A
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor

from core.alignment.kernel import MIN_DEBIASED, centred


def gram(features: Tensor, *, normalised: bool = False) -> Tensor:
    """Inner products (n, n) of the rows of features (n, D), or of the rows scaled to length 1.

    Raises ValueError for another shape and for values that are not finite.
    """
    if features.ndim != 2:
        raise ValueError(f"features must be (n, D), got {tuple(features.shape)}")
    features = _finite(features)
    if normalised:
        features = F.normalize(features, dim=1)
    return features @ features.T


def cka(x: Tensor, y: Tensor, *, debiased: bool = True) -> float:
    """Linear CKA of features (n, Dx) and (n, Dy): 1 for equal up to rotation, scale and shift.

    0 is independence; the plain estimate is above 0 then (towards 1 where D is near n), the debiased one is 0 on
    average and may be below. 0 as well where one side is constant.
    """
    return float(cka_matrix([x], [y], debiased=debiased)[0, 0])


def cka_matrix(xs: Sequence[Tensor], ys: Sequence[Tensor] | None = None, *, debiased: bool = True) -> Tensor:
    """Linear CKA (len(xs), len(ys)) of every pair, or of all xs among themselves; holds their kernels, n^2 each."""
    _check_rows([*xs, *(ys or [])])
    left = torch.stack([centred(gram(_spread(x)), debiased=debiased).flatten() for x in xs])
    right = left if ys is None else torch.stack([centred(gram(_spread(y)), debiased=debiased).flatten() for y in ys])
    norms = left.square().sum(1).sqrt()[:, None] * right.square().sum(1).sqrt()
    return _ratio(left @ right.T, norms)


def neighbours(kernel: Tensor, k: int) -> Tensor:
    """(n, n) bool: row i is true at the k samples most like i by `kernel`, never at i.

    Raises ValueError for k outside 1..n-1.
    """
    n = len(kernel)
    if not 1 <= k < n:
        raise ValueError(f"neighbours is {k}; allowed for {n} samples: 1 to {n - 1}")
    others = kernel.clone().fill_diagonal_(-torch.inf)
    return torch.zeros_like(kernel, dtype=torch.bool).scatter_(1, others.topk(k, dim=1).indices, True)


class Neighbourhood:
    """One side of a comparison by neighbours: the k nearest of each sample of features (n, D), by cosine."""

    def __init__(self, features: Tensor, k: int):
        self.k = k
        self.kernel = gram(features, normalised=True)
        self.near = neighbours(self.kernel, k)

    def mutual_knn(self, other: Neighbourhood) -> float:
        """Mean share of the k nearest neighbours that a sample has on both sides."""
        _check_rows([self.kernel, other.kernel])
        return float((self.near & other.near).sum() / (self.k * len(self.kernel)))

    def cknna(self, other: Neighbourhood) -> float:
        """CKA over the pairs of samples that are neighbours on both sides; see the function."""
        _check_rows([self.kernel, other.kernel])
        if self.k < 2:
            raise ValueError(f"neighbours is {self.k}; CKNNA needs at least 2")
        product = (self._aligned(self) * other._aligned(other)).clamp_min(0).sqrt()
        return float(_ratio(self._aligned(other), product))

    def _aligned(self, other: Neighbourhood) -> Tensor:
        both = self.near & other.near
        return _hsic_unbiased(self.kernel * both, other.kernel * both)


def mutual_knn(x: Tensor, y: Tensor, k: int = 10) -> float:
    """Mean share of the k nearest neighbours (by cosine) that a sample has in both; k / (n - 1) when independent."""
    return Neighbourhood(x, k).mutual_knn(Neighbourhood(y, k))


def cknna(x: Tensor, y: Tensor, k: int = 10) -> float:
    """CKNNA: CKA that counts a pair of samples only where each side has it among its k nearest neighbours, by cosine.

    With the unbiased HSIC of the masked kernels, as in the authors' published code. Theirs depends a little (about
    0.001) on which side comes first; here both orders are averaged. With k = n - 1 it is the debiased CKA of the rows
    scaled to length 1. Raises ValueError for k below 2.
    """
    return Neighbourhood(x, k).cknna(Neighbourhood(y, k))


def _hsic_unbiased(a: Tensor, b: Tensor) -> Tensor:
    """Song et al., equation 5, of kernels (n, n) with zero diagonals; masked ones are not symmetric, see `cknna`."""
    n = len(a)
    if n < MIN_DEBIASED:
        raise ValueError(f"CKNNA needs at least {MIN_DEBIASED} samples, got {n}")
    trace = (a * b.T).sum()
    mean = a.sum() * b.sum() / ((n - 1) * (n - 2))
    ones = a.sum(0) @ b.sum(1) + b.sum(0) @ a.sum(1)  # 1' A B 1 in both orders
    return (trace + mean - ones / (n - 2)) / (n * (n - 3))


def _spread(features: Tensor) -> Tensor:
    """Features without their mean, which CKA does not see: exactly zero where nothing but rounding is left."""
    features = _finite(features)
    rest = features - features.mean(0)
    return rest if rest.abs().amax() > 1e-12 * features.abs().amax() else torch.zeros_like(rest)


def _finite(features: Tensor) -> Tensor:
    if not torch.isfinite(features).all():
        raise ValueError("features hold NaN or infinite values")
    return features.double()


def _ratio(value: Tensor, norm: Tensor) -> Tensor:
    """value / norm, 0 where the norm is 0."""
    return torch.where(norm > 0, value / torch.where(norm > 0, norm, 1.0), 0.0)


def _check_rows(features: Sequence[Tensor]) -> None:
    counts = {len(each) for each in features}
    if len(counts) != 1:
        raise ValueError(f"the two sides must hold the same samples, got {sorted(counts)} rows")

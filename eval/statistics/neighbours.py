"""Precision, recall, density and coverage: which samples lie within the k-nearest-neighbour balls of the other set.

Distances are taken in blocks, so that memory grows with n and not with its square. Letters: n m samples of two sets,
D features, B samples of a block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from eval.statistics.arrays import Features, check_width, checked
from eval.statistics.estimate import Estimate

Distances = Literal["float32", "adm_float16"]
DISTANCES = ("float32", "adm_float16")
BLOCK = 4096


@dataclass(frozen=True)
class PrecisionRecall:
    """Share of the generated samples within the reference's balls, and of the reference within the generated ones'."""

    precision: Estimate
    recall: Estimate


@dataclass(frozen=True)
class DensityCoverage:
    """Balls of the reference that a generated sample lies in, over k; share of the balls that hold one."""

    density: Estimate
    coverage: Estimate


@dataclass(frozen=True)
class Blocks:
    """Options of taking distances.

    distances: "float32", after subtracting the reference's mean, which moves no distance and saves digits; or
    "adm_float16", as guided-diffusion's evaluator: features, squared norms, products and their sum rounded to float16,
    float32 for a block that overflows. Near ties fall differently, a few samples in a thousand. size: B; the memory
    beside the features is about 12 B^2 bytes (200 MiB). device: where.
    """

    distances: Distances = "float32"
    size: int = BLOCK
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.distances not in DISTANCES:
            raise ValueError(f"distances is {self.distances!r}; allowed: {', '.join(DISTANCES)}")
        if self.size < 1:
            raise ValueError(f"the size of a block is {self.size}; it must be at least 1")

    def take(self, generated: Features, reference: Features, k: int, metric: str) -> tuple[Tensor, Tensor]:
        """Both sets (n, D) as float32 on the device, checked; raises ValueError."""
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1")
        x = checked(generated, metric, k + 1, "generated features")
        y = checked(reference, metric, k + 1, "reference features")
        check_width(x, y)
        centre = y.mean(0, dtype=np.float64) if self.distances == "float32" else np.zeros(y.shape[1])
        return self._move(x, centre), self._move(y, centre)

    def _move(self, array: np.ndarray, centre: np.ndarray) -> Tensor:
        moved = torch.empty(array.shape, dtype=torch.float32, device=self.device)
        for rows in self.cut(len(array)):
            moved[rows] = torch.from_numpy((array[rows] - centre).astype(np.float32)).to(self.device)
        return moved

    def cut(self, rows: int) -> Iterator[slice]:
        """Slices of at most `size` that cover `rows`."""
        for start in range(0, rows, self.size):
            yield slice(start, min(start + self.size, rows))

    def squared(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared distances (B, B') of x (B, D) and y (B', D), float32."""
        if self.distances == "adm_float16":
            rounded = _squared_float16(x, y)
            if rounded.isfinite().all():
                return rounded.float()
        product = x @ y.T
        return product.mul_(-2).add_(x.square().sum(1)[:, None]).add_(y.square().sum(1)).clamp_min_(0)


def _squared_float16(x: Tensor, y: Tensor) -> Tensor:
    """|x|^2 - 2 x y + |y|^2 with every intermediate rounded to float16, sums taken in float32."""
    x, y = x.half().float(), y.half().float()
    norm_x, norm_y = (side.square().half().float().sum(1).half() for side in (x, y))
    product = (x @ y.T).half()
    return product.mul_(-2).add_(norm_x[:, None]).add_(norm_y).clamp_min_(0)


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """Matrix products without TF32, whatever training allowed: its 10 bits would reorder neighbours."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def squared_radii(features: Tensor, k: int, blocks: Blocks) -> Tensor:
    """(n,) squared distance of each of features (n, D) to its k-th nearest other one."""
    radii = torch.empty(len(features), device=features.device)
    for rows in blocks.cut(len(features)):
        nearest = torch.empty(rows.stop - rows.start, 0, device=features.device)
        for columns in blocks.cut(len(features)):
            block = blocks.squared(features[rows], features[columns])
            found = block.topk(min(k + 1, block.shape[1]), largest=False).values
            nearest = torch.cat([nearest, found], 1)
            nearest = nearest.topk(min(k + 1, nearest.shape[1]), largest=False).values
        radii[rows] = nearest.amax(1)  # k others and the sample itself
    return radii


@torch.no_grad()
def precision_recall(
    generated: Features, reference: Features, *, k: int = 3, blocks: Blocks | None = None
) -> PrecisionRecall:
    """Improved precision and recall of features (n, D) against (m, D) (Kynkäänniemi et al. 2019).

    A sample on the border of a ball is within. ADM's protocol: k = 3, 50 000 generated, the 10 000 images of the
    reference batch, Blocks("adm_float16", 10_000). Raises ValueError for what `checked` refuses, sets of different
    width, or fewer than k + 1 samples in one of them.
    """
    blocks = blocks or Blocks()
    x, y = blocks.take(generated, reference, k, "precision and recall")
    with _full_float32():
        radii_x, radii_y = squared_radii(x, k, blocks), squared_radii(y, k, blocks)
        within_y = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        within_x = torch.zeros(len(y), dtype=torch.bool, device=x.device)
        for rows in blocks.cut(len(y)):
            for columns in blocks.cut(len(x)):
                block = blocks.squared(y[rows], x[columns])
                within_y[columns] |= (block <= radii_y[rows, None]).any(0)
                within_x[rows] |= (block <= radii_x[columns]).any(1)
    parameters = _parameters(k, blocks, len(y))
    return PrecisionRecall(
        Estimate(within_y.double().mean().item(), len(x), parameters=parameters),
        Estimate(within_x.double().mean().item(), len(x), parameters=parameters),
    )


@torch.no_grad()
def density_coverage(
    generated: Features, reference: Features, *, k: int = 5, blocks: Blocks | None = None
) -> DensityCoverage:
    """Density and coverage of features (n, D) against (m, D) (Naeem et al. 2020, k = 5).

    Only the reference has balls, so an outlier among the generated samples makes no ball that covers all; and the large
    ball of an outlier of the reference adds 1/k for a sample in it, where precision would count the sample in full. A
    sample on the border is outside, as in the authors' code: density and coverage of equal sets are 1. Errors as
    `precision_recall`.
    """
    blocks = blocks or Blocks()
    x, y = blocks.take(generated, reference, k, "density and coverage")
    with _full_float32():
        radii = squared_radii(y, k, blocks)
        inside, covered = 0, torch.zeros(len(y), dtype=torch.bool, device=x.device)
        for rows in blocks.cut(len(y)):
            for columns in blocks.cut(len(x)):
                within = blocks.squared(y[rows], x[columns]) < radii[rows, None]
                inside += int(within.sum())
                covered[rows] |= within.any(1)
    parameters = _parameters(k, blocks, len(y))
    return DensityCoverage(
        Estimate(inside / (k * len(x)), len(x), parameters=parameters),
        Estimate(covered.double().mean().item(), len(x), parameters=parameters),
    )


def _parameters(k: int, blocks: Blocks, num_reference: int) -> dict[str, int | str]:
    return {"k": k, "num_reference": num_reference, "distances": blocks.distances}

"""What a linear map can read from frozen tokens: classes from pooled ones, segments from the grid of them.

Logistic regression with an L2 penalty on standardised features, fitted by LBFGS from zero: nothing is drawn, so the
same tokens give the same numbers.

Letters: n rows, N tokens, D width, K classes, F frames, Y X rows and columns of a mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor

IGNORED = 255  # label of pixels that do not count, as in PASCAL VOC
CHUNK = 2**24  # logits of a pass over masks held at once
LINEAR = {2: "bilinear", 3: "trilinear"}  # by the axes of a grid


@dataclass(frozen=True)
class ProbeOptions:
    """Options of fitting a probe.

    l2          weight of half the squared norm of the map, beside the mean cross-entropy; the bias is free
    iterations  of LBFGS at most
    """

    l2: float = 1e-3
    iterations: int = 200

    def __post_init__(self) -> None:
        if self.l2 <= 0:
            raise ValueError(f"probe.l2 is {self.l2}; it must be above 0")
        if self.iterations < 1:
            raise ValueError(f"probe.iterations is {self.iterations}; it must be at least 1")


@dataclass(frozen=True)
class Standard:
    """Mean and scale (D,) of training features; a feature that does not vary stays 0."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standard:
        """The mean and scale of features (..., D), both over all leading axes."""
        flat = features.flatten(0, -2)
        std, mean = torch.std_mean(flat, dim=0, correction=0)
        varies = std > 1e-6 * mean.abs().clamp_min(1e-6)
        return cls(mean, torch.where(varies, 1 / torch.where(varies, std, 1.0), 0.0))

    def __call__(self, features: Tensor) -> Tensor:
        """Features (..., D) with mean 0 and deviation 1."""
        return (features - self.mean) * self.scale


@dataclass(frozen=True)
class LinearMap:
    """Features (..., D) -> logits (..., K)."""

    weight: Tensor
    bias: Tensor
    standard: Standard

    def __call__(self, features: Tensor) -> Tensor:
        """Logits of features as they came."""
        return F.linear(self.standard(features), self.weight, self.bias)


def fit_classes(features: Tensor, labels: Tensor, num_classes: int, options: ProbeOptions) -> LinearMap:
    """Multinomial logistic regression of labels (n,) in 0..K-1 on features (n, D).

    Raises ValueError for fewer than two classes among the labels, and for features that are not finite.
    """
    _check_finite(features)
    if len(labels.unique()) < 2:
        raise ValueError(f"a probe needs rows of at least 2 classes, got {len(labels.unique())} in {len(labels)} rows")
    standard = Standard.of(features)
    inputs = standard(features)

    def loss(weight: Tensor, bias: Tensor, backward: Callable[[Tensor], None]) -> None:
        backward(F.cross_entropy(F.linear(inputs, weight, bias), labels))

    return LinearMap(*_minimise(loss, inputs, num_classes, options), standard)


def accuracy(fitted: LinearMap, features: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest logit is at their label."""
    return float((fitted(features).argmax(1) == labels).float().mean())


def chance_level(train: Tensor, heldout: Tensor) -> float:
    """Accuracy on held-out labels of always saying the most frequent label of the training rows."""
    return float((heldout == train.mode().values).float().mean())


def fit_segments(
    tokens: Tensor, grid: Sequence[int], masks: Tensor, num_classes: int, options: ProbeOptions
) -> LinearMap:
    """A linear classifier of each token (n, N, D), its logits laid on `grid` and enlarged to the masks.

    Masks are (n, Y, X) of images, or (n, F, Y, X) of clips, and hold 0..K-1, or 255 where a pixel does not count. The
    loss is the mean over pixels that count. Raises ValueError for a grid that has other axes or does not hold N tokens,
    or masks without two classes.
    """
    _check_finite(tokens)
    _check_grid(tokens, grid, masks.ndim - 1)
    found = [int(value) for value in masks.unique() if value != IGNORED]
    if len(found) < 2 or max(found) >= num_classes:
        raise ValueError(f"masks hold the labels {found}; needed: at least 2 of 0 to {num_classes - 1}")
    standard = Standard.of(tokens)
    inputs = standard(tokens)
    pixels = (masks != IGNORED).sum()
    step = max(1, CHUNK // (num_classes * masks[0].numel()))

    def loss(weight: Tensor, bias: Tensor, backward: Callable[[Tensor], None]) -> None:
        for some, target in zip(inputs.split(step), masks.split(step), strict=True):
            logits = enlarge(F.linear(some, weight, bias), grid, tuple(masks.shape[1:]))
            backward(F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum") / pixels)

    return LinearMap(*_minimise(loss, inputs, num_classes, options), standard)


def predict_segments(fitted: LinearMap, tokens: Tensor, grid: Sequence[int], size: tuple[int, ...]) -> Tensor:
    """Labels (n, *size) of tokens (n, N, D), a few rows at a time."""
    step = max(1, CHUNK // (len(fitted.bias) * math.prod(size)))
    return torch.cat([enlarge(fitted(some), grid, size).argmax(1) for some in tokens.split(step)])


def enlarge(logits: Tensor, grid: Sequence[int], size: tuple[int, ...]) -> Tensor:
    """Logits (n, N, K) of a grid of tokens as (n, K, *size), linear along each of its two or three axes."""
    maps = logits.unflatten(1, tuple(grid)).movedim(-1, 1)
    return F.interpolate(maps, size=size, mode=LINEAR[len(size)], align_corners=False)


def mean_iou(predicted: Tensor, target: Tensor, num_classes: int) -> float:
    """Mean intersection over union of labels of one shape over the classes that either has; pixels 255 are left out.

    Raises ValueError when no pixel counts.
    """
    counted = target != IGNORED
    if not counted.any():
        raise ValueError("no pixel of the masks counts, all are 255")
    pairs = target[counted] * num_classes + predicted[counted]
    confusion = torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).double()
    both = confusion.diagonal()
    either = confusion.sum(0) + confusion.sum(1) - both
    return float((both[either > 0] / either[either > 0]).mean())


def _minimise(
    loss: Callable[[Tensor, Tensor, Callable[[Tensor], None]], None],
    inputs: Tensor,
    num_classes: int,
    options: ProbeOptions,
) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) from zero; `loss` hands its parts to `backward`, which sums them."""
    weight = inputs.new_zeros((num_classes, inputs.shape[-1])).requires_grad_()
    bias = inputs.new_zeros(num_classes).requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=options.iterations, history_size=10, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        total = []

        def backward(part: Tensor) -> None:
            part.backward()
            total.append(part.detach())

        with torch.enable_grad():
            loss(weight, bias, backward)
            backward(0.5 * options.l2 * weight.square().sum())
        return torch.stack(total).sum()

    solver.step(closure)
    return weight.detach(), bias.detach()


def _check_finite(features: Tensor) -> None:
    if not torch.isfinite(features).all():
        raise ValueError("the tokens of a block hold NaN or infinite values")


def _check_grid(tokens: Tensor, grid: Sequence[int], axes: int) -> None:
    if len(grid) != axes:
        raise ValueError(
            f"a segmentation probe is for images and clips: the backbone's grid is {tuple(grid)}, the masks have "
            f"{axes} axes"
        )
    if tokens.shape[1] != math.prod(grid):
        raise ValueError(f"a block gave {tokens.shape[1]} tokens for a grid of {' x '.join(map(str, grid))}")

"""Flow matching: draw a time, interpolate, compare the network's output with its target.

Knows tensors and callables; never networks, data sets or devices. Letters: B batch, N tokens.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from core.draws import Random
from core.flow.path import (
    Coefficients,
    Interpolant,
    PathName,
    Prediction,
    TableConfig,
    broadcast_time,
    build_path,
    check_choice,
    check_used,
)

if TYPE_CHECKING:
    from core.contracts import Backbone

log = logging.getLogger(__name__)
Weighting = Literal["none", "velocity", "likelihood"]
TimeDistribution = Literal["uniform", "logit_normal", "shifted"]
TimePer = Literal["sample", "token"]
USUAL_NUMBERS = 4096  # of a latent, for which times need no shift (arXiv 2510.11690)


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is predicted, how errors are weighted, and which times are trained.

    path: linear, gvp or vp; or {name: cosine, steps: T}, the noise levels of a diffusion (linear_betas: those of DDPM),
    where the network returns noise or data, and errors have no weighting. time: uniform; logit_normal: sigmoid of
    N(time_mean, time_std) (Stable Diffusion 3, arXiv 2403.03206, section 3.1); shifted: uniform u moved to noise,
    t = u / (u + time_shift (1 - u)) (the same paper, equation 23, in our direction of time); auto: by
    sqrt(n / 4096), n the numbers of a latent. time_per: one time for a sample, or one for each token. margin: distance
    kept from a singular end of the time axis; null: the path's own. weight_limit: the most that a weighting may
    multiply a squared error by; null: no limit.
    contrastive_weight: of the squared error against the target of the next sample of the batch, which is subtracted
    (contrastive flow matching, arXiv 2506.05350; 0.05 there).
    difference_weight: of the squared error of the differences between neighbours along the last axis of the latents,
    the time of sound and motion, beside that of the data themselves (arXiv 2209.14916, equation 5).
    """

    path: PathName | TableConfig = "linear"
    prediction: Prediction = "velocity"
    weighting: Weighting = "none"
    time: TimeDistribution = "uniform"
    time_mean: float = 0.0
    time_std: float = 1.0
    time_shift: float | Literal["auto"] = 1.0
    time_per: TimePer = "sample"
    margin: float | None = None
    difference_weight: float = 0.0
    weight_limit: float | None = None
    contrastive_weight: float = 0.0

    def __post_init__(self) -> None:
        check_choice("objective.weighting", self.weighting, Weighting)
        check_choice("objective.time", self.time, TimeDistribution)
        check_choice("objective.time_per", self.time_per, TimePer)
        if self.time_std <= 0:
            raise ValueError(f"objective.time_std is {self.time_std}; it must be positive")
        self._check_shift()
        if self.margin is not None and not 0 <= self.margin < 0.5:
            raise ValueError(f"objective.margin is {self.margin}; it must lie in [0, 0.5)")
        if not 0 <= self.difference_weight < float("inf"):
            raise ValueError(f"objective.difference_weight is {self.difference_weight}; needed: 0 or more, and finite")
        if self.difference_weight and (self.prediction != "data" or self.weighting != "none"):
            given = f"prediction {self.prediction!r} and objective.weighting {self.weighting!r}"
            raise ValueError(
                f"objective.difference_weight is {self.difference_weight} with objective.{given}; allowed with it: "
                "data, none"
            )
        self._check_weights()
        path = build_path(self.path)
        interval = path.training_interval(self.prediction, self.margin)  # refuses what the path has not
        if self.margin and interval == path.training_interval(self.prediction, 0.0):
            raise ValueError(
                f"objective.margin is {self.margin}, but a {self.prediction} on objective.path {path.name} has no "
                "singular end; allowed with it: null"
            )
        if path.steps is not None and self.weighting != "none":  # the others are made of derivatives
            raise ValueError(
                f"objective.weighting is {self.weighting!r}; allowed: none with objective.path {path.name}"
            )

    def _check_shift(self) -> None:
        if self.time_shift != "auto" and self.time_shift <= 0:
            raise ValueError(f"objective.time_shift is {self.time_shift}; it must be positive")
        told = f"objective.time is {self.time!r}"
        check_used(self, "objective", ("time_shift",), None if self.time == "shifted" else told)
        check_used(self, "objective", ("time_mean", "time_std"), None if self.time == "logit_normal" else told)

    def _check_weights(self) -> None:
        """Raises ValueError for a limit without a weighting, and a contrast that would leave no minimum."""
        limit, contrast = self.weight_limit, self.contrastive_weight
        if limit is not None and not 0 < limit < float("inf"):
            raise ValueError(f"objective.weight_limit is {limit}; needed: a number above 0, and finite, or null")
        if limit is not None and (self.weighting == "none" or self.prediction == "velocity"):
            raise ValueError(
                f"objective.weight_limit is {limit}, but errors of prediction {self.prediction!r} with "
                f"objective.weighting {self.weighting!r} have no weight; allowed there: null"
            )
        if not 0 <= contrast < 1:  # at 1 the squares of the prediction cancel
            raise ValueError(f"objective.contrastive_weight is {contrast}; it must lie in [0, 1)")
        if contrast and self.prediction != "velocity":
            raise ValueError(
                f"objective.contrastive_weight is {contrast} with objective.prediction {self.prediction!r}; allowed "
                "with it: velocity"
            )

    def build(self, backbone: Backbone) -> FlowMatching:
        """The objective over the latents of `backbone`."""
        return FlowMatching(self.settled(backbone.num_tokens * backbone.token_size), backbone.expand)

    def settled(self, numbers: int) -> ObjectiveConfig:
        """The config for latents of so many numbers: with the shift of times that `auto` stands for."""
        if self.time_shift != "auto":
            return self
        shift = math.sqrt(numbers / USUAL_NUMBERS)
        log.info("objective.time_shift is %.4g: latents of %d numbers", shift, numbers)
        return replace(self, time_shift=shift)


@dataclass(frozen=True)
class NextSamples:
    """What the sample behind each in the batch is made of: data and noise (B, ...), and the mask that goes with it."""

    data: Tensor
    noise: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class FlowMatchingResult:
    """One evaluation: loss (B,) per sample, the point x_t, its time t, the target and the network's prediction."""

    loss: Tensor
    x_t: Tensor
    t: Tensor
    target: Tensor
    prediction: Tensor


class FlowMatching:
    """The training objective of SiT (arXiv 2401.08740) and, with the other predictions, of diffusion models."""

    def __init__(self, config: ObjectiveConfig, expand: Callable[[Tensor, Tensor], Tensor] = broadcast_time):
        if config.time_shift == "auto":
            raise ValueError("objective.time_shift is 'auto': needs the latents' size, config.settled(numbers)")
        self.config, self.path = config, build_path(config.path)
        self.interpolant = Interpolant(self.path, expand)
        self.interval = self.path.training_interval(config.prediction, config.margin)

    def draw_time(self, random: Random, shape: tuple[int, ...]) -> Tensor:
        """Times of `shape`, (B,) or (B, N), valid for the path and the prediction."""
        config = self.config
        if config.time == "logit_normal":
            unit = torch.sigmoid(config.time_mean + config.time_std * random.normal("time", shape))
        else:
            unit = random.uniform("time", shape)
            if config.time == "shifted":
                unit = unit / (unit + config.time_shift * (1 - unit))
        return self.path.times(unit, config.prediction, config.margin)

    def __call__(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        data: Tensor,
        noise: Tensor,
        t: Tensor,
        mask: Tensor | None = None,
        following: NextSamples | None = None,
    ) -> FlowMatchingResult:
        """Evaluate `network(x_t, path.network_time(t))` against its target at t.

        data, noise (B, ...); t (B,) or (B, N); mask broadcasts over data, true where an element counts. The loss of a
        sample is the mean over its elements that count. following: what `contrastive_weight` compares with; None: it
        does not.
        """
        x_t = self.interpolant.point(data, noise, t)
        target = self.target(data, noise, t)
        prediction = network(x_t, self.path.network_time(t))
        if prediction.shape != target.shape:
            raise ValueError(f"network returned {tuple(prediction.shape)} for an input of {tuple(x_t.shape)}")
        sides = (prediction, target)
        if mask is not None:  # before the difference: a NaN that does not count must not reach the gradient either
            sides = tuple(torch.where(mask.bool(), side, 0) for side in sides)
        loss = sample_mean(self._error(*sides, t), mask)
        if self.config.difference_weight:
            loss = loss + self.config.difference_weight * difference_loss(*sides, mask)
        if self.config.contrastive_weight and following is not None:
            loss = loss - self.config.contrastive_weight * self._contrast(prediction, following, t, mask)
        return FlowMatchingResult(loss, x_t, t, target, prediction)

    def _contrast(self, prediction: Tensor, following: NextSamples, t: Tensor, mask: Tensor | None) -> Tensor:
        """Error (B,) against the next sample's target at this one's t, where both samples count; 0 if nowhere."""
        target, both = self.target(following.data, following.noise, t), None
        if mask is not None and following.mask is not None:
            both = mask.bool() & following.mask.bool()
            prediction, target = (torch.where(both, side, 0) for side in (prediction, target))
        loss = sample_mean(self._error(prediction, target, t), both)
        return loss if both is None else torch.where(both.flatten(1).any(1), loss, 0)

    def target(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should return at x_t."""
        match self.config.prediction:
            case "velocity":
                return self.interpolant.velocity(data, noise, t)
            case "noise":
                return noise
            case "data":
                return data
        return -noise / self.interpolant.over(t, data).sigma  # score

    def _error(self, prediction: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Weighted squared error, element by element, in float32 or better."""
        difference = prediction.float() - target.float() if prediction.dtype.itemsize < 4 else prediction - target
        kind = self.config.prediction
        if kind == "velocity":
            return difference**2  # the velocity loss is its own weighting (SiT, section 2.3)
        c = self.interpolant.over(t, target)
        if kind == "score":
            difference = difference * c.sigma  # the score is compared as noise: sigma s against -x0
        error = self._weighted(difference, c)
        if self.config.weight_limit is None:
            return error
        weight = self._weighted(torch.ones_like(c.sigma), c)
        return error * (self.config.weight_limit / weight).clamp(max=1)

    def _weighted(self, difference: Tensor, c: Coefficients) -> Tensor:
        """Squared and weighted differences of noise or data."""
        weighting = self.config.weighting
        if self.config.prediction == "data" and weighting != "none":
            difference = difference * c.alpha / c.sigma  # an error of data is this error of noise
        if weighting == "velocity":
            difference = difference * c.drift_variance / c.sigma
        weight = c.drift_variance / c.sigma**2 if weighting == "likelihood" else 1.0
        return weight * difference**2


def difference_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared error (B,) of the differences between neighbours along the last axis of (B, ..., T), T at least 2.

    A difference counts where both its sides do; a sample of which none does has the loss 0.
    """
    both = None if mask is None else (mask[..., 1:] & mask[..., :-1]).bool()
    error = (prediction.float() - target.float()).diff(dim=-1) ** 2
    loss = sample_mean(error, both)
    return loss if both is None else torch.where(both.flatten(1).any(1), loss, 0)


def sample_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of values (B, ...) over all axes but the first, counting where `mask` (broadcasting over values) is true.

    Values where the mask is false never enter, not even as NaN or infinity; a sample without any true element is NaN.
    """
    axes = tuple(range(1, values.ndim))
    if mask is None:
        return values.mean(axes) if axes else values
    mask = mask.bool().expand_as(values)
    return torch.where(mask, values, 0).sum(axes) / mask.sum(axes)

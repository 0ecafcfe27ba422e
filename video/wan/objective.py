"""Flow matching as Wan is trained: times shifted towards noise, within an expert's range, errors weighted by time.

Wan counts noise: sigma = 1 - t, with the shift s sigma / (1 + (s - 1) sigma); in our direction of time that is
t / (t + s (1 - t)). Letters: B batch, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.contracts import Backbone
from core.draws import Random
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.flow.path import Interpolant, Prediction
from core.flow.sampler import Sampler, SamplerConfig

LossWeight = Literal["none", "bell", "cosmap"]
LOSS_WEIGHTS: dict[LossWeight, Callable[[Tensor], Tensor]] = {
    "none": torch.ones_like,
    "bell": lambda t: torch.exp(-2 * (t - 0.5) ** 2) - math.exp(-0.5),
    "cosmap": lambda t: 2 / (math.pi * (1 - 2 * t + 2 * t**2)),
}
QUANTILES = 1000  # of the trained times, over which the mean of a weight is taken


@dataclass(frozen=True)
class WanObjectiveConfig(ObjectiveConfig):
    """Wan's objective: the linear path and its velocity, times shifted towards noise.

    loss_weight  of the error at t, with mean 1 over the times that are trained: none; bell, exp(-2 (t - 1/2)^2) -
                 exp(-1/2), which ends in 0 at noise and data; cosmap, 2 / (pi (1 - 2 t + 2 t^2)) (arXiv 2403.03206)
    """

    time: Literal["uniform", "logit_normal", "shifted"] = "shifted"
    time_shift: float = 3.0
    loss_weight: LossWeight = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, needed in (("path", "linear"), ("prediction", "velocity"), ("weighting", "none")):
            if getattr(self, name) != needed:
                raise ValueError(f"objective.{name} is {getattr(self, name)!r}; Wan is trained with {needed!r}")

    def build(self, backbone: Backbone) -> WanFlowMatching:
        """The objective within the times that the network is trained on."""
        return WanFlowMatching(self, backbone.expand, backbone.time_range)


class WanFlowMatching(FlowMatching):
    """Flow matching whose times come from `time_range` (low, high) alone, as the distribution has them there."""

    def __init__(
        self,
        config: WanObjectiveConfig,
        expand: Callable[[Tensor, Tensor], Tensor],
        time_range: tuple[float, float] = (0.0, 1.0),
    ):
        super().__init__(config, expand)
        self.time_range = time_range
        units = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
        self.mean_weight = float(LOSS_WEIGHTS[config.loss_weight](self._times(units)).mean())

    def draw_time(self, random: Random, shape: tuple[int, ...]) -> Tensor:
        """Times of `shape`, (B,) or (B, N); over the whole range as every objective draws them."""
        if self.time_range == (0.0, 1.0):
            return super().draw_time(random, shape)
        return self._times(random.uniform("time", shape))

    def weight(self, t: Tensor) -> Tensor:
        """The weight of the error at times t."""
        return LOSS_WEIGHTS[self.config.loss_weight](t) / self.mean_weight

    def _error(self, prediction: Tensor, target: Tensor, t: Tensor) -> Tensor:
        error = super()._error(prediction, target, t)
        if self.config.loss_weight == "none":
            return error
        return error * self.interpolant.expand(self.weight(t), error)

    def _times(self, units: Tensor) -> Tensor:
        """Uniform numbers in [0, 1] as times of the distribution within the range."""
        low, high = (self._distribution(torch.tensor(edge, dtype=torch.float64)).item() for edge in self.time_range)
        return self._quantile(low + (high - low) * units).clamp(*self.time_range)

    def _distribution(self, t: Tensor) -> Tensor:
        """The share of times below t."""
        config = self.config
        if config.time == "logit_normal":
            return torch.special.ndtr((torch.logit(t) - config.time_mean) / config.time_std)
        return shifted(t, 1 / config.time_shift) if config.time == "shifted" else t

    def _quantile(self, share: Tensor) -> Tensor:
        """The time below which a share of the times lies."""
        config = self.config
        if config.time == "logit_normal":
            return torch.sigmoid(config.time_mean + config.time_std * torch.special.ndtri(share))
        return shifted(share, config.time_shift) if config.time == "shifted" else share


def shifted(t: Tensor, shift: float) -> Tensor:
    """Times moved towards noise by `shift` above 1: t / (t + shift (1 - t))."""
    return t / (t + shift * (1 - t))


@dataclass(frozen=True)
class WanSamplerConfig(SamplerConfig):
    """The sampler of samples in training: equal steps of shifted time. shift: 5 for 720p, 3 for 480p, as published."""

    shift: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shift <= 0:
            raise ValueError(f"sampler.shift is {self.shift}; it must be positive")

    def build(self, interpolant: Interpolant, prediction: Prediction) -> WanSampler:
        """The sampler on a path."""
        return WanSampler(self, interpolant, prediction)


class WanSampler(Sampler):
    """A sampler whose steps are equal in shifted time: more of them near noise."""

    def times(self, count: int, x: Tensor) -> Tensor:
        """The times (count,), like x."""
        return shifted(super().times(count, x), self.config.shift)

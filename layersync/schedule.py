"""The weight of an alignment over optimizer steps, and over flow time t: t = 0 is noise, t = 1 is data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TimeWeight = Literal["uniform", "towards_data", "towards_noise", "middle"]


def towards_data(t: Tensor) -> Tensor:
    return 2 * t


def towards_noise(t: Tensor) -> Tensor:
    return 2 * (1 - t)


def middle(t: Tensor) -> Tensor:
    return 6 * t * (1 - t)


TIME_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.ones_like,
    "towards_data": towards_data,
    "towards_noise": towards_noise,
    "middle": middle,
}  # each integrates to 1 over [0, 1], so that `weight` keeps its meaning; named, so that a LayerSync can be pickled


@dataclass(frozen=True)
class TimeRange:
    """The weight `inside` at times low <= t <= high, and 0 at all others; what is inside is not raised for it."""

    low: float
    high: float
    inside: Callable[[Tensor], Tensor] = torch.ones_like

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"time_range is {[self.low, self.high]}; needed: 0 <= low < high <= 1")

    def __call__(self, t: Tensor) -> Tensor:
        """The weights of times t, of t's shape."""
        return torch.where((t >= self.low) & (t <= self.high), self.inside(t), 0)


@dataclass(frozen=True)
class WeightSchedule:
    """The weight as a function of the optimizer step, as a factor in [0, 1].

    constant    1 throughout
    warmup      rises linearly over `warmup_steps`, then 1
    cosine      the same rise, then a half cosine that reaches 0 at `end_step`
    stop        the same rise, then 1, and 0 from `end_step` on
    """

    kind: Literal["constant", "warmup", "cosine", "stop"] = "constant"
    warmup_steps: int = 0
    end_step: int | None = None

    def __post_init__(self) -> None:
        key, kinds = "schedule", ("constant", "warmup", "cosine", "stop")
        if self.kind not in kinds:
            raise ValueError(f"{key}.kind is {self.kind!r}; allowed: {', '.join(kinds)}")
        for name, steps in (("warmup_steps", self.warmup_steps), ("end_step", self.end_step)):
            if type(steps) is not int and not (name == "end_step" and steps is None):
                raise ValueError(f"{key}.{name} is {steps!r} of type {type(steps).__name__}; needed: a number of steps")
        if self.warmup_steps < 0:
            raise ValueError(f"{key}.warmup_steps is {self.warmup_steps}; it must not be negative")
        if self.kind == "warmup" and self.warmup_steps == 0:
            raise ValueError(f"{key}.kind is 'warmup' but {key}.warmup_steps is 0")
        if self.kind == "constant" and self.warmup_steps:
            raise ValueError(f"{key}.warmup_steps is {self.warmup_steps} but {key}.kind is 'constant'")
        if self.kind in ("cosine", "stop") and (self.end_step is None or self.end_step <= self.warmup_steps):
            raise ValueError(f"{key}.end_step is {self.end_step}; '{self.kind}' needs one after {key}.warmup_steps")
        if self.kind in ("constant", "warmup") and self.end_step is not None:
            raise ValueError(f"{key}.end_step is {self.end_step} but {key}.kind '{self.kind}' has no end")

    def factor(self, step: int) -> float:
        """The factor of the optimizer step `step`, which counts from 0."""
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.end_step is None:
            return rise
        if step >= self.end_step:
            return 0.0
        if self.kind == "stop" or step < self.warmup_steps:
            return rise
        progress = (step - self.warmup_steps) / (self.end_step - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * progress))

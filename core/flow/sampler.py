"""From noise to data: which solver, over which times, under which guidance.

Noise comes from (seed, sample index), so a sample does not depend on the batch it was made in. B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.draws import Random
from core.flow.path import DiffusionForm, Interpolant, Prediction, check_choice
from core.flow.solvers import (
    SDE,
    Callback,
    LastStep,
    Velocity,
    choose_rows,
    dopri5,
    euler_maruyama,
    heun_maruyama,
    runge_kutta,
)

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
Solver = Literal["euler", "midpoint", "heun", "heun3", "rk4", "dopri5", "euler_maruyama", "heun_maruyama"]

SDE_SOLVERS = ("euler_maruyama", "heun_maruyama")


@dataclass(frozen=True)
class SamplerConfig:
    """How samples are made; all of it belongs in a reported number's protocol.

    num_steps   steps of the solver; an SDE's last step is one of them. The published SiT numbers name grid points:
                250 of them are 249 steps of an ODE, and 249 steps plus the last one of an SDE.
    margin      distance kept from a singular end of the time axis; null takes the path's own
    guidance    classifier-free guidance u + scale (c - u); 1 is off. Applied for t in guidance_interval, to the first
                guidance_channels channels (null: all; published SiT numbers guide 3 of 4)
    """

    solver: Solver = "heun"
    num_steps: int = 50
    atol: float = 1e-6
    rtol: float = 1e-3
    margin: float | None = None
    diffusion_form: DiffusionForm = "sigma"
    diffusion_norm: float = 1.0
    last_step: LastStep = "mean"
    last_step_size: float = 0.04
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_channels: int | None = None

    def __post_init__(self) -> None:
        check_choice("sampler.solver", self.solver, Solver)
        check_choice("sampler.diffusion_form", self.diffusion_form, DiffusionForm)
        check_choice("sampler.last_step", self.last_step, LastStep)
        if self.num_steps < 1 + (self.solver in SDE_SOLVERS and self.last_step != "none"):
            raise ValueError(f"sampler.num_steps is {self.num_steps}; it must be at least 1, 2 for an SDE's last step")
        if self.atol <= 0 or self.rtol <= 0:
            raise ValueError(f"sampler.atol and rtol are {self.atol} and {self.rtol}; both must be positive")
        if self.margin is not None and not 0 <= self.margin < 0.5:
            raise ValueError(f"sampler.margin is {self.margin}; it must lie in [0, 0.5)")
        if self.diffusion_norm < 0:
            raise ValueError(f"sampler.diffusion_norm is {self.diffusion_norm}; it must not be negative")
        if not 0 < self.last_step_size < 1:
            raise ValueError(f"sampler.last_step_size is {self.last_step_size}; it must lie in (0, 1)")
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1:
            raise ValueError(f"sampler.guidance_interval is [{low}, {high}]; needed 0 <= low < high <= 1")
        if self.guidance_scale < 0:
            raise ValueError(f"sampler.guidance_scale is {self.guidance_scale}; it must not be negative")
        if self.guidance_channels is not None and self.guidance_channels < 1:
            raise ValueError(f"sampler.guidance_channels is {self.guidance_channels}; it must be at least 1 or null")


def guide(
    network: Network,
    condition: Tensor,
    null: Tensor,
    scale: float,
    *,
    interval: tuple[float, float] = (0.0, 1.0),
    channels: int | None = None,
) -> Velocity:
    """Classifier-free guidance (arXiv 2207.12598): (x, t) -> u + scale (c - u), for t inside `interval`.

    condition, null (B, ...); `channels`: guide only the first ones of x (B, C, ...), the others stay conditional. Works
    on any prediction, since the conversions between them are affine. Scale 1, and every time outside the interval, cost
    a single evaluation.
    """
    low, high = interval
    always = low <= 0 and high >= 1  # spares a device synchronisation at every evaluation

    def guided(x: Tensor, t: Tensor) -> Tensor:
        inside = (t >= low) & (t <= high)
        if scale == 1 or not (always or bool(inside.any())):
            return network(x, t, condition)
        both = network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([condition, null]))
        conditional, unconditional = both.chunk(2)
        mixed = unconditional + scale * (conditional - unconditional)
        if channels is not None:
            mixed = torch.cat([mixed[:, :channels], conditional[:, channels:]], dim=1)
        return mixed if always or bool(inside.all()) else choose_rows(inside, mixed, conditional)

    return guided


class Sampler:
    """A `SamplerConfig` bound to a path and a prediction: noise and conditions in, latents out."""

    def __init__(self, config: SamplerConfig, interpolant: Interpolant, prediction: Prediction):
        self.config, self.interpolant, self.prediction = config, interpolant, prediction
        self.sde = SDE(interpolant, config.diffusion_form, config.diffusion_norm)
        form = config.diffusion_form if config.solver in SDE_SOLVERS else None
        last = config.last_step_size if config.last_step != "none" else 0.0
        margin = config.margin
        if margin is None:  # without a last step, Heun's second slope takes the score at the end of the interval
            needed = "score" if config.solver == "heun_maruyama" and not last else prediction
            margin = interpolant.default_margin(needed, training=False, form=form)
        self.interval = interpolant.time_interval(prediction, margin, form=form, last_step_size=last)
        if self.interval[0] >= self.interval[1]:
            raise ValueError(f"sampler.margin {margin} and sampler.last_step_size {last} leave no time between them")

    @torch.no_grad()
    def __call__(
        self,
        network: Network,
        shape: tuple[int, ...],
        condition: Tensor,
        null: Tensor,
        random: Random,
        callback: Callback | None = None,
    ) -> Tensor:
        """Latents of `shape` (B, ...) under `condition`; noise from the streams "start" and "sde" of `random`."""
        config, (t0, t1) = self.config, self.interval
        x = random.normal("start", shape)
        options = {"interval": config.guidance_interval, "channels": self._guided_channels(shape)}
        guided = guide(network, condition, null, config.guidance_scale, **options)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return self.interpolant.to_velocity(guided(x, t), x, t, self.prediction)

        if config.solver == "dopri5":
            return dopri5(velocity, x, self.interval, atol=config.atol, rtol=config.rtol)
        last = config.solver in SDE_SOLVERS and config.last_step != "none"
        times = torch.linspace(t0, t1, config.num_steps + 1 - last, device=x.device, dtype=x.dtype)
        if config.solver not in SDE_SOLVERS:
            return runge_kutta(velocity, x, times, config.solver, callback)
        solve = euler_maruyama if config.solver == "euler_maruyama" else heun_maruyama
        x = solve(velocity, x, times, self.sde, lambda: random.normal("sde", shape), callback)
        return self.sde.last_step(config.last_step, velocity, x, times[-1].expand(len(x)), config.last_step_size)

    def _guided_channels(self, shape: tuple[int, ...]) -> int | None:
        channels = self.config.guidance_channels
        if channels is not None and channels > shape[1]:
            raise ValueError(f"sampler.guidance_channels is {channels}, the latents have {shape[1]} channels")
        return channels

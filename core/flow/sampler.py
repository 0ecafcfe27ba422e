"""From noise to data: which solver, over which times, under which guidance.

Noise comes from (seed, sample index), so a sample does not depend on the batch it was made in. B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from core.contracts import AnyRows, concatenate
from core.draws import Random
from core.flow.options import check_choice
from core.flow.path import DiffusionForm, Interpolant, Path, Prediction, check_prediction
from core.flow.solvers import (
    SDE,
    AncestralConfig,
    Callback,
    LastStep,
    Velocity,
    ancestral,
    choose_rows,
    dopri5,
    euler_maruyama,
    heun_maruyama,
    runge_kutta,
    transitions,
)

# x, t and the rows that were asked for -> a prediction, or that and a second one for internal guidance
Network = Callable[[Tensor, Tensor, Any], Tensor | tuple[Tensor, Tensor]]
Solver = Literal["euler", "midpoint", "heun", "heun3", "rk4", "dopri5", "euler_maruyama", "heun_maruyama"]

SDE_SOLVERS = ("euler_maruyama", "heun_maruyama")


@dataclass(frozen=True)
class SamplerConfig:
    """How samples are made; all of it belongs in a reported number's protocol.

    solver      of the ODE or SDE of a continuous path; {name: ancestral, eta: ...} for the noise levels of a diffusion
    num_steps   steps of the solver; an SDE's last step is one of them. The published SiT numbers name grid points:
                250 of them are 249 steps of an ODE, and 249 steps plus the last one of an SDE.
    margin      distance kept from a singular end of the time axis; null takes the path's own
    guidance    classifier-free guidance u + scale (c - u); 1 is off. Applied for t in guidance_interval, to the first
                guidance_channels channels (null: all; published SiT numbers guide 3 of 4)
    internal    early + scale (last - early) of the two predictions of a pass (`alignment=internal_guidance`), for t in
                internal_interval; 1 is off, the paper's is 1.4. Guidance is applied to what comes of it
    """

    solver: Solver | AncestralConfig = "heun"
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
    internal_scale: float = 1.0
    internal_interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not isinstance(self.solver, AncestralConfig):
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
        for kind in ("guidance", "internal"):
            _check_guidance(kind, getattr(self, f"{kind}_scale"), getattr(self, f"{kind}_interval"))
        if self.guidance_channels is not None and self.guidance_channels < 1:
            raise ValueError(f"sampler.guidance_channels is {self.guidance_channels}; it must be at least 1 or null")

    def build(self, interpolant: Interpolant, prediction: Prediction) -> Sampler:
        """The sampler on a path, of a network with that prediction."""
        return Sampler(self, interpolant, prediction)


def _check_guidance(kind: str, scale: float, interval: tuple[float, float]) -> None:
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ValueError(f"sampler.{kind}_interval is [{low}, {high}]; needed 0 <= low < high <= 1")
    if not 0 <= scale < float("inf"):
        raise ValueError(f"sampler.{kind}_scale is {scale}; it must not be negative, and finite")


def check_solver(config: SamplerConfig, path: Path) -> None:
    """Raises ValueError for a solver that cannot go along the path, or for more steps than the path has levels."""
    if isinstance(config.solver, AncestralConfig):
        if path.steps is None:
            raise ValueError(
                f"sampler.solver is 'ancestral'; allowed: {', '.join(get_args(Solver))} with objective.path {path.name}"
            )
        path.respaced(config.num_steps)
    elif path.steps is not None:
        raise ValueError(
            f"sampler.solver is {config.solver!r}; allowed: {{name: ancestral, ...}} with objective.path {path.name}"
        )


def guide(
    network: Network,
    condition: AnyRows,
    null: AnyRows,
    scale: float,
    *,
    interval: tuple[float, float] = (0.0, 1.0),
    channels: int | None = None,
) -> Velocity:
    """Classifier-free guidance (arXiv 2207.12598): (x, t) -> u + scale (c - u), for t inside `interval`.

    condition, null: tensors (B, ...) or `core.contracts.Rows`. channels: guide only the first ones of x (B, C, ...);
    the others stay conditional. Works on any prediction, since the conversions between them are affine. Scale 1, and
    every time outside the interval, cost a single evaluation.
    """
    low, high = interval
    always = low <= 0 and high >= 1  # spares a device synchronisation at every evaluation

    def guided(x: Tensor, t: Tensor) -> Tensor:
        inside = (t >= low) & (t <= high)
        if scale == 1 or not (always or bool(inside.any())):
            return network(x, t, condition)
        both = network(torch.cat([x, x]), torch.cat([t, t]), concatenate(condition, null))
        conditional, unconditional = both.chunk(2)
        mixed = unconditional + scale * (conditional - unconditional)
        if channels is not None:
            mixed = torch.cat([mixed[:, :channels], conditional[:, channels:]], dim=1)
        return mixed if always or bool(inside.all()) else choose_rows(inside, mixed, conditional)

    return guided


def guide_internally(last: Tensor, early: Tensor, t: Tensor, scale: float, interval: tuple[float, float]) -> Tensor:
    """Internal guidance (arXiv 2512.24176): early + scale (last - early) for t (B,) inside `interval`, else last."""
    low, high = interval
    return choose_rows((t >= low) & (t <= high), early + scale * (last - early), last)


class Sampler:
    """A `SamplerConfig` bound to a path and a prediction: noise and conditions in, latents out.

    `interval` is what a solver of a continuous path goes through, within the singular ends.
    """

    def __init__(self, config: SamplerConfig, interpolant: Interpolant, prediction: Prediction):
        check_prediction(interpolant.path, prediction)
        check_solver(config, interpolant.path)
        self.config, self.interpolant, self.prediction = config, interpolant, prediction
        if interpolant.path.steps is None:
            self.sde = SDE(interpolant, config.diffusion_form, config.diffusion_norm)
            self.interval = self._interval()

    def check(self, latent_shape: Sequence[int]) -> None:
        """Raise ValueError for what latents (C, ...) cannot be sampled with."""
        channels = self.config.guidance_channels
        if channels is not None and channels > latent_shape[0]:
            raise ValueError(f"sampler.guidance_channels is {channels}, the latents have {latent_shape[0]} channels")

    def _interval(self) -> tuple[float, float]:
        config, path = self.config, self.interpolant.path
        form = config.diffusion_form if config.solver in SDE_SOLVERS else None
        last = config.last_step_size if config.last_step != "none" else 0.0
        margin = config.margin
        if margin is None:  # without a last step, Heun's second slope takes the score at the end of the interval
            needed = "score" if config.solver == "heun_maruyama" and not last else self.prediction
            margin = path.default_margin(needed, training=False, form=form)
        interval = path.time_interval(self.prediction, margin, form=form, last_step_size=last)
        if interval[0] >= interval[1]:
            raise ValueError(f"sampler.margin {margin} and sampler.last_step_size {last} leave no time between them")
        return interval

    @torch.no_grad()
    def __call__(
        self,
        network: Network,
        shape: tuple[int, ...],
        condition: AnyRows,
        null: AnyRows,
        random: Random,
        callback: Callback | None = None,
    ) -> Tensor:
        """Latents of `shape` (B, ...) under `condition`; noise from the streams "start" and "sde" of `random`."""
        config, path = self.config, self.interpolant.path
        x = random.normal("start", shape)
        self.check(shape[1:])
        options = {"interval": config.guidance_interval, "channels": config.guidance_channels}

        def timed(x: Tensor, t: Tensor, condition: AnyRows) -> Tensor:
            found = network(x, path.network_time(t), condition)
            if config.internal_scale == 1:
                return found
            return guide_internally(*found, t, config.internal_scale, config.internal_interval)

        guided = guide(timed, condition, null, config.guidance_scale, **options)

        def draw() -> Tensor:
            return random.normal("sde", shape)

        if path.steps is None:
            return self._solve(guided, x, draw, callback)

        def data(x: Tensor, t: Tensor) -> Tensor:
            return self.interpolant.estimates(guided(x, t), x, t, self.prediction).data

        steps = transitions(path, path.respaced(config.num_steps), config.solver)
        return ancestral(data, x, steps, draw, clip=config.solver.clip, callback=callback)

    def _solve(self, guided: Velocity, x: Tensor, draw: Callable[[], Tensor], callback: Callback | None) -> Tensor:
        """The ODE or SDE of a continuous path, from noise x (B, ...)."""
        config = self.config

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return self.interpolant.to_velocity(guided(x, t), x, t, self.prediction)

        if config.solver == "dopri5":
            return dopri5(velocity, x, self.interval, atol=config.atol, rtol=config.rtol)
        last = config.solver in SDE_SOLVERS and config.last_step != "none"
        times = self.times(config.num_steps + 1 - last, x)
        if config.solver not in SDE_SOLVERS:
            return runge_kutta(velocity, x, times, config.solver, callback)
        solve = euler_maruyama if config.solver == "euler_maruyama" else heun_maruyama
        x = solve(velocity, x, times, self.sde, draw, callback)
        return self.sde.last_step(config.last_step, velocity, x, times[-1].expand(len(x)), config.last_step_size)

    def times(self, count: int, x: Tensor) -> Tensor:
        """The times (count,) that a solver with fixed steps goes through, like x: equally far from each other."""
        return torch.linspace(*self.interval, count, device=x.device, dtype=x.dtype)

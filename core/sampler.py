"""From noise to data: fixed-step and adaptive ODE solvers, SDE solvers, guidance.

A solver is a pure function of a velocity callable `v(x, t)` with x (B, ...) and t (B,), a start and a time grid. Every
row of a batch is integrated as if it were alone: noise comes from (seed, sample index) and the adaptive solver chooses
its steps row by row, so a sample does not depend on the batch it was made in.

Letters: B batch, C channels, K stages of a Runge-Kutta rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from core.draws import Random
from core.interpolant import DiffusionForm, Interpolant, Prediction, broadcast_time, check_choice

Velocity = Callable[[Tensor, Tensor], Tensor]
Network = Callable[[Tensor, Tensor, Tensor], Tensor]
Callback = Callable[[int, Tensor], None]
Solver = Literal["euler", "midpoint", "heun", "heun3", "rk4", "dopri5", "euler_maruyama", "heun_maruyama"]
LastStep = Literal["mean", "euler", "tweedie", "none"]

SDE_SOLVERS = ("euler_maruyama", "heun_maruyama")


@dataclass(frozen=True)
class Tableau:
    """Butcher tableau of an explicit Runge-Kutta rule: nodes c (K), rows a (K, <K), weights b (K)."""

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


TABLEAUX = {
    "euler": Tableau((0,), ((),), (1,)),
    "midpoint": Tableau((0, 1 / 2), ((), (1 / 2,)), (0, 1)),
    "heun": Tableau((0, 1), ((), (1,)), (1 / 2, 1 / 2)),
    "heun3": Tableau((0, 1 / 3, 2 / 3), ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)),
    "rk4": Tableau(  # Kutta's 3/8 rule
        (0, 1 / 3, 2 / 3, 1), ((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)
    ),
}
DORMAND_PRINCE = Tableau(
    (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
)
DORMAND_PRINCE_ERROR = (
    35 / 384 - 1951 / 21600,
    0,
    500 / 1113 - 22642 / 50085,
    125 / 192 - 451 / 720,
    -2187 / 6784 + 12231 / 42400,
    11 / 84 - 649 / 6300,
    -1 / 60,
)


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


def runge_kutta(velocity: Velocity, x: Tensor, times: Tensor, rule: str, callback: Callback | None = None) -> Tensor:
    """Integrate x (B, ...) along `times` (K+1,) with the explicit rule of that name; returns the state at the end."""
    tableau = TABLEAUX[rule]
    for step, (t, t_next) in enumerate(pairwise(times)):
        stages: list[Tensor] = []
        for node, row in zip(tableau.nodes, tableau.rows, strict=True):
            point = x + (t_next - t) * _combine(row, stages) if stages else x
            stages.append(velocity(point, (t + node * (t_next - t)).expand(len(x))))
        x = x + (t_next - t) * _combine(tableau.weights, stages)
        if callback is not None:
            callback(step + 1, x)
    return x


def _combine(weights: tuple[float, ...], stages: list[Tensor]) -> Tensor:
    return sum(weight * stage for weight, stage in zip(weights, stages, strict=True) if weight)


def dopri5(
    velocity: Velocity,
    x: Tensor,
    interval: tuple[float, float],
    *,
    atol: float = 1e-6,
    rtol: float = 1e-3,
    max_steps: int = 2000,
) -> Tensor:
    """Dormand-Prince 5(4) with step control for each row of x (B, ...) by itself.

    Error norm, initial step and controller (safety 0.9, factor within 0.2 and 10) follow Hairer, Norsett and Wanner,
    Solving Ordinary Differential Equations I, sections II.4 and II.5. Rows that have arrived wait, their state frozen.
    Raises ArithmeticError when a row needs more than `max_steps` steps, or no step is small enough.
    """
    start, end = interval
    t = torch.full((len(x),), start, device=x.device, dtype=torch.float64)
    first = velocity(x, t.to(x.dtype))
    size = _first_step(velocity, x, t, first, atol, rtol).clamp(max=end - start)
    for _ in range(max_steps):
        active = t < end
        if not bool(active.any()):
            return x
        size = torch.where(active, torch.minimum(size, end - t), torch.zeros_like(size))
        new, last, error = _dopri5_step(velocity, x, t, size, first)
        ratio = _error_norm(error, atol + rtol * torch.maximum(x.abs(), new.abs())).nan_to_num(nan=math.inf)
        accept = active & (ratio <= 1)
        x, first = _rows(accept, new, x), _rows(accept, last, first)
        arrived = size >= end - t  # set t to the end itself: adding the step may round to just before it
        t = torch.where(accept, torch.where(arrived, torch.full_like(t, end), t + size), t)
        lowest = torch.where(ratio <= 1, torch.ones_like(ratio), torch.full_like(ratio, 0.2))
        factor = (0.9 * ratio.clamp(min=1e-10) ** -0.2).clamp(max=10).maximum(lowest)
        size = torch.where(active, size * factor, size)
        if bool((active & ~accept & ~(size > 1e-12 * (end - start))).any()):
            raise ArithmeticError("dopri5 finds no step that is small enough; is the network's output finite?")
    raise ArithmeticError(f"dopri5 did not arrive within {max_steps} steps; sampler.atol or rtol may be too small")


def _dopri5_step(
    velocity: Velocity, x: Tensor, t: Tensor, size: Tensor, first: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One trial step: the new state, the velocity there, and the local error, each (B, ...)."""
    h = broadcast_time(size.to(x.dtype), x)
    stages, point = [first], x
    for node, row in zip(DORMAND_PRINCE.nodes[1:], DORMAND_PRINCE.rows[1:], strict=True):
        point = x + h * _combine(row, stages)
        stages.append(velocity(point, (t + node * size).to(x.dtype)))
    return point, stages[-1], h * _combine(DORMAND_PRINCE_ERROR, stages)


def _first_step(velocity: Velocity, x: Tensor, t: Tensor, first: Tensor, atol: float, rtol: float) -> Tensor:
    """A first step size (B,) from the sizes of the solution and of its first two derivatives."""
    scale = atol + rtol * x.abs()
    d0, d1 = _error_norm(x, scale), _error_norm(first, scale)
    small = (d0 < 1e-5) | (d1 < 1e-5)
    h0 = torch.where(small, torch.full_like(d0, 1e-6), 0.01 * d0 / d1.clamp(min=1e-30))
    ahead = velocity(x + broadcast_time(h0.to(x.dtype), x) * first, (t + h0).to(x.dtype))
    d2 = _error_norm(ahead - first, scale) / h0
    steepest = torch.maximum(d1, d2)
    h1 = torch.where(steepest <= 1e-15, (1e-3 * h0).clamp(min=1e-6), (0.01 / steepest.clamp(min=1e-30)) ** 0.2)
    return torch.minimum(100 * h0, h1)


def _error_norm(error: Tensor, scale: Tensor) -> Tensor:
    """Root mean square of error / scale for each row, (B,) float64."""
    return (error / scale).double().flatten(1).pow(2).mean(1).sqrt()


def _rows(choose: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(broadcast_time(choose, a), a, b)


@dataclass(frozen=True)
class SDE:
    """dx = (v + w score) dt + sqrt(2 w) dW on one path (SiT, arXiv 2401.08740, equation 5)."""

    interpolant: Interpolant
    form: DiffusionForm = "sigma"
    norm: float = 1.0

    def drift(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """v + w score for a velocity (B, ...) at (x, t)."""
        score = self.interpolant.estimates(velocity, x, t, "velocity").score
        return velocity + self.interpolant.expand(self.diffusion(t), x) * score

    def diffusion(self, t: Tensor) -> Tensor:
        """w(t), of t's shape."""
        return self.interpolant.diffusion(t, self.form, self.norm)

    def last_step(self, kind: LastStep, velocity: Velocity, x: Tensor, t: Tensor, size: float) -> Tensor:
        """Bring x (B, ...) from t = 1 - size to the data: mean, an Euler step of the drift; euler, one of the velocity;
        tweedie, the posterior mean (x + sigma^2 score) / alpha; none, x as it is."""
        if kind == "none":
            return x
        v = velocity(x, t)
        if kind == "tweedie":
            return self.interpolant.estimates(v, x, t, "velocity").data
        return x + size * (self.drift(v, x, t) if kind == "mean" else v)


def euler_maruyama(
    velocity: Velocity, x: Tensor, times: Tensor, sde: SDE, draw: Callable[[], Tensor], callback: Callback | None = None
) -> Tensor:
    """Integrate the SDE along `times` (K+1,): K steps, each with the noise that `draw()` returns, of x's shape."""
    for step, (t, t_next) in enumerate(pairwise(times)):
        dt, rows = t_next - t, t.expand(len(x))
        spread = sde.interpolant.expand(torch.sqrt(2 * sde.diffusion(rows) * dt), x)
        x = x + sde.drift(velocity(x, rows), x, rows) * dt + spread * draw()
        if callback is not None:
            callback(step + 1, x)
    return x


def heun_maruyama(
    velocity: Velocity, x: Tensor, times: Tensor, sde: SDE, draw: Callable[[], Tensor], callback: Callback | None = None
) -> Tensor:
    """Like `euler_maruyama`, but the noise is added first and the drift integrated with Heun's rule from there."""
    for step, (t, t_next) in enumerate(pairwise(times)):
        dt, rows, rows_next = t_next - t, t.expand(len(x)), t_next.expand(len(x))
        x = x + sde.interpolant.expand(torch.sqrt(2 * sde.diffusion(rows) * dt), x) * draw()
        slope = sde.drift(velocity(x, rows), x, rows)
        ahead = x + slope * dt
        x = x + 0.5 * dt * (slope + sde.drift(velocity(ahead, rows_next), ahead, rows_next))
        if callback is not None:
            callback(step + 1, x)
    return x


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
        return mixed if always or bool(inside.all()) else _rows(inside, mixed, conditional)

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

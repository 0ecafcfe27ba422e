"""Solvers as pure functions of a velocity callable: Runge-Kutta rules, Dormand-Prince with step control, SDE steps.

A velocity is `v(x, t)` with x (B, ...) and t (B,). Every row of a batch is integrated as if it were alone: the adaptive
solver chooses its steps row by row, so a sample does not depend on the batch it was made in. The levels of a diffusion
have no velocity: they are gone down one by one, from an estimate of the data to the next level (`ancestral`).

Letters: B batch, K stages of a Runge-Kutta rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from core.flow.options import check_choice
from core.flow.path import DiffusionForm, Interpolant, Path, broadcast_time

Velocity = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[int, Tensor], None]
LastStep = Literal["mean", "euler", "tweedie", "none"]
Variance = Literal["small", "large"]


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
        x, first = choose_rows(accept, new, x), choose_rows(accept, last, first)
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


def choose_rows(choose: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Rows of a (B, ...) where `choose` (B,) is true, of b elsewhere."""
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


@dataclass(frozen=True)
class AncestralConfig:
    """sampler.solver as a mapping: how the levels of a diffusion are gone down.

    eta       1: DDPM (arXiv 2006.11239), every step draws the noise of the posterior; 0: DDIM (arXiv 2010.02502), no
              step draws any; between them: equation 16 of the latter
    variance  of a step with eta 1: small, the posterior's for known data; large, beta (DDPM, section 3.2)
    clip      estimates of the data are clipped to [-1, 1]
    """

    name: Literal["ancestral"]
    eta: float = 1.0
    variance: Variance = "small"
    clip: bool = False

    def __post_init__(self) -> None:
        check_choice("sampler.solver.variance", self.variance, Variance)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"sampler.solver.eta is {self.eta}; it must lie in [0, 1]")
        if self.variance == "large" and self.eta != 1:
            raise ValueError("sampler.solver.variance is 'large'; allowed: small where sampler.solver.eta is not 1")


@dataclass(frozen=True)
class Transition:
    """From the level at time t to the next: `of_data` times the estimate of the data, `of_x` x_t, `spread` noise."""

    t: float
    of_data: float
    of_x: float
    spread: float


def transitions(path: Path, times: Tensor, config: AncestralConfig) -> list[Transition]:
    """The steps along the levels at `times` (K,), the noisiest first, and to the data; the last one adds no noise.

    A step over several levels is one of the diffusion that has only the levels at `times`. Computed in float64.
    """
    if path.steps is None:
        raise ValueError(f"objective.path is {path.name!r}; allowed: a path with noise levels for an ancestral solver")
    kept = path.coefficients(times.double()).alpha ** 2  # of the variance of the data
    after = torch.cat([kept[1:], kept.new_ones(1)])
    beta = 1 - kept / after
    variance = config.eta**2 * beta * (1 - after) / (1 - kept)
    of_x = ((1 - after - variance) / (1 - kept)).sqrt()
    of_data = after.sqrt() - of_x * kept.sqrt()
    if config.variance == "large":
        variance = torch.cat([beta[:-1], beta.new_zeros(1)])
    table = torch.stack([times.double(), of_data, of_x, variance.sqrt()], dim=1)
    return [Transition(*row) for row in table.tolist()]


def ancestral(
    data: Velocity,
    x: Tensor,
    steps: Sequence[Transition],
    draw: Callable[[], Tensor],
    *,
    clip: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """Go down the levels of a diffusion from x (B, ...) to the data; `data(x, t)` estimates the data (B, ...).

    Each step with a spread takes the noise that `draw()` returns, of x's shape.
    """
    for number, step in enumerate(steps):
        estimate = data(x, torch.full((len(x),), step.t, device=x.device, dtype=x.dtype))
        if clip:
            estimate = estimate.clamp(-1, 1)
        x = step.of_data * estimate + step.of_x * x
        if step.spread:
            x = x + step.spread * draw()
        if callback is not None:
            callback(number + 1, x)
    return x

"""The path from noise to data, and what one network output says about all other quantities on it.

THE time convention of this repository: t = 0 is pure noise, t = 1 is data.

    x_t = alpha(t) x1 + sigma(t) x0        x1 data, x0 standard normal noise
    v_t = alpha'(t) x1 + sigma'(t) x0      the velocity (SiT, arXiv 2401.08740, equations 2 and 4)

Paths: linear (alpha = t, sigma = 1 - t), GVP (sine and cosine of pi t / 2), VP (variance preserving diffusion with beta
from 0.1 to 20). Velocity, noise, score and data predictions are linear functions of each other given x_t and t.

Letters: B batch, N tokens. A time is (B,) or, per token, (B, N); every coefficient has the shape of t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

PathName = Literal["linear", "gvp", "vp"]
Prediction = Literal["velocity", "noise", "score", "data"]
DiffusionForm = Literal["constant", "sbdm", "sigma", "linear", "decreasing", "increasing-decreasing"]

VP_BETA_MIN, VP_BETA_MAX = 0.1, 20.0


@dataclass(frozen=True)
class Coefficients:
    """alpha, sigma and their time derivatives at t, and d(log alpha)/dt in a form exact where alpha is small."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor
    d_log_alpha: Tensor

    @property
    def drift_variance(self) -> Tensor:
        """sigma^2 alpha'/alpha - sigma sigma': the velocity is (alpha'/alpha) x_t + drift_variance * score."""
        return self.sigma**2 * self.d_log_alpha - self.sigma * self.d_sigma

    def map(self, function: Callable[[Tensor], Tensor]) -> Coefficients:
        """The same coefficients re-laid by `function`, for example so that they broadcast over x."""
        return Coefficients(*(function(getattr(self, name)) for name in self.__dataclass_fields__))


def linear(t: Tensor) -> Coefficients:
    """alpha = t, sigma = 1 - t."""
    one = torch.ones_like(t)
    return Coefficients(t, 1 - t, one, -one, 1 / t)


def gvp(t: Tensor) -> Coefficients:
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2)."""
    half_pi = math.pi / 2
    sine, cosine = torch.sin(half_pi * t), torch.cos(half_pi * t)
    return Coefficients(sine, cosine, half_pi * cosine, -half_pi * sine, half_pi / torch.tan(half_pi * t))


def vp(t: Tensor) -> Coefficients:
    """log alpha = -(1 - t)^2 (beta_max - beta_min) / 4 - (1 - t) beta_min / 2, sigma^2 = 1 - alpha^2."""
    span = VP_BETA_MAX - VP_BETA_MIN
    log_alpha = -0.25 * (1 - t) ** 2 * span - 0.5 * (1 - t) * VP_BETA_MIN
    d_log_alpha = 0.5 * (1 - t) * span + 0.5 * VP_BETA_MIN
    alpha = torch.exp(log_alpha)
    sigma = torch.sqrt(-torch.expm1(2 * log_alpha))
    d_alpha = alpha * d_log_alpha
    return Coefficients(alpha, sigma, d_alpha, -alpha * d_alpha / sigma, d_log_alpha)


PATHS: dict[str, Callable[[Tensor], Coefficients]] = {"linear": linear, "gvp": gvp, "vp": vp}


def broadcast_time(t: Tensor, x: Tensor) -> Tensor:
    """t (B,) or (B, N) with trailing axes added until it broadcasts over x (B, ...) or (B, N, ...)."""
    if t.shape != x.shape[: t.ndim]:
        raise ValueError(f"time of shape {tuple(t.shape)} does not match the leading axes of x {tuple(x.shape)}")
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


@dataclass(frozen=True)
class Estimates:
    """Everything that one prediction says about a point x_t; all of x_t's shape."""

    velocity: Tensor
    noise: Tensor
    score: Tensor
    data: Tensor


class Interpolant:
    """One path by name: points on it, targets and conversions.

    `expand` lays a time out over x; the default fits (B,) with any x and (B, N) with x (B, N, ...). A backbone whose
    tokens are patches hands in its own (`Backbone.expand`).
    """

    def __init__(self, path: PathName = "linear", expand: Callable[[Tensor, Tensor], Tensor] = broadcast_time):
        if path not in PATHS:
            raise ValueError(f"objective.path is {path!r}; allowed: {list(PATHS)}")
        self.path, self.expand = path, expand

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients of t's shape."""
        return PATHS[self.path](t)

    def over(self, t: Tensor, x: Tensor) -> Coefficients:
        """Coefficients that broadcast over x."""
        return self.coefficients(t).map(lambda value: self.expand(value, x))

    def point(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t between noise and data, both (B, ...)."""
        c = self.over(t, data)
        return c.alpha * data + c.sigma * noise

    def velocity(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The path's velocity at x_t."""
        c = self.over(t, data)
        return c.d_alpha * data + c.d_sigma * noise

    def estimates(self, output: Tensor, x: Tensor, t: Tensor, prediction: Prediction) -> Estimates:
        """Read a network `output` (B, ...) at (x, t) as `prediction` and convert it to every other kind.

        Singular where the path itself is: velocity from noise or score needs t > 0, velocity from data and any score
        need t < 1 (`time_interval` keeps a solver away from these ends).
        """
        check_choice("objective.prediction", prediction, Prediction)
        return getattr(self, f"_from_{prediction}")(output, x, self.over(t, x))

    def to_velocity(self, output: Tensor, x: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
        """The probability-flow velocity that `output` implies."""
        if prediction == "velocity":
            return output
        return self.estimates(output, x, t, prediction).velocity

    def _from_velocity(self, velocity: Tensor, x: Tensor, c: Coefficients) -> Estimates:
        determinant = c.alpha * c.d_sigma - c.sigma * c.d_alpha
        noise = (c.alpha * velocity - c.d_alpha * x) / determinant
        data = (c.d_sigma * x - c.sigma * velocity) / determinant
        return Estimates(velocity, noise, -noise / c.sigma, data)

    def _from_noise(self, noise: Tensor, x: Tensor, c: Coefficients) -> Estimates:
        velocity = c.d_log_alpha * (x - c.sigma * noise) + c.d_sigma * noise
        return Estimates(velocity, noise, -noise / c.sigma, (x - c.sigma * noise) / c.alpha)

    def _from_score(self, score: Tensor, x: Tensor, c: Coefficients) -> Estimates:
        velocity = c.d_log_alpha * x + c.drift_variance * score
        return Estimates(velocity, -c.sigma * score, score, (x + c.sigma**2 * score) / c.alpha)

    def _from_data(self, data: Tensor, x: Tensor, c: Coefficients) -> Estimates:
        noise = (x - c.alpha * data) / c.sigma
        return Estimates(c.d_alpha * data + c.d_sigma * noise, noise, -noise / c.sigma, data)

    def diffusion(self, t: Tensor, form: DiffusionForm = "sigma", norm: float = 1.0) -> Tensor:
        """w(t) of dx = (v + w score) dt + sqrt(2 w) dW (SiT, equation 5 with w for w_t / 2), of t's shape.

        Forms: constant norm; sbdm norm * drift_variance; sigma norm * sigma(t); linear norm * (1 - t); decreasing
        ((norm cos(pi t) + 1) / 2)^2; increasing-decreasing norm * sin(pi t)^2.
        """
        match form:
            case "constant":
                return torch.full_like(t, norm)
            case "sbdm":
                return norm * self.coefficients(t).drift_variance
            case "sigma":
                return norm * self.coefficients(t).sigma
            case "linear":
                return norm * (1 - t)
            case "decreasing":
                return 0.25 * (norm * torch.cos(math.pi * t) + 1) ** 2
            case "increasing-decreasing":
                return norm * torch.sin(math.pi * t) ** 2
        raise ValueError(f"sampler.diffusion_form is {form!r}; allowed: {list(get_args(DiffusionForm))}")

    def default_margin(self, prediction: Prediction, *, training: bool, form: DiffusionForm | None = None) -> float:
        """How far a run keeps from a singular end of the time axis when the user does not say.

        A velocity network on the linear or GVP path has no singular end, unless an SDE of form sbdm is solved.
        """
        if self.path == "vp":
            return 1e-5 if training else 1e-3
        return 0.0 if prediction == "velocity" and form != "sbdm" else 1e-3

    def time_interval(
        self, prediction: Prediction, margin: float, *, form: DiffusionForm | None = None, last_step_size: float = 0.0
    ) -> tuple[float, float]:
        """(t0, t1) within which times are drawn or a solver runs; `form` is None for training and for an ODE.

        The noise end is left out where a conversion divides by alpha, the data end where one divides by sigma. An SDE
        stops `last_step_size` before the data end and makes one last step from there.
        """
        check_choice("objective.prediction", prediction, Prediction)
        sde = form is not None
        if self.path != "vp" and prediction == "velocity" and not sde:
            return 0.0, 1.0
        singular_noise_end = self.path != "vp" and (form == "sbdm" or prediction != "velocity")
        t1 = 1 - last_step_size if sde and last_step_size else 1 - margin
        return (margin if singular_noise_end else 0.0), t1


def check_choice(key: str, value: str, allowed: Any) -> None:
    """Refuse a value of the config `key` that the Literal `allowed` does not have."""
    if value not in get_args(allowed):
        raise ValueError(f"{key} is {value!r}; allowed: {list(get_args(allowed))}")

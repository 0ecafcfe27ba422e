"""The path from noise to data, and what one network output says about all other quantities on it.

THE time convention of this repository: t = 0 is pure noise, t = 1 is data.

    x_t = alpha(t) x1 + sigma(t) x0        x1 data, x0 standard normal noise
    v_t = alpha'(t) x1 + sigma'(t) x0      the velocity (SiT, arXiv 2401.08740, equations 2 and 4)

Continuous paths: linear (alpha = t, sigma = 1 - t), GVP (sine and cosine of pi t / 2), VP (variance preserving
diffusion with beta from 0.1 to 20). Velocity, noise, score and data predictions are linear functions of each other
given x_t and t. Tables: cosine and linear_betas, the T noise levels of a Gaussian diffusion, without derivatives and
velocity.

Letters: B batch, N tokens, T noise levels. A time is (B,) or, per token, (B, N); every coefficient has the shape of t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

PathName = Literal["linear", "gvp", "vp"]
Prediction = Literal["velocity", "noise", "score", "data"]
DiffusionForm = Literal["constant", "sbdm", "sigma", "linear", "decreasing", "increasing-decreasing"]

VP_BETA_MIN, VP_BETA_MAX = 0.1, 20.0
MAX_STEPS = 10**6  # levels of a table


@dataclass(frozen=True)
class Coefficients:
    """alpha, sigma and their time derivatives at t, and d(log alpha)/dt in a form exact where alpha is small.

    The derivatives of a table are NaN.
    """

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


class Path(Protocol):
    """A way from noise to data: which times there are, and what x_t is made of at each of them.

    name         as objective.path says it
    steps        None where time is continuous; T where it is one of the T noise levels of a diffusion
    predictions  what a network may be trained to return on it
    """

    name: str
    steps: int | None
    predictions: tuple[Prediction, ...]

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients of t's shape."""
        ...

    def training_interval(self, prediction: Prediction, margin: float | None = None) -> tuple[float, float]:
        """(t0, t1) within which times are trained, `margin` away from a singular end; None takes the path's own."""
        ...

    def times(self, unit: Tensor, prediction: Prediction, margin: float | None = None) -> Tensor:
        """Valid training times for numbers in [0, 1], in their order: uniform numbers give uniform times."""
        ...

    def network_time(self, t: Tensor) -> Tensor:
        """What the network is given for the time t: t itself, or the number of the noise level, int64."""
        ...


def check_prediction(path: Path, prediction: str) -> None:
    """Raises ValueError for a prediction that there is not, or not on this path."""
    if prediction not in path.predictions:
        raise ValueError(
            f"objective.prediction is {prediction!r}; allowed: {list(path.predictions)} with objective.path {path.name}"
        )


class ContinuousPath:
    """What the paths in continuous time share: times fill an interval without its singular ends.

    starts_at_noise  alpha is 0 at t = 0, where a conversion divides by it; otherwise that end is not singular
    finite_velocity  the velocity is finite at both ends, so that a network of it needs no margin
    """

    name: str
    steps = None
    predictions: tuple[Prediction, ...] = get_args(Prediction)
    starts_at_noise = True
    finite_velocity = True
    training_margin, sampling_margin = 1e-3, 1e-3

    def default_margin(self, prediction: Prediction, *, training: bool, form: DiffusionForm | None = None) -> float:
        """How far a run keeps from a singular end of the time axis when the user does not say.

        A velocity network on the linear or GVP path has no singular end, unless an SDE of form sbdm is solved.
        """
        if self.finite_velocity and prediction == "velocity" and form != "sbdm":
            return 0.0
        return self.training_margin if training else self.sampling_margin

    def time_interval(
        self, prediction: Prediction, margin: float, *, form: DiffusionForm | None = None, last_step_size: float = 0.0
    ) -> tuple[float, float]:
        """(t0, t1) within which times are drawn or a solver runs; `form` is None for training and for an ODE.

        The noise end is left out where a conversion divides by alpha, the data end where one divides by sigma. An SDE
        stops `last_step_size` before the data end and makes one last step from there.
        """
        check_prediction(self, prediction)
        sde = form is not None
        if self.finite_velocity and prediction == "velocity" and not sde:
            return 0.0, 1.0
        singular_noise_end = self.starts_at_noise and (form == "sbdm" or prediction != "velocity")
        t1 = 1 - last_step_size if sde and last_step_size else 1 - margin
        return (margin if singular_noise_end else 0.0), t1

    def training_interval(self, prediction: Prediction, margin: float | None = None) -> tuple[float, float]:
        """(t0, t1) within which times are trained; margin None takes the path's own."""
        if margin is None:
            margin = self.default_margin(prediction, training=True)
        return self.time_interval(prediction, margin)

    def times(self, unit: Tensor, prediction: Prediction, margin: float | None = None) -> Tensor:
        """[0, 1] stretched over the training interval."""
        low, high = self.training_interval(prediction, margin)
        return low + (high - low) * unit

    def network_time(self, t: Tensor) -> Tensor:
        """t itself."""
        return t


class Linear(ContinuousPath):
    """alpha = t, sigma = 1 - t."""

    name = "linear"

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients of t's shape."""
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one, 1 / t)


class GVP(ContinuousPath):
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2)."""

    name = "gvp"

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients of t's shape."""
        half_pi = math.pi / 2
        sine, cosine = torch.sin(half_pi * t), torch.cos(half_pi * t)
        return Coefficients(sine, cosine, half_pi * cosine, -half_pi * sine, half_pi / torch.tan(half_pi * t))


class VP(ContinuousPath):
    """log alpha = -(1 - t)^2 (beta_max - beta_min) / 4 - (1 - t) beta_min / 2, sigma^2 = 1 - alpha^2.

    At t = 0 a little of the data is left, and at t = 1 the velocity is infinite.
    """

    name = "vp"
    starts_at_noise = False
    finite_velocity = False
    training_margin = 1e-5

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients of t's shape."""
        span = VP_BETA_MAX - VP_BETA_MIN
        log_alpha = -0.25 * (1 - t) ** 2 * span - 0.5 * (1 - t) * VP_BETA_MIN
        d_log_alpha = 0.5 * (1 - t) * span + 0.5 * VP_BETA_MIN
        alpha = torch.exp(log_alpha)
        sigma = torch.sqrt(-torch.expm1(2 * log_alpha))
        d_alpha = alpha * d_log_alpha
        return Coefficients(alpha, sigma, d_alpha, -alpha * d_alpha / sigma, d_log_alpha)


def cosine_betas(steps: int) -> Tensor:
    """Variances (T,) float64 of the cosine schedule (arXiv 2102.09672, equation 17)."""
    remaining = torch.cos((torch.arange(steps + 1).double() / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return 1 - remaining[1:] / remaining[:-1]


def linear_betas(steps: int) -> Tensor:
    """Variances (T,) float64 that grow evenly: of 1000 from 1e-4 to 0.02, as in DDPM (arXiv 2006.11239), DiT, Latte."""
    return torch.linspace(VP_BETA_MIN, VP_BETA_MAX, steps, dtype=torch.float64) / steps


TABLES: dict[str, Callable[[int], Tensor]] = {"cosine": cosine_betas, "linear_betas": linear_betas}


class Table:
    """The T noise levels of a Gaussian diffusion whose steps have the variances TABLES[name](T), level 0 first.

    Level i, 0 the least noisy and T - 1 the noisiest, has the time t = 1 - (i + 1) / T; at t = 1 is the data itself. A
    time between two levels is taken for the nearer one. alpha^2 = prod(1 - beta), sigma^2 = 1 - alpha^2.
    """

    predictions: tuple[Prediction, ...] = ("noise", "data")

    def __init__(self, name: str, steps: int):
        if not 1 <= steps <= MAX_STEPS:
            raise ValueError(f"objective.path.steps is {steps}; it must be at least 1, and {MAX_STEPS} at most")
        self.name, self.steps = name, steps
        remaining = torch.cumprod(1 - TABLES[name](steps).clamp(max=0.999), 0)
        self._alpha_squared = torch.cat([torch.ones(1).double(), remaining])  # of the data, then levels

    def _position(self, t: Tensor) -> Tensor:
        """0 for the data, i + 1 for level i."""
        return torch.round((1 - t) * self.steps).long().clamp(0, self.steps)

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients of t's shape, without derivatives."""
        alpha_squared = self._alpha_squared.to(t.device)[self._position(t)]
        alpha, sigma = alpha_squared.sqrt().to(t.dtype), (1 - alpha_squared).sqrt().to(t.dtype)
        none = torch.full_like(t, math.nan)
        return Coefficients(alpha, sigma, none, none, none)

    def training_interval(self, prediction: Prediction, margin: float | None = None) -> tuple[float, float]:
        """The times of the noisiest and of the least noisy level; no margin is needed, and none allowed."""
        check_prediction(self, prediction)
        if margin is not None:
            raise ValueError(f"objective.margin is {margin}; allowed: null with objective.path {self.name}")
        return 0.0, 1 - 1 / self.steps

    def times(self, unit: Tensor, prediction: Prediction, margin: float | None = None) -> Tensor:
        """[0, 1] in T equal parts, each the time of one level."""
        self.training_interval(prediction, margin)
        return torch.floor(unit * self.steps).clamp(max=self.steps - 1) / self.steps

    def network_time(self, t: Tensor) -> Tensor:
        """The level's number; clean data are given as level 0."""
        return (self._position(t) - 1).clamp(min=0)

    def respaced(self, num_steps: int) -> Tensor:
        """Times (num_steps,) float64 of levels at an even stride from level 0, the noisiest first.

        The "linear" choice of DDIM (arXiv 2010.02502, appendix D.2): level floor(T k / num_steps) for k = 0, 1, ...
        """
        if not 1 <= num_steps <= self.steps:
            raise ValueError(f"sampler.num_steps is {num_steps}; allowed: 1 to objective.path.steps, {self.steps}")
        levels = torch.arange(num_steps) * self.steps // num_steps
        return (1 - (levels + 1).double() / self.steps).flip(0)


@dataclass(frozen=True)
class TableConfig:
    """objective.path as a mapping: the `Table` of a name and a number of noise levels."""

    name: Literal["cosine", "linear_betas"]
    steps: int

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> Table:
        """The path."""
        return Table(self.name, self.steps)


PATHS: dict[str, Path] = {"linear": Linear(), "gvp": GVP(), "vp": VP()}


def build_path(config: PathName | TableConfig) -> Path:
    """The path that objective.path names or describes."""
    if isinstance(config, TableConfig):
        return config.build()
    if config not in PATHS:
        tables = " or ".join(f"{{name: {name}, steps: T}}" for name in TABLES)
        raise ValueError(f"objective.path is {config!r}; allowed: {list(PATHS)} or {tables}")
    return PATHS[config]


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
    """A path over tensors: points on it, targets and conversions.

    `expand` lays a time out over x; the default fits (B,) with any x and (B, N) with x (B, N, ...). A backbone whose
    tokens are patches hands in its own (`Backbone.expand`).
    """

    def __init__(self, path: Path, expand: Callable[[Tensor, Tensor], Tensor] = broadcast_time):
        self.path, self.expand = path, expand

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients of t's shape."""
        return self.path.coefficients(t)

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
        need t < 1 (`time_interval` keeps a solver away from these ends). On a table there is no velocity: NaN.
        """
        check_prediction(self.path, prediction)
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


def check_choice(key: str, value: str, allowed: Any) -> None:
    """Refuse a value of the config `key` that the Literal `allowed` does not have."""
    if value not in get_args(allowed):
        raise ValueError(f"{key} is {value!r}; allowed: {list(get_args(allowed))}")


def check_used(config: Any, node: str, names: Sequence[str], told: str | None) -> None:
    """Raises ValueError for an option of a dataclass that another one leaves unread, where it has not its default.

    node  config key before the names; told: what leaves them unread, in words; None: they are read
    """
    for each in fields(config) if told is not None else ():
        value = getattr(config, each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if each.name in names and value != default:
            raise ValueError(f"{node}.{each.name} is {value!r}, but {told}; allowed with it: {default!r}")

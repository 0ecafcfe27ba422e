"""Every solver, path and prediction on a correlated Gaussian, whose best predictor and exact flow are known.

The best predictor is affine in x, so a sample is an affine function of the random numbers it was made from. Feeding the
sampler no noise in the first row and one unit impulse in each other row yields that function exactly, and with it the
exact mean and covariance of the samples: nothing here is a statistic.
"""

from dataclasses import replace

import pytest
import torch

from core.flow.path import PATHS, Interpolant, Table
from core.flow.sampler import SDE_SOLVERS, Sampler, SamplerConfig
from core.flow.solvers import AncestralConfig
from tests.core.flow.numerics import one_thread  # noqa: F401, a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

PREDICTIONS = ["velocity", "noise", "score", "data"]
FORMS = ["constant", "sbdm", "sigma", "linear", "decreasing", "increasing-decreasing"]
MEAN = torch.tensor([0.7, -1.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.3, 0.6], [0.6, 0.5]], dtype=torch.float64)
VARIANCES, AXES = torch.linalg.eigh(COVARIANCE)

every_path = pytest.mark.parametrize("path", list(PATHS))
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


def function_of_covariance(values):
    """The symmetric matrix (..., 2, 2) with the axes of COVARIANCE and these eigenvalues (..., 2)."""
    return AXES * values[..., None, :] @ AXES.T


def law(path, t):
    """Mean (2) and eigenvalues of the covariance (2) of x_t."""
    c = PATHS[path].coefficients(torch.tensor(t, dtype=torch.float64))
    return c.alpha * MEAN, c.alpha**2 * VARIANCES + c.sigma**2


def best_predictor(path, prediction):
    """What a perfect network returns: E[data | x_t], E[noise | x_t], the score, or the velocity."""

    def network(x, t, condition):
        c = Interpolant(path).over(t if path.steps is None else 1 - (t + 1).double() / path.steps, x)
        eigenvalues = c.alpha**2 * VARIANCES + c.sigma**2
        whitened = (x - c.alpha * MEAN) @ AXES / eigenvalues @ AXES.T
        data, noise = MEAN + c.alpha * whitened @ COVARIANCE, c.sigma * whitened
        answers = {"velocity": c.d_alpha * data + c.d_sigma * noise, "noise": noise, "score": -whitened, "data": data}
        return answers[prediction]

    return network


class Impulses:
    """Random numbers: row 0 none, rows 1 and 2 a unit of `start`, each next pair a unit of the next draw."""

    def __init__(self, start=None):
        self.start, self.draws = start, 0

    def normal(self, stream, shape):
        noise = torch.zeros(shape, dtype=torch.float64)
        assert stream == ("sde" if self.draws else "start")
        noise[1 + 2 * self.draws : 3 + 2 * self.draws] = torch.eye(2, dtype=torch.float64)
        self.draws += 1
        if self.start is not None and stream == "start":
            mean, root = self.start
            noise = mean + noise @ root
        return noise


def affine_map(sampler, start=None):
    """The sample without noise (2) and its derivative (2, draws) by every random number."""
    config = sampler.config
    draws = config.num_steps - (config.last_step != "none") if config.solver in SDE_SOLVERS else 0
    if isinstance(config.solver, AncestralConfig):
        draws = config.num_steps - 1 if config.solver.eta else 0
    rows = 1 + 2 * (1 + draws)
    labels, random = torch.zeros(rows), Impulses(start)
    samples = sampler(best_predictor(sampler.interpolant.path, sampler.prediction), (rows, 2), labels, labels, random)
    assert random.draws == 1 + draws
    return samples[0], (samples[1:] - samples[0]).T


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


# ordinary differential equations: the exact flow maps x at t0 to a t1 / a t0 axis by axis, a the standard deviation


@every_path
@every_prediction
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"solver": "heun", "num_steps": 100}, 3e-4),
        ({"solver": "rk4", "num_steps": 50}, 1e-5),
        ({"solver": "dopri5", "atol": 1e-9, "rtol": 1e-7}, 1e-6),
    ],
    ids=lambda value: value["solver"] if isinstance(value, dict) else "",
)
def test_ode_is_the_exact_map_from_noise_to_data(path, prediction, settings, tolerance):
    sampler = Sampler(SamplerConfig(**settings), Interpolant(PATHS[path]), prediction)
    (mean0, variances0), (mean1, variances1) = (law(path, t) for t in sampler.interval)
    exact = function_of_covariance((variances1 / variances0).sqrt())
    offset, jacobian = affine_map(sampler)
    close(jacobian, exact, tolerance)
    close(offset, mean1 - exact @ mean0, tolerance)
    close(offset, MEAN, 1e-2)  # and that is the data, up to the margins and VP's remaining signal at t = 0
    close(jacobian @ jacobian.T, COVARIANCE, 5e-3)


@every_path
def test_euler_with_a_network_of_data_comes_closer_by_half_with_twice_the_steps(path):
    """The network of the x-prediction, whatever its errors were weighted by; with Heun it is among the others above."""
    offset = []
    for steps in (100, 200, 400):
        sampler = Sampler(SamplerConfig(solver="euler", num_steps=steps), Interpolant(PATHS[path]), "data")
        (_, variances0), (_, variances1) = (law(path, t) for t in sampler.interval)
        offset.append((affine_map(sampler)[1] - function_of_covariance((variances1 / variances0).sqrt())).norm())
    assert offset[2] < 0.02 and 1.8 < offset[0] / offset[1] < 2.2 and 1.8 < offset[1] / offset[2] < 2.2


# stochastic differential equations: first order, so two step sizes extrapolate to the limit


def extrapolated(config, path, prediction):
    """Mean and covariance of the samples from n and 2 n steps, extrapolated to infinitely many, and those of 2 n.

    Started from the path's own law at t0, so that the solver's error is all that is left.
    """
    results = []
    for steps in (config.num_steps, 2 * config.num_steps):
        last_step_size = 2 * config.last_step_size * config.num_steps / steps
        config_now = replace(config, num_steps=steps, last_step_size=last_step_size)
        sampler = Sampler(config_now, Interpolant(PATHS[path]), prediction)
        mean0, variances0 = law(path, sampler.interval[0])
        offset, jacobian = affine_map(sampler, (mean0, function_of_covariance(variances0.sqrt())))
        results.append((offset, jacobian @ jacobian.T))
    (coarse_mean, coarse), (mean, covariance) = results
    return (2 * mean - coarse_mean, 2 * covariance - coarse), (mean, covariance)


def check_sde(settings, path, prediction):
    """Compare the limit of an SDE solver with the law that it should have reached."""
    config = SamplerConfig(num_steps=60, last_step_size=1 / 120, margin=0.1, **settings)
    (mean, covariance), finest = extrapolated(config, path, prediction)
    if config.last_step == "none":
        exact_mean, variances = law(path, 1 - config.margin)
        exact = function_of_covariance(variances)
    else:
        exact_mean, exact = MEAN, COVARIANCE
    close(mean, exact_mean, 2e-3)
    close(covariance, exact, 6e-3)
    close(finest[0], exact_mean, 1e-2)
    close(finest[1], exact, 3e-2)


@every_path
@every_prediction
@pytest.mark.parametrize("solver", SDE_SOLVERS)
def test_sde_reaches_mean_and_covariance_with_every_prediction(path, prediction, solver):
    check_sde({"solver": solver}, path, prediction)


@every_path
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("solver", SDE_SOLVERS)
@pytest.mark.parametrize("last_step", ["mean", "none"])
def test_sde_reaches_mean_and_covariance_with_every_diffusion(path, form, solver, last_step):
    settings = {"solver": solver, "diffusion_form": form, "last_step": last_step, "diffusion_norm": 0.7}
    check_sde(settings, path, "velocity")


@every_path
@every_prediction
@pytest.mark.parametrize("last_step", ["euler", "tweedie", "none"])
def test_sde_reaches_mean_and_covariance_with_every_last_step(path, prediction, last_step):
    check_sde({"solver": "euler_maruyama", "last_step": last_step}, path, prediction)


@every_path
@pytest.mark.parametrize("prediction", ["velocity", "data"])
@pytest.mark.parametrize("form", ["constant", "sbdm", "sigma"])
@pytest.mark.parametrize("last_step", ["mean", "none"])
@pytest.mark.parametrize("solver", SDE_SOLVERS)
def test_default_margins_give_the_data_from_plain_noise(path, prediction, form, last_step, solver):
    """Everything as a user gets it; a few steps at the singular end of sbdm are what the wide tolerance is for."""
    config = SamplerConfig(solver=solver, num_steps=60, diffusion_form=form, last_step=last_step, last_step_size=0.01)
    offset, jacobian = affine_map(Sampler(config, Interpolant(PATHS[path]), prediction))
    close(offset, MEAN, 3e-2)
    close(jacobian @ jacobian.T, COVARIANCE, 8e-2)


# the levels of a diffusion: first order too


@pytest.mark.parametrize("prediction", Table.predictions)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("stride", [1, 2])
def test_ancestral_steps_reach_mean_and_covariance(prediction, eta, stride):
    results = []
    for num_steps in (150, 300):
        config = SamplerConfig(AncestralConfig("ancestral", eta), num_steps)
        offset, jacobian = affine_map(Sampler(config, Interpolant(Table("cosine", stride * num_steps)), prediction))
        results.append(torch.cat([offset[None], jacobian @ jacobian.T]))
    coarse, fine = results
    exact = torch.cat([MEAN[None], COVARIANCE])
    close(fine, exact, 3e-2)
    close(2 * fine - coarse, exact, 2e-3)


# Tweedie's last step is the posterior mean itself


@every_path
@every_prediction
def test_tweedie_ends_at_the_posterior_mean(path, prediction):
    config = SamplerConfig(solver="euler_maruyama", num_steps=4, last_step="tweedie", last_step_size=0.3)
    states, labels = [], torch.zeros(9)
    network = best_predictor(PATHS[path], prediction)
    sampler = Sampler(config, Interpolant(PATHS[path]), prediction)
    samples = sampler(network, (9, 2), labels, labels, Impulses(), lambda step, x: states.append(x))
    t = torch.full((9,), 0.7, dtype=torch.float64)
    close(samples, best_predictor(PATHS[path], "data")(states[-1], t, labels), 1e-9)

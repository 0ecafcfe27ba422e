"""Wan's times, shifted and within an expert's range, and errors weighted by time."""

import pytest
import torch

from core.draws import StepRandom
from core.flow.path import Interpolant, Linear
from tests.rows import every_row
from video.wan.objective import LOSS_WEIGHTS, WanFlowMatching, WanObjectiveConfig, WanSamplerConfig

HIGH, LOW = (0.0, 0.125), (0.125, 1.0)  # flow times of Wan 2.2's experts


def objective(time_range=(0.0, 1.0), **options):
    """The objective of a network of vectors."""
    return WanFlowMatching(WanObjectiveConfig(**options), lambda values, x: values[:, None], time_range)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_shifted_noise_levels_are_those_of_diffusers(shift):
    """sigma of our time t is what diffusers' scheduler makes of the unshifted sigma."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    sigmas = torch.linspace(1, 1 / 1000, 1000)
    scheduler.set_timesteps(sigmas=sigmas.tolist())
    config = WanSamplerConfig(shift=shift)
    sampler = config.build(Interpolant(Linear()), "velocity")
    times = sampler.times(1000, torch.zeros(1))
    torch.testing.assert_close(times[0], torch.tensor(0.0))
    found = objective(time="shifted", time_shift=shift)._quantile((1 - sigmas).double())
    torch.testing.assert_close(1 - found.float(), scheduler.sigmas[:-1].float(), atol=2e-6, rtol=1e-5)


@every_row("options", [{}, {"time": "uniform"}, {"time": "logit_normal", "time_mean": -0.5}, {"time_shift": 5.0}])
def test_an_expert_is_trained_on_its_own_times_as_the_distribution_has_them(options):
    """What is drawn for an expert has the quantiles of all draws that fall into its range."""
    whole = objective(**options).draw_time(StepRandom(0, 0), (200_000,))
    for low, high in (HIGH, LOW):
        drawn = objective((low, high), **options).draw_time(StepRandom(0, 1), (200_000,))
        assert low <= drawn.min() and drawn.max() <= high
        inside = whole[(whole > low) & (whole < high)]
        quantiles = torch.tensor([0.1, 0.5, 0.9])
        expected = inside.quantile(quantiles)
        torch.testing.assert_close(drawn.quantile(quantiles).to(expected), expected, atol=6e-3, rtol=0.03)


def test_a_model_without_experts_draws_what_every_objective_draws():
    from core.flow.objective import FlowMatching, ObjectiveConfig

    base = FlowMatching(ObjectiveConfig(time="shifted", time_shift=3.0)).draw_time(StepRandom(3, 4), (16,))
    assert torch.equal(objective().draw_time(StepRandom(3, 4), (16,)), base)


@every_row("name", list(LOSS_WEIGHTS))
def test_weights_have_mean_one_over_the_trained_times_and_weigh_the_error(name):
    for time_range in ((0.0, 1.0), HIGH):
        flow = objective(time_range, loss_weight=name)
        t = flow.draw_time(StepRandom(0, 0), (100_000,))
        assert float(flow.weight(t).mean()) == pytest.approx(1, abs=0.02)
    flow, t = objective(loss_weight=name), torch.tensor([0.1, 0.5, 0.9])
    data, noise = torch.randn(3, 4), torch.randn(3, 4)
    plain = objective()(lambda x, t: torch.zeros_like(x), data, noise, t).loss
    weighted = flow(lambda x, t: torch.zeros_like(x), data, noise, t).loss
    torch.testing.assert_close(weighted, plain * flow.weight(t))


def test_a_bell_is_highest_in_the_middle_and_ends_in_zero():
    weights = objective(loss_weight="bell").weight(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert weights[0].abs() < 1e-6 and weights[4].abs() < 1e-6 and weights.argmax() == 2
    assert weights[1] == pytest.approx(float(weights[3]))


@every_row(
    ("options", "words"),
    [
        ({"path": "gvp"}, "objective.path is 'gvp'; Wan is trained with 'linear'"),
        ({"prediction": "noise"}, "objective.prediction is 'noise'"),
        ({"time_shift": 0.0}, "objective.time_shift is 0.0"),
    ],
)
def test_what_wan_was_not_trained_with_is_refused(options, words):
    with pytest.raises(ValueError) as caught:
        WanObjectiveConfig(**options)
    assert words in str(caught.value)
    with pytest.raises(ValueError, match=r"sampler\.shift is -1"):
        WanSamplerConfig(shift=-1)

"""The training objective: recorded losses, relations between predictions, masks, and the times that are trained."""

import math
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch

from core.draws import StepRandom
from core.flow.objective import FlowMatching, FlowMatchingResult, ObjectiveConfig, sample_mean
from core.flow.path import PATHS
from tests.core.flow.numerics import close
from tests.golden_files import load_golden

GOLDEN, CONFIG = load_golden("transport")
PREDICTIONS = ["velocity", "noise", "score", "data"]
WEIGHTINGS = ["none", "velocity", "likelihood"]

every_path = pytest.mark.parametrize("path", list(PATHS))
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)
every_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


def fixed(output):
    """A network that returns `output` whatever it is asked."""
    return lambda x, t: output


def inputs(*shape, seed=0):
    """Data, noise and an arbitrary network output (B, ...) with times (B,), float64."""
    generator = torch.Generator().manual_seed(seed)
    data, noise, output = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    t = 0.05 + 0.9 * torch.rand(shape[0], generator=generator, dtype=torch.float64)
    return data, noise, output, t


# the loss


@pytest.mark.parametrize("name", CONFIG["paths"])
@pytest.mark.parametrize("prediction", CONFIG["predictions"])
@pytest.mark.parametrize("weight", CONFIG["weights"])
def test_recorded_losses(name, prediction, weight):
    objective = FlowMatching(ObjectiveConfig(name.lower(), prediction, weight.lower()))
    seen = []

    def network(x, t):
        seen.append((x, t))
        return GOLDEN["model_output"]

    result = objective(network, GOLDEN["x1"], GOLDEN["x0"], GOLDEN["t"])
    close(result.loss, GOLDEN[f"{name}.loss.{prediction}.{weight}"])
    close(result.x_t, GOLDEN[f"{name}.x_t"])
    assert len(seen) == 1 and seen[0][0] is result.x_t and torch.equal(seen[0][1], GOLDEN["t"])
    assert torch.equal(result.t, GOLDEN["t"]) and torch.equal(result.prediction, GOLDEN["model_output"])
    if prediction == "velocity":
        close(result.target, GOLDEN[f"{name}.u_t"])


@every_path
@every_prediction
@every_weighting
def test_the_target_has_no_loss(path, prediction, weighting):
    data, noise, _, t = inputs(4, 3, 2)
    objective = FlowMatching(ObjectiveConfig(path, prediction, weighting))
    loss = objective(fixed(objective.target(data, noise, t)), data, noise, t).loss
    assert loss.shape == (4,) and loss.max() < 1e-20


@every_path
@every_prediction
def test_the_target_says_what_is_true(path, prediction):
    data, noise, _, t = inputs(4, 3, 2)
    objective = FlowMatching(ObjectiveConfig(path, prediction))
    x = objective.interpolant.point(data, noise, t)
    estimates = objective.interpolant.estimates(objective.target(data, noise, t), x, t, prediction)
    close(estimates.data, data, 1e-9)
    close(estimates.noise, noise, 1e-9)


@every_path
@pytest.mark.parametrize("weighting", ["velocity", "likelihood"])
def test_one_belief_costs_the_same_in_every_prediction(path, weighting):
    """The weighted loss depends on what a network believes, not on the quantity in which it says so; with weighting
    `velocity` it is the velocity loss itself."""
    data, noise, output, t = inputs(5, 3, 2, seed=1)
    losses = {}
    for prediction in PREDICTIONS:
        objective = FlowMatching(ObjectiveConfig(path, prediction, weighting))
        x = objective.interpolant.point(data, noise, t)
        said = getattr(objective.interpolant.estimates(output, x, t, "velocity"), prediction)
        losses[prediction] = objective(fixed(said), data, noise, t).loss
    reference = losses["velocity" if weighting == "velocity" else "noise"]
    for prediction in ("noise", "score", "data"):
        close(losses[prediction], reference, 1e-9)
    plain = FlowMatching(ObjectiveConfig(path))(fixed(output), data, noise, t).loss
    close(losses["velocity"], plain, 1e-12)  # a velocity loss takes no weight


@every_path
def test_unweighted_losses_differ_by_their_known_factors(path):
    """An error of noise is the same error of data times alpha / sigma, and the same error of the score times sigma."""
    data, noise, output, t = inputs(5, 3, 2, seed=2)
    objectives = {kind: FlowMatching(ObjectiveConfig(path, kind)) for kind in ("noise", "score", "data")}
    interpolant = objectives["noise"].interpolant
    estimates = interpolant.estimates(output, interpolant.point(data, noise, t), t, "noise")
    said = {kind: getattr(estimates, kind) for kind in objectives}
    loss = {kind: objectives[kind](fixed(said[kind]), data, noise, t).loss for kind in objectives}
    c = interpolant.coefficients(t)
    close(loss["noise"], (c.alpha / c.sigma) ** 2 * loss["data"], 1e-9)
    close(loss["noise"], loss["score"], 1e-9)  # the score is compared as noise
    close(loss["data"], (estimates.data - data).pow(2).mean((1, 2)), 1e-12)


@every_path
@every_prediction
@every_weighting
def test_a_time_for_each_token_is_each_token_alone(path, prediction, weighting):
    data, noise, output, _ = inputs(3, 4, 2, seed=3)
    t = 0.05 + 0.9 * torch.rand(3, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    objective = FlowMatching(ObjectiveConfig(path, prediction, weighting))
    together = objective(fixed(output), data, noise, t)
    data, noise, output = (value.flatten(0, 1) for value in (data, noise, output))
    alone = objective(fixed(output), data, noise, t.flatten())
    close(together.x_t.flatten(0, 1), alone.x_t, 1e-12)
    close(together.loss, alone.loss.view(3, 4).mean(1), 1e-12)


def test_a_backbone_may_lay_times_out_its_own_way():
    data, noise, output, _ = inputs(3, 2, 4)
    t = torch.linspace(0.1, 0.9, 12, dtype=torch.float64).view(3, 4)  # for each index of the last axis
    config = ObjectiveConfig("gvp", "noise", "likelihood")
    own = FlowMatching(config, expand=lambda t, x: t[:, None, :])(fixed(output), data, noise, t)
    turned = [value.transpose(1, 2) for value in (output, data, noise)]
    close(own.loss, FlowMatching(config)(fixed(turned[0]), *turned[1:], t).loss, 1e-12)


def test_half_precision_output_is_compared_in_single_precision():
    data = torch.full((1, 64), 256.0)
    objective = FlowMatching(ObjectiveConfig(prediction="data"))
    loss = objective(fixed((data + 2).bfloat16()), data + 1, data, torch.tensor([0.5])).loss
    assert loss.dtype == torch.float32 and loss.item() == 1  # 257 does not exist in bfloat16


def test_a_network_of_the_wrong_shape_is_refused():
    data, noise, output, t = inputs(4, 3, 2)
    with pytest.raises(ValueError, match=r"network returned \(4, 3, 1\) for an input of \(4, 3, 2\)"):
        FlowMatching(ObjectiveConfig())(fixed(output[..., :1]), data, noise, t)


def test_the_result_is_frozen():
    data, noise, output, t = inputs(4, 3)
    result = FlowMatching(ObjectiveConfig())(fixed(output), data, noise, t)
    assert isinstance(result, FlowMatchingResult)
    with pytest.raises(AttributeError):
        result.loss = t


# masks


def test_sample_mean_counts_only_true_elements():
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, math.nan], [math.inf, -math.inf]]])
    mask = torch.tensor([[[True], [False]], [[True], [False]]])
    close(sample_mean(values[:1], None), torch.tensor([2.5]))
    close(sample_mean(values[:1], mask[:1]), torch.tensor([1.5]))
    element = torch.tensor([[[True, True], [True, False]], [[True, False], [False, False]]])
    close(sample_mean(values, element), torch.tensor([2.0, 5.0]))
    close(sample_mean(torch.tensor([1.0, 2.0]), None), torch.tensor([1.0, 2.0]))
    assert sample_mean(values, torch.zeros(2, 1, 1)).isnan().all()


@every_path
@every_prediction
@every_weighting
@pytest.mark.parametrize("filler", [math.nan, math.inf, 1e30])
def test_masked_elements_never_count(path, prediction, weighting, filler):
    data, noise, output, t = inputs(3, 4, 2, seed=5)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    objective = FlowMatching(ObjectiveConfig(path, prediction, weighting))
    expected = [
        objective(fixed(output[i : i + 1, mask[i]]), data[i : i + 1, mask[i]], noise[i : i + 1, mask[i]], t[i : i + 1])
        for i in range(3)
    ]
    filled = [torch.where(mask[..., None], value, filler) for value in (output, data, noise)]
    result = objective(fixed(filled[0]), *filled[1:], t, mask[..., None])
    close(result.loss, torch.cat([each.loss for each in expected]), 1e-12)
    assert not torch.allclose(objective(fixed(output), data, noise, t).loss, result.loss)  # the mask does something


@every_prediction
@pytest.mark.parametrize("filler", [math.nan, math.inf])
def test_masked_elements_have_no_gradient(prediction, filler):
    data, noise, output, t = inputs(2, 4, 2, seed=6)
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]], dtype=torch.bool)[..., None]
    data, noise = (torch.where(mask, value, filler) for value in (data, noise))
    output.requires_grad_()
    FlowMatching(ObjectiveConfig(prediction=prediction))(fixed(output), data, noise, t, mask).loss.sum().backward()
    outside = ~mask.expand_as(output)
    assert output.grad.isfinite().all() and (output.grad[outside] == 0).all() and (output.grad[~outside] != 0).all()


# times

NUM = 200_000


def times(config, shape=(NUM,), seed=0):
    """Times drawn by an objective, float32 of `shape`."""
    return FlowMatching(config).draw_time(StepRandom(seed, 0), shape)


def check_quantiles(t, quantile):
    """Compare nine quantiles of draws t with quantile(p), within five standard errors of the share below."""
    for p in (0.02, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.98):
        share = (t.double() <= quantile(p)).double().mean().item()
        assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / t.numel()))


@every_path
@every_prediction
def test_uniform_times_fill_the_valid_interval(path, prediction):
    config = ObjectiveConfig(path, prediction)
    objective = FlowMatching(config)
    low, high = objective.interval
    margin = objective.path.default_margin(prediction, training=True)
    assert (low, high) == objective.path.time_interval(prediction, margin)
    t = times(config)
    assert t.min() >= low and t.max() <= high
    check_quantiles(t, lambda p: low + (high - low) * p)
    assert t.mean().item() == pytest.approx((low + high) / 2, abs=5 * (high - low) / math.sqrt(12 * NUM))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.6, 0.5), (0.8, 1.4)])
def test_logit_normal_times(mean, std):
    t = times(ObjectiveConfig(time="logit_normal", time_mean=mean, time_std=std))
    check_quantiles(t, lambda p: 1 / (1 + math.exp(-(mean + std * NormalDist().inv_cdf(p)))))


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.4])
def test_shifted_times(shift):
    """Equation 23 of arXiv 2403.03206 moves s = 1 - t to shift s / (1 + (shift - 1) s)."""
    t = times(ObjectiveConfig(time="shifted", time_shift=shift))
    check_quantiles(t, lambda p: 1 - shift * (1 - p) / (1 + (shift - 1) * (1 - p)))
    if shift == 1:
        close(t, times(ObjectiveConfig()), 1e-6)


@pytest.mark.parametrize("keys", [{}, {"time_mean": 9.0, "time_std": 2.0}, {"time_shift": 0.01}])
def test_every_distribution_keeps_the_margin(keys):
    kind = {0: "uniform", 1: "shifted", 2: "logit_normal"}[len(keys)]
    config = ObjectiveConfig("vp", "noise", time=kind, **keys, margin=0.25)
    assert times(config).max() <= 0.75
    assert times(replace(config, path="linear")).min() >= 0.25
    assert times(replace(config, path="linear", prediction="velocity", margin=None)).max() > 0.99  # no singular end


@pytest.mark.parametrize("kind", ["uniform", "logit_normal", "shifted"])
def test_a_time_for_each_token_is_drawn_alone(kind):
    t = times(ObjectiveConfig(time=kind), (500, 40))
    assert t.shape == (500, 40) and t.unique().numel() > 19_000
    assert abs(torch.corrcoef(t[:, :2].T)[0, 1].item()) < 5 / math.sqrt(500)
    assert torch.equal(t, times(ObjectiveConfig(time=kind), (500, 40)))
    assert not torch.equal(t, times(ObjectiveConfig(time=kind), (500, 40), seed=1))


# differences between neighbours


def test_differences_along_the_last_axis_are_compared_where_both_sides_count():
    data, noise, output, t = inputs(3, 2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()[:, None]
    error = output - data
    plain = FlowMatching(ObjectiveConfig(prediction="data"))
    stepped = FlowMatching(ObjectiveConfig(prediction="data", difference_weight=3.0))
    found = stepped(fixed(output), data, noise, t, mask).loss - plain(fixed(output), data, noise, t, mask).loss
    steps = [(error[row, :, 1:real] - error[row, :, : real - 1]) ** 2 for row, real in enumerate((5, 3))]
    close(found, 3 * torch.stack([steps[0].mean(), steps[1].mean(), torch.zeros(())]), 1e-5)
    whole = stepped(fixed(output), data, noise, t).loss - plain(fixed(output), data, noise, t).loss
    close(whole, 3 * (error.diff(dim=-1) ** 2).mean((1, 2)), 1e-5)
    constant = stepped(fixed(data + 7.0), data, noise, t).loss  # an offset is no wrong difference
    close(constant, plain(fixed(data + 7.0), data, noise, t).loss, 1e-5)


def test_a_sample_without_two_neighbours_has_a_gradient():
    data, noise, output, t = inputs(2, 1, 4)
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1]]).bool()[:, None]
    objective = FlowMatching(ObjectiveConfig(prediction="data", difference_weight=1.0))
    loss = objective(fixed(output.requires_grad_()), data, noise, t, mask).loss
    loss.sum().backward()
    assert loss.isfinite().all() and output.grad.isfinite().all()


# refusals


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"time_std": 0.0}, r"objective\.time_std is 0\.0.*positive"),
        ({"time_std": -1.0}, r"objective\.time_std is -1\.0"),
        ({"time_shift": 0.0}, r"objective\.time_shift is 0\.0.*positive"),
        ({"time_shift": -3.0}, r"objective\.time_shift is -3\.0"),
        ({"margin": -0.1}, r"objective\.margin is -0\.1.*\[0, 0\.5\)"),
        ({"margin": 0.5}, r"objective\.margin is 0\.5"),
        ({"margin": math.nan}, r"objective\.margin is nan"),
        ({"path": "cosine"}, r"objective\.path is 'cosine'.*linear"),
        ({"prediction": "epsilon"}, r"objective\.prediction is 'epsilon'.*noise"),
        ({"weighting": "Velocity"}, r"objective\.weighting is 'Velocity'.*likelihood"),
        ({"time": "logitnormal"}, r"objective\.time is 'logitnormal'.*logit_normal"),
        ({"time_per": "frame"}, r"objective\.time_per is 'frame'.*token"),
        ({"difference_weight": -1.0}, r"objective\.difference_weight is -1\.0.*0 or more"),
        ({"difference_weight": math.inf}, r"objective\.difference_weight is inf"),
        ({"difference_weight": 1.0}, r"difference_weight is 1\.0 with objective\.prediction 'velocity'.*data"),
    ],
)
def test_refusals_name_the_key_the_value_and_the_allowed_set(setting, message):
    with pytest.raises(ValueError, match=message):
        FlowMatching(ObjectiveConfig(**setting))


def test_the_ends_of_the_allowed_settings_are_accepted():
    FlowMatching(ObjectiveConfig(margin=0.0, time="logit_normal", time_std=1e-3))
    FlowMatching(ObjectiveConfig(time="shifted", time_shift=1e-3))
    assert FlowMatching(ObjectiveConfig(prediction="noise", margin=0.0)).interval == (0, 1)
    assert FlowMatching(ObjectiveConfig(prediction="noise", margin=0.2)).interval == (0.2, 0.8)

"""The path from noise to data: recorded numbers, closed forms, conversions, and the ends of the time axis."""

import math
from dataclasses import fields

import pytest
import torch

from core.flow.path import (
    PATHS,
    VP_BETA_MAX,
    VP_BETA_MIN,
    Coefficients,
    Interpolant,
    Linear,
    broadcast_time,
    build_path,
)
from tests.core.flow.numerics import close
from tests.golden_files import load_golden

GOLDEN, CONFIG = load_golden("transport")
NORMS = sorted({float(key.rsplit("norm", 1)[1]) for key in GOLDEN if ".norm" in key})
PREDICTIONS = ["velocity", "noise", "score", "data"]
FORMS = ["constant", "sbdm", "sigma", "linear", "decreasing", "increasing-decreasing"]

every_path = pytest.mark.parametrize("path", list(PATHS))
golden_path = pytest.mark.parametrize("name", CONFIG["paths"])


def interpolant_of(name):
    """The path that the recording calls `name`."""
    return Interpolant(PATHS[name.lower()])


def point(batch=5, seed=0, low=0.03, high=0.97):
    """Data and noise (B, 3, 2) and times (B,), float64."""
    generator = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, batch, 3, 2, generator=generator, dtype=torch.float64)
    return data + 0.5, noise, torch.linspace(low, high, batch, dtype=torch.float64)


# recorded numbers


def test_the_recording_has_no_quantity_that_is_not_compared():
    single = ["alpha", "sigma", "d_alpha", "d_sigma", "x_t", "u_t", "drift_mean", "drift_var"]
    single += ["noise_from_velocity", "score_from_velocity", "velocity_from_score"]
    single += [f"{kind}.{prediction}" for kind in ("ode_drift", "score") for prediction in CONFIG["predictions"]]
    single += [f"diffusion.{form}.norm{norm}" for form in CONFIG["diffusion_forms"] for norm in NORMS]
    losses = [f"loss.{prediction}.{weight}" for prediction in CONFIG["predictions"] for weight in CONFIG["weights"]]
    shared = {"t", "x0", "x1", "model_output", "interval_table"}  # the losses are compared in test_objective
    assert shared | {f"{path}.{key}" for path in CONFIG["paths"] for key in single + losses} == set(GOLDEN)


@golden_path
@pytest.mark.parametrize("quantity", ["alpha", "sigma", "d_alpha", "d_sigma"])
def test_recorded_coefficients(name, quantity):
    close(getattr(interpolant_of(name).coefficients(GOLDEN["t"]), quantity), GOLDEN[f"{name}.{quantity}"])


@golden_path
def test_recorded_point_and_velocity(name):
    path = interpolant_of(name)
    close(path.point(GOLDEN["x1"], GOLDEN["x0"], GOLDEN["t"]), GOLDEN[f"{name}.x_t"])
    close(path.velocity(GOLDEN["x1"], GOLDEN["x0"], GOLDEN["t"]), GOLDEN[f"{name}.u_t"])


@golden_path
def test_recorded_drift_pair(name):
    c = interpolant_of(name).over(GOLDEN["t"], GOLDEN["x1"])
    close(-c.d_log_alpha * GOLDEN[f"{name}.x_t"], GOLDEN[f"{name}.drift_mean"])
    close(c.drift_variance.flatten(), GOLDEN[f"{name}.drift_var"])


@golden_path
@pytest.mark.parametrize("prediction", CONFIG["predictions"])
def test_recorded_drift_and_score_of_an_output(name, prediction):
    x, t, output = GOLDEN[f"{name}.x_t"], GOLDEN["t"], GOLDEN["model_output"]
    path = interpolant_of(name)
    close(path.to_velocity(output, x, t, prediction), GOLDEN[f"{name}.ode_drift.{prediction}"])
    close(path.estimates(output, x, t, prediction).velocity, GOLDEN[f"{name}.ode_drift.{prediction}"])
    close(path.estimates(output, x, t, prediction).score, GOLDEN[f"{name}.score.{prediction}"])


@golden_path
def test_recorded_conversions(name):
    x, t, output = GOLDEN[f"{name}.x_t"], GOLDEN["t"], GOLDEN["model_output"]
    path = interpolant_of(name)
    close(path.estimates(output, x, t, "velocity").noise, GOLDEN[f"{name}.noise_from_velocity"])
    close(path.estimates(output, x, t, "velocity").score, GOLDEN[f"{name}.score_from_velocity"])
    close(path.estimates(output, x, t, "score").velocity, GOLDEN[f"{name}.velocity_from_score"])


@golden_path
@pytest.mark.parametrize("form", CONFIG["diffusion_forms"])
@pytest.mark.parametrize("norm", NORMS)
def test_recorded_diffusion(name, form, norm):
    w = interpolant_of(name).diffusion(GOLDEN["t"], form.lower(), norm)
    close(w, GOLDEN[f"{name}.diffusion.{form}.norm{norm}"])


# recorded time intervals: a row is one setting of the published program. `train_eps_arg` and `sample_eps_arg` are what
# its caller passed, `train_eps` and `sample_eps` what it then held. Rows with finite t0 and t1 must be reproduced with
# the held margin; `reverse` rows are the same interval on the reversed axis. Rows with NaN are settings in which the
# source left its sampling margin unset and failed; there ours must be usable with its own default margin.


def interval_rows(name, prediction):
    """The rows of one path and prediction as dicts."""
    rows = [dict(zip(CONFIG["interval_columns"], row, strict=True)) for row in GOLDEN["interval_table"].tolist()]
    wanted = (CONFIG["paths"].index(name), CONFIG["predictions"].index(prediction))
    return [row for row in rows if (row["path"], row["prediction"]) == wanted]


def form_of(row):
    """Our diffusion form for a row: None is an ODE or training, and "sigma" stands for every form but sbdm."""
    return None if not row["sde"] else "sbdm" if row["form_is_SBDM"] else "sigma"


def interval_of(row, name, prediction, margin):
    """Our interval for the setting of a row."""
    path, options = PATHS[name.lower()], {"form": form_of(row), "last_step_size": row["last_step_size"]}
    return path.time_interval(prediction, margin, **options)


every_setting = pytest.mark.parametrize(
    ("name", "prediction"), [(name, prediction) for name in CONFIG["paths"] for prediction in CONFIG["predictions"]]
)


@every_setting
def test_recorded_intervals(name, prediction):
    compared = 0
    for row in interval_rows(name, prediction):
        if math.isnan(row["t0"]) or math.isnan(row["t1"]):
            continue
        t0, t1 = interval_of(row, name, prediction, row["sample_eps"] if row["eval"] else row["train_eps"])
        ours = (1 - t0, 1 - t1) if row["reverse"] else (t0, t1)
        assert ours == pytest.approx((row["t0"], row["t1"]), abs=1e-12), row
        compared += 1
    assert compared


@every_setting
def test_intervals_that_the_source_left_unset_are_usable(name, prediction):
    path = PATHS[name.lower()]
    unset = [row for row in interval_rows(name, prediction) if math.isnan(row["t0"]) or math.isnan(row["t1"])]
    assert unset or (prediction == "velocity" and name != "VP")
    for row in unset:
        assert row["eval"] and math.isnan(row["sample_eps"])
        margin = path.default_margin(prediction, training=False, form=form_of(row))
        assert margin == 1e-3  # what the source evidently meant
        t0, t1 = interval_of(row, name, prediction, margin)
        assert t0 in (0, margin) and t1 in (1 - margin, 1 - row["last_step_size"])


@every_setting
def test_default_training_margin_is_the_recorded_one(name, prediction):
    held = {row["train_eps"] for row in interval_rows(name, prediction) if math.isnan(row["train_eps_arg"])}
    assert held == {PATHS[name.lower()].default_margin(prediction, training=True)}


# ends of the time axis


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_only_sbdm_needs_a_margin_with_a_velocity_network(path):
    assert PATHS[path].default_margin("velocity", training=True) == 0
    assert PATHS[path].default_margin("velocity", training=False) == 0
    assert PATHS[path].default_margin("velocity", training=False, form="sigma") == 0
    assert PATHS[path].default_margin("velocity", training=False, form="sbdm") == 1e-3
    assert PATHS[path].time_interval("velocity", 0.2) == (0, 1)
    assert PATHS[path].time_interval("velocity", 0.2, form="sigma") == (0, 0.8)
    assert PATHS[path].time_interval("velocity", 0.2, form="sbdm", last_step_size=0.1) == (0.2, 0.9)


@every_path
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("form", [None, *FORMS])
def test_everything_is_finite_within_the_default_interval(path, prediction, form):
    interpolant = Interpolant(PATHS[path])
    margin = PATHS[path].default_margin(prediction, training=False, form=form)
    interval = PATHS[path].time_interval(prediction, margin, form=form, last_step_size=0.0 if form is None else 0.04)
    t = torch.tensor(interval)
    output, x = torch.ones(2, 4), torch.full((2, 4), 0.5)
    velocity = interpolant.to_velocity(output, x, t, prediction)
    assert velocity.isfinite().all()
    if form is not None:
        assert interpolant.diffusion(t, form).isfinite().all() and (interpolant.diffusion(t, form) >= 0).all()
        assert interpolant.estimates(velocity, x, t, "velocity").score.isfinite().all()


# closed forms


@every_path
def test_noise_is_at_zero_and_data_at_one(path):
    data, noise, _ = point(2)
    interpolant = Interpolant(PATHS[path])
    at = torch.tensor([0.0, 1.0], dtype=torch.float64)
    if path != "vp":
        close(interpolant.point(data, noise, at), torch.stack([noise[0], data[1]]), 1e-12)
    else:  # the noise end of VP keeps alpha = exp(-(beta_min + beta_max) / 4)
        start = math.exp(-0.25 * (VP_BETA_MIN + VP_BETA_MAX))
        expected = start * data[0] + math.sqrt(1 - start**2) * noise[0]
        close(interpolant.point(data, noise, at), torch.stack([expected, data[1]]), 1e-12)


@every_path
def test_derivatives_are_those_of_the_coefficients(path):
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64, requires_grad=True)
    c = PATHS[path].coefficients(t)
    for value, derivative in ((c.alpha, c.d_alpha), (c.sigma, c.d_sigma), (c.alpha.log(), c.d_log_alpha)):
        (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True, create_graph=False)
        close(derivative.detach(), expected, 1e-9)


@pytest.mark.parametrize("path", ["gvp", "vp"])
def test_variance_is_preserved(path):
    c = PATHS[path].coefficients(torch.linspace(0.01, 0.99, 25, dtype=torch.float64))
    close(c.alpha**2 + c.sigma**2, torch.ones(25, dtype=torch.float64), 1e-12)


@every_path
def test_single_precision_holds_close_to_both_ends(path):
    t = torch.tensor([1e-5, 1e-3, 1 - 1e-3, 1 - 2.0**-17])
    single, double = PATHS[path].coefficients(t), PATHS[path].coefficients(t.double())
    for field in fields(Coefficients):
        expected = getattr(double, field.name)
        torch.testing.assert_close(getattr(single, field.name).double(), expected, rtol=5e-3, atol=1e-7)


@every_path
def test_velocity_is_the_derivative_of_the_point(path):
    data, noise, t = point()
    interpolant = Interpolant(PATHS[path])
    _, expected = torch.autograd.functional.jvp(lambda t: interpolant.point(data, noise, t), t, torch.ones_like(t))
    close(interpolant.velocity(data, noise, t), expected, 1e-10)


@every_path
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_gives_back_the_four_true_quantities(path, prediction):
    data, noise, t = point(9)
    interpolant = Interpolant(PATHS[path])
    x = interpolant.point(data, noise, t)
    truth = {
        "velocity": interpolant.velocity(data, noise, t),
        "noise": noise,
        "score": -noise / interpolant.over(t, x).sigma,
        "data": data,
    }
    estimates = interpolant.estimates(truth[prediction], x, t, prediction)
    for name, expected in truth.items():
        close(getattr(estimates, name), expected, 1e-10)
    close(interpolant.to_velocity(truth[prediction], x, t, prediction), truth["velocity"], 1e-10)


@every_path
@pytest.mark.parametrize("start", PREDICTIONS)
@pytest.mark.parametrize("via", PREDICTIONS)
def test_round_trip_of_an_arbitrary_output(path, start, via):
    x, output, t = point(9, seed=1)
    interpolant = Interpolant(PATHS[path])
    there = getattr(interpolant.estimates(output, x, t, start), via)
    close(getattr(interpolant.estimates(there, x, t, via), start), output, 1e-9)


def test_diffusion_forms_by_hand():
    t = torch.tensor([0.25, 0.5], dtype=torch.float64)
    path = Interpolant(Linear())
    half = math.sqrt(0.5)
    expected = {
        "constant": [2, 2],
        "sbdm": [6, 2],  # norm (1 - t) / t
        "sigma": [1.5, 1],
        "linear": [1.5, 1],
        "decreasing": [0.25 * (2 * half + 1) ** 2, 0.25],
        "increasing-decreasing": [1, 2],
    }
    assert set(expected) == set(FORMS)
    for form, values in expected.items():
        close(path.diffusion(t, form, 2.0), torch.tensor(values, dtype=torch.float64), 1e-12)
    assert not torch.allclose(
        Interpolant(PATHS["gvp"]).diffusion(t, "sigma"), Interpolant(PATHS["gvp"]).diffusion(t, "linear")
    )


# times for each token


@every_path
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_time_for_each_token_is_each_token_alone(path, prediction):
    generator = torch.Generator().manual_seed(2)
    data, noise, output = torch.randn(3, 4, 5, 3, generator=generator, dtype=torch.float64)
    t = 0.05 + 0.9 * torch.rand(4, 5, generator=generator, dtype=torch.float64)
    interpolant = Interpolant(PATHS[path])
    x = interpolant.point(data, noise, t)
    tokens = [value.flatten(0, 1) for value in (data, noise, output, x)]
    close(x.flatten(0, 1), interpolant.point(*tokens[:2], t.flatten()), 1e-12)
    close(interpolant.velocity(data, noise, t).flatten(0, 1), interpolant.velocity(*tokens[:2], t.flatten()), 1e-12)
    together = interpolant.estimates(output, x, t, prediction)
    alone = interpolant.estimates(tokens[2], tokens[3], t.flatten(), prediction)
    for field in fields(together):
        close(getattr(together, field.name).flatten(0, 1), getattr(alone, field.name), 1e-12)


@every_path
def test_a_backbone_may_lay_times_out_its_own_way(path):
    data, noise, _ = point()
    t = torch.linspace(0.1, 0.9, 5 * 2, dtype=torch.float64).view(5, 2)  # one time for each index of the last axis
    own = Interpolant(PATHS[path], expand=lambda t, x: t[:, None, :])
    standard = Interpolant(PATHS[path])
    expected = standard.point(data.transpose(1, 2), noise.transpose(1, 2), t).transpose(1, 2)
    close(own.point(data, noise, t), expected, 1e-12)


def test_one_time_repeated_for_each_token_is_a_time_for_the_sample():
    data, noise, t = point()
    path = Interpolant(PATHS["gvp"])
    assert torch.equal(path.point(data, noise, t), path.point(data, noise, t[:, None].expand(5, 3)))


# refusals


def test_refusals_name_the_value_and_the_allowed_set():
    x, t = torch.zeros(2, 3), torch.full((2,), 0.5)
    path = Interpolant(Linear())
    with pytest.raises(ValueError, match=r"objective\.path is 'cosine'.*linear.*gvp.*vp.*name: cosine"):
        build_path("cosine")
    with pytest.raises(ValueError, match=r"objective\.prediction is 'epsilon'.*velocity.*noise.*score.*data"):
        path.estimates(x, x, t, "epsilon")
    with pytest.raises(ValueError, match=r"objective\.prediction is 'epsilon'"):
        Linear().time_interval("epsilon", 0.0)
    with pytest.raises(ValueError, match=r"sampler\.diffusion_form is 'SBDM'.*sbdm"):
        path.diffusion(t, "SBDM")


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 1)])
def test_a_time_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match="does not match the leading axes"):
        broadcast_time(torch.zeros(shape), torch.zeros(2, 3))

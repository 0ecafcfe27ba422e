"""AdamW against its published equations, its schedule, clipping, and a state that survives a file."""

import math

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from core.schema import strict
from core.train.optimizer import Optimizer, OptimizerConfig
from tests.rows import every_row


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def backward(model, step):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    (model(x) ** 2).mean().backward()


def train(model, optimizer, first, last):
    for step in range(first, last):
        backward(model, step)
        optimizer.gradient_norm()
        optimizer.step(1e-2)


def test_steps_follow_the_equations_of_adamw():
    config = OptimizerConfig(betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    model = network()
    optimizer = Optimizer(model, config)
    weight = model[0].weight.detach().double().clone()
    mean = square = torch.zeros_like(weight)
    for step, lr in enumerate((1e-2, 3e-3, 5e-2), start=1):
        backward(model, step)
        gradient = model[0].weight.grad.double()
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        unbiased = mean / (1 - 0.8**step), square / (1 - 0.95**step)
        weight = weight * (1 - lr * 0.1) - lr * unbiased[0] / (unbiased[1].sqrt() + 1e-3)
        optimizer.step(lr)
        torch.testing.assert_close(model[0].weight.detach().double(), weight, atol=1e-6, rtol=1e-5)
        assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_parameters_are_left_out():
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = Optimizer(model, OptimizerConfig(weight_decay=0.5))
    train(model, optimizer, 0, 2)
    assert set(optimizer.named) == {"2.weight", "2.bias"}
    assert torch.equal(model[0].weight, before)


def test_the_norm_is_global_and_taken_before_clipping():
    model = network()
    backward(model, 0)
    flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    expected = flat.norm()
    free, clipped = (
        Optimizer(model, OptimizerConfig()),
        Optimizer(model, OptimizerConfig(clip_norm=float(expected / 4))),
    )
    torch.testing.assert_close(free.gradient_norm(), expected)
    torch.testing.assert_close(clipped.gradient_norm(), expected)
    after = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    torch.testing.assert_close(after, flat / 4, atol=1e-6, rtol=1e-4)


def test_gradients_below_the_limit_are_not_scaled_and_one_that_is_not_finite_shows_in_the_norm():
    model = network()
    backward(model, 0)
    before = model[0].weight.grad.clone()
    Optimizer(model, OptimizerConfig(clip_norm=1e3)).gradient_norm()
    assert torch.equal(model[0].weight.grad, before)
    model[2].bias.grad[0] = math.nan
    assert not torch.isfinite(Optimizer(model, OptimizerConfig()).gradient_norm())


def test_a_saved_state_continues_bit_by_bit():
    model = network()
    optimizer = Optimizer(model, OptimizerConfig(weight_decay=0.1))
    train(model, optimizer, 0, 3)
    weights, state = model.state_dict(), load(save(optimizer.state_dict()))
    assert state.keys() == {
        f"{kind}.{name}" for kind in ("step", "exp_avg", "exp_avg_sq") for name, _ in model.named_parameters()
    }
    other = network(seed=1)
    other.load_state_dict(weights)
    resumed = Optimizer(other, OptimizerConfig(weight_decay=0.1))
    resumed.load_state_dict(state)
    train(model, optimizer, 3, 6)
    train(other, resumed, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    forgetful = network(seed=1)
    forgetful.load_state_dict(weights)
    train(forgetful, Optimizer(forgetful, OptimizerConfig(weight_decay=0.1)), 3, 6)
    assert not torch.equal(forgetful[0].weight, other[0].weight), "the state does not matter here"


def test_a_state_of_other_parameters_is_refused():
    model = network()
    optimizer = Optimizer(model, OptimizerConfig())
    train(model, optimizer, 0, 1)
    state = {key: value for key, value in optimizer.state_dict().items() if not key.endswith("2.bias")}
    fresh = Optimizer(network(), OptimizerConfig())
    with pytest.raises(ValueError, match=r"belongs to other parameters: \['2.bias'\]"):
        fresh.load_state_dict(state)
    assert fresh.state_dict() == {}
    fresh.load_state_dict({})


# --- the learning rate


def test_warm_up_is_linear_up_to_a_constant_rate():
    config = OptimizerConfig(lr=1.0, warmup_steps=4)
    assert [config.lr_at(step, 100) for step in (*range(6), 50, 99, 1000)] == [0.25, 0.5, 0.75, *[1.0] * 6]


def test_a_cosine_falls_from_the_rate_to_zero_after_the_warm_up():
    config = OptimizerConfig(lr=2.0, warmup_steps=10, schedule="cosine")
    assert config.lr_at(9, 110) == 2.0
    assert config.lr_at(10, 110) == 2.0
    assert config.lr_at(60, 110) == pytest.approx(1.0)
    assert config.lr_at(35, 110) == pytest.approx(1 + math.cos(math.pi / 4))
    assert 0 < config.lr_at(109, 110) < 1e-2
    assert config.lr_at(110, 110) == pytest.approx(0)
    assert config.lr_at(500, 110) == pytest.approx(0)


@every_row("schedule", ["constant", "cosine"])
def test_a_warm_up_longer_than_the_run_is_no_error(schedule):
    rates = [OptimizerConfig(lr=1.0, warmup_steps=20, schedule=schedule).lr_at(step, 10) for step in range(10)]
    assert rates == [(step + 1) / 20 for step in range(10)]


@every_row(
    ("values", "message"),
    [
        ({"lr": 0}, "optimizer.lr is 0.0; it must be positive"),
        ({"betas": [0.9, 1.0]}, r"optimizer.betas is \(0.9, 1.0\)"),
        ({"clip_norm": -1}, "optimizer.clip_norm is -1.0"),
        ({"weight_decay": -1}, "optimizer.weight_decay"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"eps": 0}, "optimizer.eps positive"),
        ({"schedule": "linear"}, r"schedule' is 'linear'; allowed: \['constant', 'cosine'\]"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        strict(OptimizerConfig, values, "optimizer")

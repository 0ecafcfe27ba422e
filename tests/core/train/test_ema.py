"""Averages of the weights: their equations, their config, what is saved of them, and sharded weights."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from core.processes.sharding import local, whole
from core.schema import strict
from core.train.ema import EMA, MAX_WIDTH, EMAConfig, power_exponent, relative_width
from tests.rows import every_row


def linear(value=0.0):
    module = nn.Linear(2, 1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)
    return module


def constant(model, decay):
    return EMA(model, EMAConfig([decay]))


def primary(ema):
    return ema.state_dicts()["ema"]


def test_an_update_keeps_the_share_of_the_decay():
    model = linear(0.0)
    ema = constant(model, 0.75)
    model.load_state_dict(linear(8.0).state_dict())
    ema.update(1)
    assert primary(ema)["weight"].tolist() == [[2.0, 2.0]]
    ema.update(2)
    assert primary(ema)["bias"].tolist() == [3.5]
    assert model.weight.tolist() == [[8.0, 8.0]]


@every_row("device", ["model", "cpu"])
def test_the_average_starts_as_a_copy_and_not_as_a_view(device):
    model = linear(1.0)
    ema = EMA(model, EMAConfig([0.9], device=device))
    model.load_state_dict(linear(5.0).state_dict())
    assert primary(ema)["weight"].tolist() == [[1.0, 1.0]]


def test_the_weights_come_back_even_after_an_error():
    model = linear(1.0)
    ema = constant(model, 0.9)
    model.load_state_dict(linear(5.0).state_dict())
    parameter = model.weight
    with pytest.raises(KeyError), ema.applied():
        assert model.weight.tolist() == [[1.0, 1.0]]
        raise KeyError
    assert model.weight.tolist() == [[5.0, 5.0]]
    assert model.weight is parameter, "an optimizer holds the parameter itself"
    assert primary(ema)["weight"].tolist() == [[1.0, 1.0]]


def test_an_average_of_another_model_or_before_the_first_step_is_refused():
    ema = constant(linear(), 0.9)
    for state in ({"weight": torch.zeros(1, 2)}, {"weight": torch.zeros(1, 2), "bias": torch.zeros(2)}):
        with pytest.raises(ValueError, match=r"average 'ema' \(ema.decays\) has no 'bias' of shape \(1,\)"):
            ema.load_state_dicts({"ema": state})
    with pytest.raises(ValueError, match="step is 0"):
        ema.update(0)


# --- the config


@every_row(
    ("values", "message"),
    [
        ({"decays": [-0.1]}, r"ema.decays is .*; it must lie in \[0, 1\)"),
        ({"decays": [1.0]}, r"ema.decays is .*; it must lie in \[0, 1\)"),
        ({"decays": [math.nan]}, r"'ema.decays\[0\]' is nan; needed: a finite number"),
        ({"widths": [0.0]}, r"ema.widths is 0.0; .*\(0, 0.28\]"),
        ({"widths": [0.1, 0.3]}, r"ema.widths is 0.3; .*\(0, 0.28\]"),
        ({"decays": []}, "ema.decays and ema.widths are .* at least one"),
        ({"decays": [0.9, 0.99, 0.9]}, "ema.decays is .* once"),
        ({"widths": [0.1, 0.1]}, "ema.widths is .* once"),
        ({"device": "gpu"}, "ema.device.* 'gpu'"),
        ({"snapshot_every": -1}, "ema.snapshot_every is -1"),
        ({"snapshot_every": 10}, r"ema.snapshot_every is 10, but ema.widths is \[\]"),
    ],
)
def test_a_config_that_cannot_be_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        strict(EMAConfig, values, "ema")


def test_the_first_average_is_the_primary_one():
    ema = EMA(linear(), EMAConfig([0.9999, 0.999, 0.999999999], [0.1, 0.05]))
    assert ema.names == ["ema", "ema_decay0.999", "ema_decay0.999999999", "ema_width0.1", "ema_width0.05"]
    assert list(ema.state_dicts()) == ema.names
    assert ema.widths == {"ema_width0.1": 0.1, "ema_width0.05": 0.05}
    assert EMA(linear(), EMAConfig([], [0.1, 0.05])).widths == {"ema": 0.1, "ema_width0.05": 0.05}


def test_snapshots_are_due_when_asked_for():
    ema = EMA(linear(), EMAConfig(widths=[0.1], snapshot_every=3))
    assert [step for step in range(1, 10) if ema.snapshot_due(step)] == [3, 6, 9]
    assert not any(constant(linear(), 0.9).snapshot_due(step) for step in range(10))


# --- several averages of weights that move

CONFIG = EMAConfig([0.9, 0.5], [0.1, 0.25])


def network(seed=0):
    """Two layers and a buffer, (B, 3) -> (B, 2)."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    model.register_buffer("table", torch.arange(3.0))
    return model


def walk(model, emas, steps=20, done=0):
    """Weights that move at random, the same way every time; the weights (steps, ...) of each parameter."""
    history = {name: [] for name, _ in model.named_parameters()}
    for step in range(done + 1, steps + 1):
        for i, (name, parameter) in enumerate(model.named_parameters()):
            generator = torch.Generator().manual_seed(1000 * step + i)
            with torch.no_grad():  # a group of one process has every whole tensor as its part
                part = local(parameter)
                part += 0.1 * torch.randn(part.shape, generator=generator).to(part.device)
            history[name].append(part.detach().clone())
        for ema in emas:
            ema.update(step)
    return history


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(whole(a[name]).cpu(), whole(b[name]).cpu()) for name in a)


def assert_same_groups(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert same(ours[name], theirs[name]), name


@pytest.fixture(scope="module")
def walked():
    """The averages of `CONFIG` after a walk."""
    model = network()
    ema = EMA(model, CONFIG)
    walk(model, [ema])
    return ema


def test_several_averages_are_what_each_is_alone(walked):
    model = network()
    alone = [EMA(model, config) for config in (EMAConfig([0.9]), EMAConfig([0.5]), EMAConfig([], [0.1]))]
    alone.append(EMA(model, EMAConfig([], [0.25])))
    walk(model, alone)
    for ema, (_, together) in zip(alone, walked.state_dicts().items(), strict=True):
        assert same(primary(ema), together)


@every_row("width", [0.02, 0.1, MAX_WIDTH])
def test_a_power_function_weighs_the_history_with_its_profile(width):
    """Step k counts the integral of the profile from k - 1 to k: (k^g - (k - 1)^g) / n^g with g = gamma + 1."""
    model, steps = network(), 60
    ema = EMA(model, EMAConfig([], [width]))
    history = walk(model, [ema], steps)
    edges = (np.arange(steps + 1) / steps) ** (power_exponent(width) + 1)
    weights = torch.from_numpy(np.diff(edges))
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    for name, values in history.items():
        expected = torch.tensordot(weights, torch.stack(values).double(), dims=1)
        torch.testing.assert_close(primary(ema)[name].double(), expected, atol=2e-6, rtol=0)
        assert (expected - values[-1]).abs().max() > 1e-3, "the average is not the last weights"


@every_row("width", [0.05, 0.1, 0.25])
def test_the_width_is_the_relative_deviation_of_the_profile(width):
    k = (np.arange(1_000_000) + 0.5) / 1_000_000
    profile = (power_exponent(width) + 1) * k ** power_exponent(width)
    mean = (profile * k).mean()
    assert profile.mean() == pytest.approx(1, rel=1e-6)
    assert relative_width(power_exponent(width)) == pytest.approx(width, rel=1e-9)
    assert math.sqrt((profile * (k - mean) ** 2).mean()) == pytest.approx(width, rel=1e-6)


def test_a_power_function_forgets_the_start():
    model = linear(100.0)
    ema = EMA(model, EMAConfig([], [0.25]))
    model.load_state_dict(linear(1.0).state_dict())
    for step in (1, 2, 3):
        ema.update(step)
        assert primary(ema)["weight"].tolist() == [[1.0, 1.0]]


def test_averages_on_the_cpu_are_those_beside_the_weights(walked):
    model = network()
    ema = EMA(model, EMAConfig(CONFIG.decays, CONFIG.widths, device="cpu"))
    walk(model, [ema])
    assert_same_groups(ema.state_dicts(), walked.state_dicts())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_averages_of_weights_on_a_gpu_live_on_the_cpu():
    model, beside = network().cuda(), network().cuda()
    ema, other = EMA(model, EMAConfig(CONFIG.decays, CONFIG.widths, device="cpu")), EMA(beside, CONFIG)
    walk(model, [ema])
    walk(beside, [other])
    for name, group in ema.state_dicts().items():
        for key, value in group.items():
            assert value.device.type == ("cuda" if key == "table" else "cpu")
            torch.testing.assert_close(value.cpu(), other.state_dicts()[name][key].cpu(), rtol=1e-6, atol=1e-6)
    own, held = {key: value.clone() for key, value in model.state_dict().items()}, torch.cuda.memory_allocated()
    with ema.applied():
        assert torch.cuda.memory_allocated() == held
        assert same(model.state_dict(), primary(ema))
    assert same(model.state_dict(), own)


def test_any_average_can_be_applied(walked):
    own = {name: value.clone() for name, value in walked.model.state_dict().items()}
    for name, group in walked.state_dicts().items():
        with walked.applied(name):
            assert same(walked.model.state_dict(), group)
            assert not same(group, own)
        assert same(walked.model.state_dict(), own)
    with pytest.raises(ValueError, match=r"no average 'ema_decay0.1'; there are ema, ema_decay0.5, ema_width0.1"):
        walked.applied("ema_decay0.1").__enter__()


def test_a_run_that_stopped_goes_on_with_the_same_averages(walked):
    model = network()
    ema = EMA(model, CONFIG)
    walk(model, [ema], steps=7)
    saved = {name: {key: value.clone() for key, value in state.items()} for name, state in ema.state_dicts().items()}
    resumed = EMA(model, CONFIG)
    resumed.load_state_dicts({"model": {}, **saved})
    assert_same_groups(resumed.state_dicts(), saved)
    walk(model, [resumed], done=7)
    assert_same_groups(resumed.state_dicts(), walked.state_dicts())


@every_row("missing", ["ema_decay0.5", "ema_width0.1"])
def test_an_average_that_was_not_saved_is_refused_before_any_is_taken(walked, missing):
    ema = EMA(network(seed=1), CONFIG)
    before = {name: value.clone() for name, value in primary(ema).items()}
    groups = {name: state for name, state in walked.state_dicts().items() if name != missing}
    key = "ema.decays" if "decay" in missing else "ema.widths"
    with pytest.raises(ValueError, match=f"no average '{missing}', its averages: ema, .*; {key} was changed"):
        ema.load_state_dicts(groups)
    assert same(primary(ema), before)


def test_tied_parameters_have_one_average_under_each_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    ema = constant(model, 0.5)
    start = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1)
    ema.update(1)
    for name in ("0.weight", "1.weight"):
        torch.testing.assert_close(primary(ema)[name], start + 0.5)


# --- weights in parts


@pytest.fixture
def mesh():
    """One process that counts as a group of one."""
    from torch.distributed.device_mesh import init_device_mesh

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def shard(model, mesh):
    from torch.distributed.fsdp import fully_shard

    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def test_averages_of_sharded_weights_are_those_of_whole_ones(walked, mesh):
    model = shard(network(), mesh)
    ema = EMA(model, CONFIG)
    walk(model, [ema])
    groups = ema.state_dicts()
    assert isinstance(groups["ema"]["0.weight"], DTensor)
    assert groups["ema"]["0.weight"].placements == model[0].weight.placements
    assert_same_groups(groups, walked.state_dicts())
    other = EMA(shard(network(seed=1), mesh), CONFIG)
    other.load_state_dicts(
        {name: {key: value.clone() for key, value in walked.state_dicts()[name].items()} for name in groups}
    )
    assert_same_groups(other.state_dicts(), walked.state_dicts())
    with pytest.raises(ValueError, match=r"no average 'ema_width0.1'"):
        other.load_state_dicts({name: state for name, state in groups.items() if name != "ema_width0.1"})


def test_a_sharded_model_computes_with_the_weights_it_was_given(walked, mesh):
    """Also with those that FSDP2 keeps gathered after a forward pass."""
    model, x = shard(network(), mesh), torch.randn(4, 3)
    ema = EMA(model, CONFIG)
    walk(model, [ema])
    with torch.no_grad():
        own = walked.model(x)
        assert torch.equal(model(x), own)
        for name in ema.names:
            with walked.applied(name):
                expected = walked.model(x)
            with pytest.raises(KeyError), ema.applied(name):
                assert torch.equal(model(x), expected)
                raise KeyError
            assert torch.equal(model(x), own)

"""Five recorded optimizer steps, reproduced by our own training step, and the averages they leave."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from core.alignment import LayerSync
from core.contracts import Batch
from core.ema import EMA, EMAConfig
from core.objective import FlowMatching, ObjectiveConfig
from core.optimizer import Optimizer, OptimizerConfig
from core.step import TrainingLoss
from image.backbone import SiT
from image.conditioning import LabelConditioning, LabelConfig
from image.tokenizer import PixelsConfig, build_tokenizer
from tests.golden_files import load_golden, with_prefix

TENSORS, FACTS = load_golden("ema")
# A weight moves by lr in a step, whatever its gradient: an error of this size is a tenth of a per mille of one step.
WEIGHT_TOLERANCE = {"atol": 1e-4 * FACTS["lr"], "rtol": 1e-6}


@dataclass
class RecordedRandom:
    """The noise and the times of one recorded step, in place of random ones."""

    step: int

    def normal(self, stream, shape):
        assert stream == "noise"
        return TENSORS["x0"][self.step].reshape(shape)

    def uniform(self, stream, shape):
        assert stream == "time"
        return TENSORS["t"][self.step].reshape(shape)


class Run:
    """Our training step on the recorded weights and data."""

    def __init__(self):
        sizes = FACTS["model"]
        depths = (sizes["encoder_depth"], sizes["gt_encoder_depth"])
        self.model = SiT(**{name: value for name, value in sizes.items() if "encoder_depth" not in name}).train()
        self.model.load_state_dict(with_prefix(TENSORS, "state."))
        self.loss = TrainingLoss(
            tokenizer=build_tokenizer(PixelsConfig(), "cpu"),
            conditioning=LabelConditioning(LabelConfig(drop=0.0), sizes["num_classes"]),
            network=self.model,
            backbone=self.model,
            objective=FlowMatching(ObjectiveConfig(), self.model.expand),
            alignment=LayerSync(self.model, [depths], FACTS["reg_weight"]),
        )
        options = {name: FACTS[name] for name in ("lr", "eps", "weight_decay")}
        self.optimizer = Optimizer(self.model, OptimizerConfig(betas=tuple(FACTS["betas"]), **options))
        self.emas = {decay: EMA(self.model, decay) for decay in FACTS["decays"]}
        self.traces = {name: [] for name in ("loss", "diff_loss", "reg", "grad_norm")}

    def backward(self, step):
        x1, y = TENSORS["x1"][step], TENSORS["y"][step]
        losses = self.loss(Batch(media=x1, condition=y, index=torch.arange(len(y))), RecordedRandom(step), step)
        losses.total.backward()
        self.traces["loss"].append(losses.total.item())
        self.traces["diff_loss"].append(losses.flow.mean().item())
        self.traces["reg"].append(-next(iter(losses.similarity.values())).item())
        self.traces["grad_norm"].append(self.optimizer.gradient_norm().item())

    def update(self):
        self.optimizer.step(FACTS["lr"])
        for ema in self.emas.values():
            ema.update()

    def named(self):
        return {name: value for name, value in self.model.named_parameters() if name in FACTS["named"]}


@pytest.fixture(scope="module")
def run():
    """All recorded steps made."""
    run = Run()
    for step in range(len(TENSORS["x1"])):
        run.backward(step)
        run.update()
    return run


@pytest.mark.parametrize("name", ["loss", "diff_loss", "reg", "grad_norm"])
def test_the_numbers_of_every_step_equal_the_recorded_ones(run, name):
    recorded = TENSORS[f"trace.{name}"]
    ours = torch.tensor(run.traces[name], dtype=recorded.dtype)
    torch.testing.assert_close(ours, recorded, atol=1e-5, rtol=1e-5)


def test_the_first_gradient_and_the_first_step_equal_the_recorded_ones():
    run = Run()
    run.backward(0)
    recorded = with_prefix(TENSORS, "grad_step0.")
    assert set(recorded) == set(FACTS["named"])
    for name, parameter in run.named().items():
        torch.testing.assert_close(parameter.grad, recorded[name], atol=1e-5, rtol=1e-3)
    run.update()
    for name, weight in with_prefix(TENSORS, "weight_step0.").items():
        torch.testing.assert_close(run.named()[name].detach(), weight, **WEIGHT_TOLERANCE)


def test_the_weights_after_all_steps_equal_the_recorded_ones(run):
    recorded = with_prefix(TENSORS, "final.")
    assert set(recorded) == set(FACTS["named"])
    for name, weight in recorded.items():
        torch.testing.assert_close(run.named()[name].detach(), weight, **WEIGHT_TOLERANCE)
        assert (weight - TENSORS[f"state.{name}"]).abs().max() > 2 * FACTS["lr"], "the weights did not move"


@pytest.mark.parametrize("decay", FACTS["decays"])
def test_the_averages_after_all_steps_equal_the_recorded_ones(run, decay):
    ours = run.emas[decay].state_dict()
    recorded = with_prefix(TENSORS, f"ema{decay}.")
    assert set(recorded) == set(FACTS["named"])
    for name, average in recorded.items():
        torch.testing.assert_close(ours[name], average, atol=1e-6, rtol=0)  # float32 rounding of weights of size 1


def test_the_recorded_averages_tell_a_right_decay_from_a_wrong_one(run):
    decays = sorted(FACTS["decays"])
    name = FACTS["named"][0]
    recorded = [TENSORS[f"ema{decay}.{name}"] for decay in decays]
    assert (recorded[0] - recorded[1]).abs().max() > 1e-4


def test_the_average_has_the_keys_of_the_model_and_leaves_its_buffers(run):
    ema = run.emas[FACTS["decays"][0]]
    assert ema.state_dict().keys() == run.model.state_dict().keys()
    assert torch.equal(ema.state_dict()["pos_embed"], run.model.pos_embed)


# --- the average itself


def linear(value=0.0):
    module = nn.Linear(2, 1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)
    return module


def test_an_update_keeps_the_share_of_the_decay():
    model = linear(0.0)
    ema = EMA(model, 0.75)
    model.load_state_dict(linear(8.0).state_dict())
    ema.update()
    assert ema.state_dict()["weight"].tolist() == [[2.0, 2.0]]
    ema.update()
    assert ema.state_dict()["bias"].tolist() == [3.5]
    assert model.weight.tolist() == [[8.0, 8.0]]


def test_a_decay_of_zero_follows_the_weights_at_once():
    model = linear(1.0)
    ema = EMA(model, 0.0)
    model.load_state_dict(linear(5.0).state_dict())
    ema.update()
    assert torch.equal(ema.state_dict()["weight"], model.weight)


def test_the_average_starts_as_a_copy_and_not_as_a_view():
    model = linear(1.0)
    ema = EMA(model, 0.9)
    model.load_state_dict(linear(5.0).state_dict())
    assert ema.state_dict()["weight"].tolist() == [[1.0, 1.0]]


def test_the_weights_come_back_even_after_an_error():
    model = linear(1.0)
    ema = EMA(model, 0.9)
    model.load_state_dict(linear(5.0).state_dict())
    parameter = model.weight
    with pytest.raises(KeyError), ema.applied():
        assert model.weight.tolist() == [[1.0, 1.0]]
        raise KeyError
    assert model.weight.tolist() == [[5.0, 5.0]]
    assert model.weight is parameter, "an optimizer holds the parameter itself"
    assert ema.state_dict()["weight"].tolist() == [[1.0, 1.0]]


def test_a_saved_average_is_restored():
    ema, other = EMA(linear(3.0), 0.9), EMA(linear(0.0), 0.9)
    other.load_state_dict({name: value.clone() for name, value in ema.state_dict().items()})
    assert other.state_dict()["weight"].tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("change", [{"bias": None}, {"bias": torch.zeros(2)}])
def test_an_average_of_another_model_is_refused(change):
    ema = EMA(linear(), 0.9)
    state = {name: value for name, value in {**ema.state_dict(), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=r"no 'bias' of shape \(1,\)"):
        ema.load_state_dict(state)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_the_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"ema.decay is .*; it must lie in \[0, 1\)"):
        EMAConfig(decay)

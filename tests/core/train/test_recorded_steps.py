"""Five recorded optimizer steps, reproduced by our own training step, and the averages they leave."""

from dataclasses import dataclass

import pytest
import torch

from core.alignment.layersync import LayerSyncAlignment
from core.conditioning.labels import LabelConditioning, LabelConfig
from core.contracts import Batch
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.step import TrainingLoss
from core.train.ema import EMA, EMAConfig
from core.train.optimizer import Optimizer, OptimizerConfig
from image.backbone import SiT
from image.tokenizer import PixelsConfig
from layersync import LayerSync
from tests.golden_files import load_golden, with_prefix
from tests.rows import every_row

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
            tokenizer=PixelsConfig().build("cpu"),
            conditioning=LabelConditioning(LabelConfig(drop=0.0), sizes["num_classes"]),
            network=self.model,
            backbone=self.model,
            objective=FlowMatching(ObjectiveConfig(), self.model.expand),
            alignment=LayerSyncAlignment(LayerSync(self.model, [depths], FACTS["reg_weight"])),
        )
        options = {name: FACTS[name] for name in ("lr", "eps", "weight_decay")}
        self.optimizer = Optimizer(self.model, OptimizerConfig(betas=tuple(FACTS["betas"]), **options))
        self.emas = {decay: EMA(self.model, EMAConfig([decay])) for decay in FACTS["decays"]}
        self.steps = 0
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
        self.steps += 1
        for ema in self.emas.values():
            ema.update(self.steps)

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


@every_row("name", ["loss", "diff_loss", "reg", "grad_norm"])
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


@every_row("decay", FACTS["decays"])
def test_the_averages_after_all_steps_equal_the_recorded_ones(run, decay):
    """Tables are the model's own. The recorded averages of two decays differ by more than the tolerance."""
    ours, recorded = run.emas[decay].state_dicts()["ema"], with_prefix(TENSORS, f"ema{decay}.")
    assert ours.keys() == run.model.state_dict().keys()
    assert torch.equal(ours["pos_embed"], run.model.pos_embed)
    assert set(recorded) == set(FACTS["named"])
    for name, average in recorded.items():
        torch.testing.assert_close(ours[name], average, atol=1e-6, rtol=0)  # float32 rounding of weights of size 1
    others = [TENSORS[f"ema{other}.{FACTS['named'][0]}"] for other in FACTS["decays"] if other != decay]
    assert all((recorded[FACTS["named"][0]] - other).abs().max() > 1e-4 for other in others)

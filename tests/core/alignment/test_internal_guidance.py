"""Internal guidance: recorded losses, gradients and samples, and how the second prediction comes to be."""

from dataclasses import replace

import pytest
import torch

from core.alignment.internal_guidance import InternalGuidanceConfig
from core.contracts import Batch
from core.draws import StepRandom
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.flow.path import Interpolant, Linear
from core.flow.sampler import SamplerConfig, guide_internally
from core.latents.pixels import Pixels
from core.nets.layers import BlockOptions, LabelEmbedder
from core.nets.sit import Recipe, SiT
from core.step import TrainingLoss
from core.storage.weights import load_into
from motion.nets.mdm import MDM
from motion.nets.mdm import Recipe as MotionRecipe
from tests.core.alignment.parts import Recorded, Same, loss_parts, tiny
from tests.golden_files import load_golden, with_prefix
from video.nets.latte import Latte

CLOSE = {"atol": 2e-5, "rtol": 2e-4}


def other_way(model):
    """The model as a network of data - noise, at a time that is 1 at the data: as recorded it is the reverse."""

    class OtherWay(SiT):
        def embed_condition(self, t, condition):
            return super().embed_condition(1 - t, condition)

        def as_latents(self, values, x):
            return -super().as_latents(values, x)

        def all_channels(self, *given):
            return -super().all_channels(*given)

    model.__class__ = OtherWay
    return model


@pytest.fixture
def recorded():
    """The recording's network with its second output layer, and what was recorded."""
    tensors, facts = load_golden("alignment2")
    sizes, state, ig = facts["model"], with_prefix(tensors, "ig.state."), with_prefix(tensors, "ig.")
    rows = len(state["y_embedder.embedding_table.weight"])
    model = SiT(
        (sizes["in_channels"], sizes["input_size"], sizes["input_size"]),
        Recipe(sizes["depth"], sizes["patch_size"], BlockOptions(sizes["hidden_size"], sizes["num_heads"])),
        lambda width: LabelEmbedder(rows - 1, width, null_row=True),
    )
    load_into(model, {k: v for k, v in state.items() if not k.startswith("final_layer_xr")}, "recording")
    method = InternalGuidanceConfig(facts["ig"]["mid_block"], facts["ig"]["weight"]).build(other_way(model))
    load_into(method.heads["output"], with_prefix(state, "final_layer_xr."), "recording")
    return model, method, ig, facts["ig"]


def test_losses_predictions_and_gradients_are_the_recorded_ones(recorded):
    model, method, ig, _ = recorded
    objective = FlowMatching(ObjectiveConfig(), model.expand)
    loss = TrainingLoss(Pixels(), Same(), model, model, objective, method)
    random = Recorded(noise=[ig["noise"]], time=[1 - ig["t"]])
    found = loss(Batch(ig["data"], ig["y"], torch.arange(4)), random, 0)
    torch.testing.assert_close(found.flow, ig["loss_final"], **CLOSE)
    torch.testing.assert_close(found.values["early_loss/1"], ig["loss_mid"].mean(), **CLOSE)
    torch.testing.assert_close(found.total, ig["loss_total"].squeeze(), **CLOSE)
    found.total.backward()
    for name, parameter in {
        "blocks.0.mlp.fc2.bias": model.blocks[0].mlp.fc2.bias,
        "final_layer.linear.bias": model.final_layer.linear.bias,
        "final_layer_xr.linear.weight": method.heads["output"].linear.weight,
    }.items():
        torch.testing.assert_close(parameter.grad, ig[f"grad.{name}"], **CLOSE)


def test_the_guided_velocity_is_the_recorded_one(recorded):
    model, method, ig, facts = recorded
    model.eval()
    with torch.no_grad():
        last, early = method.both(lambda: model(ig["input"], 1 - ig["t"], ig["y"]), ig["input"])
    torch.testing.assert_close(last, -ig["v_final"], **CLOSE)
    torch.testing.assert_close(early, -ig["v_mid"], **CLOSE)
    guided = guide_internally(last, early, ig["t"], facts["scale"], (0.0, 1.0))
    torch.testing.assert_close(guided, -ig["guided"], **CLOSE)


def test_samples_are_the_recorded_ones_alone_in_an_interval_and_with_classes(recorded):
    model, method, ig, facts = recorded
    model.eval()
    low, high = facts["ig_interval"]
    inside = {"internal_scale": facts["scale"], "internal_interval": (1 - high, 1 - low)}
    low, high = facts["cfg_interval"]
    classes = {"guidance_scale": facts["cfg_scale"], "guidance_interval": (1 - high, 1 - low)}
    plain = SamplerConfig(solver="euler_maruyama", num_steps=facts["num_steps"], last_step="mean", margin=0.0)
    changes = {"plain": {}, "ig": {"internal_scale": facts["scale"]}, "ig_interval": inside, "ig_cfg": inside | classes}
    y = ig["sde.y"]
    for name, keys in changes.items():
        sampler = replace(plain, **keys).build(Interpolant(Linear(), model.expand), "velocity")
        alone = keys.get("internal_scale", 1) == 1

        def network(x, t, labels, alone=alone):
            x, t = x.float(), t.float()
            both = method.both(lambda: model(x, t, labels).double(), x)
            return both[0] if alone else both

        random = Recorded(start=[ig["sde.init"].double()], sde=list(ig["sde.noise"]))
        found = sampler(network, tuple(ig["sde.init"].shape), y, torch.full_like(y, facts["null_label"]), random)
        torch.testing.assert_close(
            found, ig[f"sde.{name}"], atol=2e-4, rtol=2e-3, msg=lambda m, name=name: f"{name} {m}"
        )


def test_a_copy_on_the_last_block_has_the_flow_loss_of_every_prediction_and_backbone():
    """The objective's own target, weighting and mask, on any axes of tokens, behind a prefix, with learn_sigma."""
    block, generator = BlockOptions(24, 2), torch.Generator().manual_seed(1)

    def labels(width):
        return LabelEmbedder(3, width, null_row=True)

    padded = torch.arange(4) < torch.tensor([4, 2])[:, None]
    for make, mask in (
        (tiny, torch.arange(6) < torch.tensor([6, 4])[:, None]),
        (lambda: SiT((2, 6, 4), Recipe(3, 2, block, learn_sigma=True), labels), None),
        (lambda: Latte((2, 2, 4, 4), Recipe(3, (1, 2, 2), block), labels), padded.repeat(1, 2)),
        (lambda: MDM((2, 4), MotionRecipe(3, 24, 2, 32), actions=3), padded),
    ):
        for prediction in ("velocity", "data", "noise"):
            model = make()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            method = InternalGuidanceConfig(3).build(model)
            objective = FlowMatching(ObjectiveConfig(prediction=prediction), model.expand)
            loss = TrainingLoss(*loss_parts(model)[:4], objective, method)
            shape = getattr(model, "latent_shape", None) or (model.in_channels, *model.input_size)
            media = torch.randn(2, *shape, generator=generator)
            rows = Batch(media, torch.tensor([0, 2]), torch.arange(2), mask)
            found = loss(rows, StepRandom(0, 0, torch.device("cpu")), 0)
            torch.testing.assert_close(found.values["early_loss/3"], found.flow.mean())
            torch.testing.assert_close(found.total, 1.5 * found.flow.mean())
            copied, own = method.heads["output"].state_dict(), model.output_layer.state_dict()
            assert all(copied[name].data_ptr() != own[name].data_ptr() for name in own)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="internal_scale is -1"):
        SamplerConfig(internal_scale=-1.0)
    with pytest.raises(ValueError, match="internal_interval is"):
        SamplerConfig(internal_interval=(0.5, 0.5))

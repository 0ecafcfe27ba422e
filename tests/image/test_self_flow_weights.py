"""The published weights of Self-Flow: recorded outputs and samples, and how a file of their layout loads."""

import pytest
import torch
from einops import rearrange

from core.flow.path import Interpolant, Linear
from core.flow.sampler import Sampler, SamplerConfig
from core.storage.weights import load_into, load_weights
from image.backbone import SelfFlowConfig, SiTConfig
from layersync.hooks import LayerHooks
from tests.golden_files import load_golden, with_prefix

GOLDEN, FACTS = load_golden("self_flow")
MODEL = FACTS["model"]
SIDE, PATCH, CHANNELS = MODEL["input_size"], MODEL["patch_size"], MODEL["in_channels"]
SIZES = {"patch_size": PATCH, "depth": MODEL["depth"], "hidden_size": MODEL["hidden_size"]}
SIZES |= {"num_heads": MODEL["num_heads"], "learn_sigma": MODEL["learn_sigma"]}
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def on_grid(tokens):
    """Recorded tokens (B, N, C P P), channel slowest, as latents (B, C, Y, X)."""
    side = SIDE // PATCH
    return rearrange(tokens, "b (y x) (c p q) -> b c (y p) (x q)", y=side, x=side, p=PATCH, q=PATCH)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file of the published layout: names and shapes of its tensors, nothing around them."""
    file = tmp_path_factory.mktemp("published") / "selfflow_imagenet256.pt"
    torch.save(with_prefix(GOLDEN, "state."), file)
    return file


@pytest.fixture(scope="module")
def network(published):
    state = load_weights(published)
    config = SelfFlowConfig(**SIZES)
    classes = config.num_classes_in(state, str(published))
    assert classes == MODEL["num_classes"] - 1 == FACTS["null_label"]
    model = config.build((CHANNELS, SIDE, SIDE), classes)
    load_into(model, state, str(published))
    return model.eval()


@torch.no_grad()
def test_outputs_and_tokens_are_the_recorded_ones(network):
    """With a time of a sample and of each token; theirs runs the other way, and so does their output."""
    x, t = on_grid(GOLDEN["x"]), 1 - GOLDEN["t"]
    assert torch.equal(x, GOLDEN["latent"])
    hooks = LayerHooks(network, list(range(1, MODEL["depth"] + 1)))
    out = network(x, t, GOLDEN["y"])
    for number, tokens in enumerate(hooks.take().values()):
        torch.testing.assert_close(tokens, GOLDEN[f"block_out.{number}"], **CLOSE)
    torch.testing.assert_close(-out, on_grid(GOLDEN["out"]), **CLOSE)
    torch.testing.assert_close(-out, GOLDEN["out_latent"], **CLOSE)
    mixed = 1 - GOLDEN["two.tau"]
    out = network(on_grid(GOLDEN["two.student_in"]), mixed, GOLDEN["y"])
    for number, tokens in enumerate(hooks.take().values()):
        torch.testing.assert_close(tokens, GOLDEN[f"two.block_out.{number}"], **CLOSE)
    torch.testing.assert_close(-out, on_grid(GOLDEN["two.out"]), **CLOSE)
    hooks.remove()


class Recorded:
    """The recorded noise of a run: `start` first, then a row a step."""

    def __init__(self, rows):
        self.rows = iter(GOLDEN["sde.noise"][:, rows])

    def normal(self, stream, shape):
        return GOLDEN["sde.init"] if stream == "start" else on_grid(next(self.rows))


def test_samples_are_the_recorded_ones(network):
    """Without guidance; with it, and inside an interval, all four channels are guided."""
    facts, low, high = FACTS["sde"], *FACTS["guidance_interval"]
    assert (facts["method"], facts["form"], facts["last_step"]) == ("Euler", "sigma", "Mean")
    usual = {"solver": "euler_maruyama", "num_steps": facts["steps"], "last_step_size": facts["last_step_size"]}
    count, labels = len(GOLDEN["sde.y"]), GOLDEN["sde.y"]
    null = torch.full_like(labels, FACTS["null_label"])
    for key, options in {
        "unguided": {},
        "guided": {"guidance_scale": FACTS["cfg_scale"]},
        "guided_interval": {"guidance_scale": FACTS["cfg_scale"], "guidance_interval": (1 - high, 1 - low)},
    }.items():
        sampler = Sampler(SamplerConfig(**usual, **options), Interpolant(Linear()), "velocity")
        rows = slice(0, count) if key == "unguided" else slice(count, 2 * count)
        made = sampler(network, (count, CHANNELS, SIDE, SIDE), labels, null, Recorded(rows))
        torch.testing.assert_close(
            made, on_grid(GOLDEN[f"sde.{key}"][rows if key != "unguided" else slice(None)]), atol=1e-3, rtol=1e-3
        )


def test_the_plain_backbone_refuses_the_file(published):
    state = load_weights(published)
    model = SiTConfig(**SIZES).build((CHANNELS, SIDE, SIDE), MODEL["num_classes"] - 1)
    with pytest.raises(ValueError, match=r"another architecture.*projector.*x_embedder.proj.weight is \(32, 16\)"):
        load_into(model, state, str(published))


def test_its_own_checkpoints_and_those_of_sit_load(network):
    own = {name: value.clone() for name, value in network.state_dict().items()}
    for config in (SelfFlowConfig(**SIZES), SiTConfig(**SIZES)):
        again = config.build((CHANNELS, SIDE, SIDE), MODEL["num_classes"] - 1)
        load_into(again, own, "a checkpoint")
        assert all(torch.equal(value, own[name]) for name, value in again.state_dict().items())

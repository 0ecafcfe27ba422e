"""Latte against recorded numbers of the published program, and what its folds must not change."""

import argparse

import pytest
import torch
from einops import rearrange

from core.conditioning.labels import LabelConditioning, LabelConfig
from core.conditioning.none import Unconditional
from core.flow.sampler import guide
from core.nets.layers import BlockOptions
from core.storage.weights import load_into, load_weights
from layersync.hooks import LayerHooks
from layersync.outputs import LayerOutput
from tests.golden_files import load_golden, with_prefix
from tests.rows import every_row
from video.backbone import LatteConfig
from video.nets.latte import SPACE, TIME, FoldedAttention

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
PUBLISHED = {"S": 12, "B": 12, "L": 24, "XL": 28}


@pytest.fixture(scope="module")
def golden():
    return load_golden("latte")


def build(config, frames, **options):
    """A Latte of the sizes in the golden file, without weights."""
    sizes = config["model"]
    own = {
        name: sizes[name] for name in ("depth", "hidden_size", "num_heads", "patch_size", "learn_sigma", "mlp_ratio")
    }
    classes = LabelConditioning(LabelConfig(), sizes["num_classes"])
    condition = options.pop("conditioning", classes)
    shape = (sizes["in_channels"], frames, sizes["input_size"], sizes["input_size"])
    return LatteConfig(**{**own, **options}).build(shape, condition).eval()


def weights(tensors, frames):
    state = with_prefix(tensors, "state.")
    return {**state, "temp_embed": tensors[f"f{frames}.temp_embed"]}


def ours(x):
    """Published latents (B, F, C, Y, X) are ours (B, C, F, Y, X), and back."""
    return x.transpose(1, 2)


@every_row("frames", load_golden("latte")[1]["frames"])
@torch.no_grad()
def test_tokens_and_outputs_equal_the_recorded_ones(frames, golden):
    tensors, config = golden
    model = build(config, frames)
    load_into(model, weights(tensors, frames), "the golden file")
    recorded = with_prefix(tensors, f"f{frames}.")
    depth = config["model"]["depth"]
    hooks = LayerHooks(model, list(range(1, depth + 1)), output=LayerOutput(token_dim=model.token_dim))
    given, last = {}, {}
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda module, inputs, out, i=number: given.update({i: inputs}))
    model.final_layer.register_forward_hook(lambda module, inputs, out: last.update(out=out))
    out = model.all_channels(ours(recorded["x"]), tensors["t"], tensors["y"])
    torch.testing.assert_close(ours(out), recorded["out"], **TOLERANCE)
    model(ours(recorded["x"]), tensors["t"], tensors["y"])
    taken = hooks.take()
    for number in range(depth):
        fold = "(b n) f d" if number % 2 else "(b f) n d"
        tokens = rearrange(taken[f"blocks.{number}"], f"b f n d -> {fold}")
        torch.testing.assert_close(tokens, recorded[f"block_out.{number}"], **TOLERANCE)
        if f"block_in.{number}" in recorded:
            first = rearrange(given[number][0], f"b f n d -> {fold}")
            torch.testing.assert_close(first, recorded[f"block_in.{number}"], **TOLERANCE)
        vector = recorded["cond_time" if number % 2 else "cond_space"]
        repeats = len(vector) // len(tensors["t"])
        torch.testing.assert_close(given[number][1].flatten(1).repeat_interleave(repeats, 0), vector, **TOLERANCE)
    torch.testing.assert_close(last["out"].flatten(0, 1), recorded["final_layer_out"], **TOLERANCE)


@every_row("frames", load_golden("latte")[1]["frames"])
@torch.no_grad()
def test_noise_variance_and_an_unconditional_model_equal_the_recorded_ones(frames, golden):
    tensors, config = golden
    recorded, state = with_prefix(tensors, f"f{frames}."), weights(tensors, frames)
    x = ours(recorded["x"])
    model = build(config, frames)
    load_into(model, state, "the golden file")
    out = model(x, tensors["t"], tensors["y"])
    if "eps" in recorded:
        torch.testing.assert_close(ours(out), recorded["eps"], **TOLERANCE)
        variance = model.all_channels(x, tensors["t"], tensors["y"])[:, model.in_channels :]
        torch.testing.assert_close(ours(variance), recorded["sigma"], **TOLERANCE)
    bare = build(config, frames, conditioning=Unconditional())
    load_into(bare, {name: x for name, x in state.items() if not name.startswith("y_embedder.")}, "the golden file")
    out = bare.all_channels(x, tensors["t"], tensors["y"])
    torch.testing.assert_close(ours(out), recorded["out_no_class"], **TOLERANCE)


@torch.no_grad()
def test_without_learn_sigma_it_equals_the_recorded_one(golden):
    tensors, config = golden
    state, channels = weights(tensors, 4), config["model"]["in_channels"]
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        state[name] = state[name].unflatten(0, (-1, 2 * channels))[:, :channels].flatten(0, 1)
    model = build(config, 4, learn_sigma=False)
    load_into(model, state, "the golden file")
    out = model(ours(tensors["f4.x"]), tensors["t"], tensors["y"])
    torch.testing.assert_close(ours(out), tensors["f4.out_no_sigma"], **TOLERANCE)


@torch.no_grad()
def test_embeddings_and_tables_equal_the_recorded_ones(golden):
    tensors, config = golden
    model = build(config, 8)
    torch.testing.assert_close(model.pos_embed, tensors["state.pos_embed"], atol=1e-6, rtol=0)
    torch.testing.assert_close(model.temp_embed, tensors["state.temp_embed"], atol=1e-6, rtol=0)
    state = with_prefix(tensors, "state.")
    assert {name: x.shape for name, x in model.state_dict().items()} == {name: x.shape for name, x in state.items()}
    load_into(model, state, "the golden file")
    torch.testing.assert_close(model.t_embedder.features(tensors["t"]), tensors["t_freq"], atol=1e-4, rtol=0)
    torch.testing.assert_close(model.t_embedder(tensors["t"]), tensors["t_emb"], **TOLERANCE)
    torch.testing.assert_close(model.y_embedder(tensors["y"]), tensors["y_emb"], **TOLERANCE)
    null = torch.full_like(tensors["y"], config["null_label"])
    torch.testing.assert_close(model.y_embedder(null)[0], tensors["y_emb_force_drop"][0], **TOLERANCE)


@torch.no_grad()
def test_guidance_of_the_first_channels_equals_the_recorded_one(golden):
    tensors, config = golden
    model = build(config, 4)
    load_into(model, weights(tensors, 4), "the golden file")
    x, t, y = (tensors[f"f4.cfg.{name}"].chunk(2)[0] for name in "xty")
    null, channels = tensors["f4.cfg.y"].chunk(2)[1], config["guided_channels"]
    guided = guide(model.all_channels, y, null, config["cfg_scale"], channels=channels)(ours(x), t)
    conditional, unconditional = (ours(each) for each in tensors["f4.cfg.out"].chunk(2))
    torch.testing.assert_close(guided, conditional, **TOLERANCE)
    torch.testing.assert_close(guided[:, :channels], unconditional[:, :channels], **TOLERANCE)
    both = model.all_channels(ours(torch.cat([x, x])), torch.cat([t, t]), torch.cat([y, null]))
    torch.testing.assert_close(ours(both), tensors["f4.cfg.unguided_out"], **TOLERANCE)


@torch.no_grad()
def test_a_published_checkpoint_loads_and_of_another_number_of_frames_too(golden, tmp_path, caplog):
    """The table of 4 frames is the head of that of 8, and the weights are the same."""
    tensors, config = golden
    ema = with_prefix(tensors, "state.")
    content = {"model": {f"module.{name}": x + 1 for name, x in ema.items()}, "ema": ema, "args": argparse.Namespace()}
    torch.save(content, tmp_path / "ucf101.pt")
    for frames in config["frames"]:
        model = build(config, frames)
        load_into(model, load_weights(tmp_path / "ucf101.pt"), "ucf101.pt")
        out = model.all_channels(ours(tensors[f"f{frames}.x"]), tensors["t"], tensors["y"])
        torch.testing.assert_close(ours(out), tensors[f"f{frames}.out"], **TOLERANCE)
    assert "ucf101.pt is of 8 frames, the backbone of 4" in caplog.text
    trained = {**ema, "temp_embed": ema["temp_embed"] + 0.1}
    with pytest.raises(ValueError, match=r"temp_embed is \(1, 8, 32\), the model has \(1, 4, 32\)"):
        load_into(build(config, 4), trained, "trained.pt")


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_are_there(size):
    with torch.device("meta"):
        model = LatteConfig(size=size, learn_sigma=True).build((4, 16, 32, 32), LabelConditioning(LabelConfig(), 101))
    assert (len(model.blocks), model.num_tokens, model.out_channels) == (PUBLISHED[size], 16 * 256, 8)


@every_row("fold", [SPACE, TIME])
@torch.no_grad()
def test_a_row_without_a_real_token_attends_to_itself_whatever_kernel_runs(fold):
    """Some kernels make NaN of no key, some zeros; what is padding stays finite and reaches nobody."""
    torch.manual_seed(0)
    attention = FoldedAttention(BlockOptions(16, 2), fold)
    x = torch.randn(2, 3, 4, 16)
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    row = (0, 1) if fold == SPACE else (0, slice(None), 2)
    mask[row] = False
    torch.testing.assert_close(attention(x, mask=mask), attention(x))
    mask[0, 0, 0] = False
    assert not torch.allclose(attention(x, mask=mask)[0], attention(x)[0])


def test_groups_of_tokens_do_not_see_each_other_along_either_fold():
    """Whatever the number of their own kind in a frame or at a place; padding, group 0, is apart as well."""
    groups = torch.randint(0, 3, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 4, 16, generator=torch.Generator().manual_seed(1))
    for fold in (SPACE, TIME):
        attention = FoldedAttention(BlockOptions(16, 2), fold)
        out = attention(x, mask=groups)
        for group in range(3):
            own = groups == group
            spoilt = torch.where(own[..., None], x, 9.0)
            torch.testing.assert_close(attention(spoilt, mask=groups)[own], out[own])
        assert (attention(spoilt)[own] - attention(x)[own]).abs().max() > 1e-3

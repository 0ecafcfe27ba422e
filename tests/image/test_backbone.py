"""SiT against recorded numbers of the published program, and what a user can do with it."""

import argparse

import pytest
import torch
from einops import rearrange

from core.flow.sampler import guide
from core.schema import strict
from core.storage.weights import load_into, load_weights
from image.backbone import SIZES, SiT, SiTConfig
from layersync import LayerSync
from layersync.hooks import LayerHooks
from tests.golden_files import load_golden, with_prefix

RECORDED = ["sit", "sit_velocity_only"]
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
# Parameters of the published models in millions (DiT, arXiv 2212.09748, table 1; SiT has the same networks).
PUBLISHED_MILLIONS = {"S": 33, "B": 130, "L": 458, "XL": 675}


def build(sizes):
    """A SiT from the sizes in a golden file, whose regulariser's depths are no business of the network."""
    return SiT(**{name: value for name, value in sizes.items() if "encoder_depth" not in name})


@pytest.fixture(scope="module", params=RECORDED)
def golden(request):
    return load_golden(request.param)


@pytest.fixture(scope="module")
def model(golden):
    tensors, config = golden
    network = build(config["model"])
    load_into(network, with_prefix(tensors, "state."), "the golden file")
    return network.eval()


def tiny(seed=0, **options):
    """A small SiT whose gates and output are open."""
    sizes = {"input_size": (4, 6), "in_channels": 3, "hidden_size": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
    network = SiT(**{**sizes, "learn_sigma": False, **options})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def inputs(network, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, network.in_channels, *network.input_size, generator=generator)
    return x, torch.rand(batch, generator=generator), torch.arange(batch) % network.y_embedder.num_classes


# --- parity with the published program


@torch.no_grad()
def test_tokens_and_outputs_equal_the_recorded_ones(golden, model):
    tensors, config = golden
    sizes = config["model"]
    hooks = LayerHooks(model, list(range(1, sizes["depth"] + 1)))
    first = {}
    handle = model.blocks[0].register_forward_pre_hook(lambda module, given: first.update(tokens=given[0]))
    out = model(tensors["x"], tensors["t"], tensors["y"])
    handle.remove()
    taken = hooks.take()
    hooks.remove()
    torch.testing.assert_close(out, tensors["out"], **TOLERANCE)
    torch.testing.assert_close(first["tokens"], tensors["x_tokens"], **TOLERANCE)
    recorded = with_prefix(tensors, "block_out.")
    assert set(recorded) == {str(i) for i in range(sizes["depth"])}
    for i, tokens in recorded.items():
        torch.testing.assert_close(taken[f"blocks.{i}"], tokens, **TOLERANCE)
    torch.testing.assert_close(taken[f"blocks.{sizes['encoder_depth'] - 1}"], tensors["zs"], **TOLERANCE)
    torch.testing.assert_close(taken[f"blocks.{sizes['gt_encoder_depth'] - 1}"], tensors["gt_zs"], **TOLERANCE)


@torch.no_grad()
def test_all_channels_equal_the_recorded_ones(golden, model):
    tensors, _ = golden
    out = model.all_channels(tensors["x"], tensors["t"], tensors["y"])
    assert out.shape == tensors["out_all_channels"].shape
    torch.testing.assert_close(out, tensors["out_all_channels"], **TOLERANCE)


@torch.no_grad()
def test_embeddings_equal_the_recorded_ones(golden, model):
    tensors, config = golden
    torch.testing.assert_close(model.t_embedder.features(tensors["t"]), tensors["t_freq"], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.t_embedder(tensors["t"]), tensors["t_emb"], **TOLERANCE)
    torch.testing.assert_close(model.y_embedder(tensors["y"]), tensors["y_emb"], **TOLERANCE)
    null = torch.full_like(tensors["y"], config["null_label"])
    dropped = torch.where(tensors["force_drop_ids"] == 1, null, tensors["y"])
    torch.testing.assert_close(model.y_embedder(dropped), tensors["y_emb_force_drop"], **TOLERANCE)


@torch.no_grad()
def test_guidance_equals_the_recorded_one(golden, model):
    tensors, config = golden
    x, t, y = (tensors[f"cfg.{name}"].chunk(2)[0] for name in "xty")
    null = tensors["cfg.y"].chunk(2)[1]
    scale, channels = float(tensors["cfg.scale"]), config["guided_channels"]
    out = guide(model, y, null, scale, channels=channels)(x, t)
    conditional, unconditional = tensors["cfg.out"].chunk(2)
    torch.testing.assert_close(out, conditional, **TOLERANCE)
    torch.testing.assert_close(out[:, :channels], unconditional[:, :channels], **TOLERANCE)
    unguided = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, null]))
    torch.testing.assert_close(unguided, tensors["cfg.unguided_out"], **TOLERANCE)
    guided_everywhere = guide(model, y, null, scale)(x, t)
    assert (guided_everywhere - out)[:, channels:].abs().max() > 0.01


def test_our_table_of_positions_is_the_published_one(golden, model):
    tensors, config = golden
    fresh = build(config["model"]).pos_embed
    torch.testing.assert_close(fresh, tensors["state.pos_embed"], atol=1e-6, rtol=0)


def test_every_recorded_name_is_a_name_of_ours(golden, model):
    state = with_prefix(golden[0], "state.")
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in state.items()
    }


# --- published files


@pytest.fixture
def published(golden, tmp_path):
    """A training checkpoint as SiT publishes it; its `model` differs from its `ema`."""
    tensors, _ = golden
    ema = with_prefix(tensors, "state.")
    content = {
        "model": {f"module.{name}": value + 1 for name, value in ema.items()},
        "ema": ema,
        "opt": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "args": argparse.Namespace(model="SiT-XL/2", image_size=256),
    }
    torch.save(content, tmp_path / "0400000.pt")
    return tmp_path / "0400000.pt"


@torch.no_grad()
def test_a_published_checkpoint_loads_as_it_is(golden, published):
    tensors, config = golden
    network = build(config["model"]).eval()
    load_into(network, load_weights(published), str(published))
    torch.testing.assert_close(network(tensors["x"], tensors["t"], tensors["y"]), tensors["out"], **TOLERANCE)
    load_into(network, load_weights(published, prefer="model"), str(published))
    assert torch.equal(network.final_layer.linear.bias, tensors["state.final_layer.linear.bias"] + 1)


def test_a_checkpoint_of_another_size_is_told_apart(golden, published):
    sizes = golden[1]["model"]
    width, labels = sizes["hidden_size"], sizes["num_classes"] + 1
    table = rf"embedding_table.weight is \({labels}, {width}\), the model has \({labels - 1}, {width}\)"
    for change, words in (
        ({"depth": sizes["depth"] - 1}, "unexpected blocks"),
        ({"depth": sizes["depth"] + 1}, "missing blocks"),
        ({"learn_sigma": not sizes["learn_sigma"]}, "final_layer.linear.bias is"),
        ({"class_dropout_prob": 0.0}, table),
    ):
        network = build({**sizes, **change})
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with pytest.raises(ValueError, match=f"another architecture.*{words}"):
            load_into(network, load_weights(published), str(published))
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_have_the_published_parameters(size):
    with torch.device("meta"):
        network = SiTConfig(size=size, learn_sigma=True).build((4, 32, 32), 1000)
    millions = sum(each.numel() for each in network.parameters()) / 1e6
    assert round(millions) == PUBLISHED_MILLIONS[size]
    assert (network.num_tokens, network.out_channels) == (256, 8)


def test_learn_sigma_adds_the_parameters_that_it_says():
    counts = []
    with torch.device("meta"):
        for learn_sigma in (False, True):
            network = SiTConfig(size="S", learn_sigma=learn_sigma).build((4, 32, 32), 1000)
            counts.append(sum(each.numel() for each in network.parameters()))
    assert counts[1] - counts[0] == 2**2 * 4 * (384 + 1)


# --- shapes


def test_a_fresh_network_predicts_zero_and_every_block_is_shut():
    network = SiT(input_size=4, in_channels=3, hidden_size=16, depth=2, num_heads=2, num_classes=5)
    x, t, y = inputs(network)
    assert torch.equal(network(x, t, y), torch.zeros_like(x))


def test_an_input_that_is_not_square():
    network = tiny(input_size=(4, 8))
    x, t, y = inputs(network)
    assert (network.num_tokens, network.grid) == (8, (2, 4))
    assert network(x, t, y).shape == (3, 3, 4, 8)


def test_patches_go_back_to_where_they_came_from():
    network = tiny(input_size=(4, 6), in_channels=2, learn_sigma=False)
    code = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    patches = rearrange(code, "b c (y p) (x q) -> b (y x) (p q c)", p=2, q=2)
    network.final_layer.forward = lambda tokens, c: patches
    assert torch.equal(network(*inputs(network, 1)), code)


def test_every_pixel_of_the_input_counts_in_its_token():
    network = tiny()
    x, t, y = inputs(network, 1)
    hooks = LayerHooks(network, ["x_embedder"])
    network(x, t, y)
    before = hooks.take()["x_embedder"]
    for row, column in ((0, 0), (1, 3), (3, 5)):
        other = x.clone()
        other[0, 0, row, column] += 1
        network(other, t, y)
        changed = (hooks.take()["x_embedder"] != before).any(-1)[0]
        assert changed.nonzero().flatten().tolist() == [(row // 2) * 3 + column // 2]


def test_expand_lays_out_samples_and_tokens():
    network = tiny()
    x = torch.zeros(2, 3, 4, 6)
    t = torch.tensor([1.0, 2.0])
    assert torch.equal(network.expand(t, x) + x, t.reshape(2, 1, 1, 1).expand(2, 3, 4, 6))
    tokens = torch.arange(12.0).reshape(2, 6)
    pixels = network.expand(tokens, x)
    assert pixels.shape == (2, 1, 4, 6)
    for sample in range(2):
        for row in range(4):
            for column in range(6):
                assert pixels[sample, 0, row, column] == tokens[sample, (row // 2) * 3 + column // 2]
    mask = torch.tensor([[True, False] * 3, [True] * 6])
    assert network.expand(mask, x).dtype == torch.bool


def test_a_time_for_each_token_equals_a_time_for_the_sample_where_it_is_the_same():
    network = tiny().double()
    x, t, y = inputs(network)
    x, t = x.double(), t.double()
    each = t[:, None].expand(-1, network.num_tokens)
    torch.testing.assert_close(network(x, t, y), network(x, each, y), atol=1e-6, rtol=0)
    varied = each.clone()
    varied[:, 2] = 0.5
    assert (network(x, varied, y) - network(x, t, y)).abs().max() > 1e-3


def test_time_label_position_and_every_option_matter():
    x, t, y = inputs(tiny())
    out = tiny()(x, t, y)
    assert (tiny()(x, 1 - t, y) - out).abs().max() > 1e-3
    assert (tiny()(x, t, (y + 1) % 5) - out).abs().max() > 1e-3
    moved = x.roll(2, -1)
    assert (tiny()(moved, t, y) - out.roll(2, -1)).abs().max() > 1e-3
    for option in ("qk_norm", "swiglu", "rope"):
        assert tiny(**{option: True})(x, t, y).shape == x.shape
    plain, rotary = tiny(), tiny(rope=True)
    rotary.load_state_dict(plain.state_dict())  # rope adds no weights
    assert (rotary(x, t, y) - out).abs().max() > 1e-4


def test_masked_tokens_do_not_reach_the_others():
    network = tiny()
    x, t, y = inputs(network)
    mask = torch.ones(3, network.num_tokens, dtype=torch.bool)
    mask[:, 4] = False
    seen = network.expand(mask, x).expand_as(x)
    other = torch.where(seen, x, 30.0)
    assert torch.equal(network(x, t, y, mask)[seen], network(other, t, y, mask)[seen])
    assert not torch.allclose(network(x, t, y)[seen], network(other, t, y)[seen])


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 4, 8), (4, 4, 6), (3, 4)])
def test_latents_of_another_size_are_refused(shape):
    network = tiny()
    _, t, y = inputs(network, 1)
    with pytest.raises(ValueError, match=r"built for latents \(3, 4, 6\)"):
        network(torch.zeros(1, *shape), t, y)


def test_a_patch_that_does_not_divide_is_refused_with_its_key():
    with pytest.raises(ValueError, match=r"latent size \(4, 6\) does not divide by backbone.patch_size 4"):
        tiny(patch_size=4)


# --- recomputing blocks


@pytest.mark.parametrize("options", [{}, {"rope": True, "qk_norm": True, "swiglu": True}])
def test_recomputed_blocks_give_the_same_loss_and_gradients(options):
    results = []
    for recompute in (False, True):
        network = tiny(**options).train()
        network.checkpoint_blocks = recompute
        sync = LayerSync(network, [(1, 2)], 0.5)
        x, t, y = inputs(network)
        calls = []
        network.blocks[0].mlp.register_forward_hook(lambda *given, calls=calls: calls.append(1))
        loss = (network(x, t, y) ** 2).mean() + sync()
        loss.backward()
        results.append((loss.detach(), {name: each.grad for name, each in network.named_parameters()}))
        assert len(calls) == 1 + recompute, "the blocks were not recomputed"
    (loss, plain), (loss_again, recomputed) = results
    assert torch.equal(loss, loss_again)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_nothing_is_recomputed_without_gradients():
    network = tiny()
    network.checkpoint_blocks = True
    x, t, y = inputs(network)
    with torch.no_grad():
        out = network(x, t, y)
    assert not out.requires_grad


def test_every_parameter_gets_a_gradient():
    network = tiny(qk_norm=True)
    x, t, _ = inputs(network, 6)
    (network(x, t, torch.arange(6)) ** 2).mean().backward()
    dead = [name for name, each in network.named_parameters() if each.grad is None or each.grad.abs().max() == 0]
    assert not dead


# --- the config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "backbone.size is null: give backbone.depth"),
        ({"depth": 2, "hidden_size": 8}, "backbone.size is null"),
        ({"size": "M"}, r"backbone.size is 'M'; allowed: \['S', 'B', 'L', 'XL'\]"),
        ({"size": "S", "depth": 3}, "backbone.size is 'S'; depth, hidden_size and num_heads must then be null"),
        ({"depth": 0, "hidden_size": 8, "num_heads": 2}, "each must be at least 1"),
        ({"size": "S", "patch_size": 0}, "backbone.patch_size is 0"),
    ],
)
def test_configs_that_make_no_network_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        strict(SiTConfig, values)


def test_a_config_without_the_null_label_has_no_row_for_it():
    options = {"depth": 2, "hidden_size": 8, "num_heads": 2}
    rows = [
        len(SiTConfig(**options, null_label=null).build((1, 4, 4), 5).y_embedder.embedding_table.weight)
        for null in (False, True)
    ]
    assert rows == [5, 6]

"""Both backbones of video: padding, shorter clips, times of tokens, recomputing, compiling, configs."""

import pytest
import torch

from core.conditioning.labels import LabelConditioning, LabelConfig
from core.draws import seeded_weights
from core.schema import strict
from layersync import LayerSync
from tests.rows import every_row
from video.backbone import BACKBONES, LatteConfig, SiTConfig

CLASSES, CHANNELS, FRAMES = 5, 3, 6
KINDS = [(kind, options) for kind in BACKBONES for options in ({}, {"rope": True, "qk_norm": True, "swiglu": True})]


def build(kind, seed=0, frames=FRAMES, **options):
    """A small backbone of 6 frames of 2 x 3 tokens whose gates and output are open."""
    sizes = {"depth": 4, "hidden_size": 24, "num_heads": 2, "patch_size": [1, 2, 2], **options}
    conditioning = LabelConditioning(LabelConfig(), CLASSES)
    with seeded_weights(seed, "weights"):
        model = BACKBONES[kind](**sizes).build((CHANNELS, frames, 4, 6), conditioning)
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def inputs(batch=2, frames=FRAMES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, CHANNELS, frames, 4, 6, generator=generator)
    return x, torch.rand(batch, generator=generator), torch.arange(batch) % CLASSES


def of_frames(model, *numbers):
    """Masks (B, N) in which so many frames are real."""
    return (torch.arange(FRAMES) < torch.tensor(numbers)[:, None]).repeat_interleave(model.frame_tokens, 1)


@every_row(("kind", "options"), KINDS)
@torch.no_grad()
def test_padded_frames_change_nothing_and_a_shorter_clip_is_one_without_them(kind, options):
    model = build(kind, **options)
    x, t, y = inputs()
    mask, other = of_frames(model, 4, 6), x.clone()
    other[0, :, 4:] = 1e3 * torch.randn(CHANNELS, 2, 4, 6)
    out, changed = model(x, t, y, mask), model(other, t, y, mask)
    assert out.isfinite().all() and changed.isfinite().all()
    assert torch.equal(out[0, :, :4], changed[0, :, :4]) and torch.equal(out[1], changed[1])
    torch.testing.assert_close(model(x[:1, :, :4], t[:1], y[:1]), out[:1, :, :4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out[1], model(x, t, y)[1], rtol=1e-5, atol=1e-5)
    assert (model(other, t, y)[0, :, :4] - out[0, :, :4]).abs().max() > 1e-3  # unmasked, they count


@every_row("kind", list(BACKBONES))
def test_padded_frames_get_no_gradient(kind):
    model = build(kind)
    x, t, y = inputs()
    x.requires_grad_(True)
    mask = of_frames(model, 4, 6)
    model(x, t, y, mask)[model.expand(mask, x).expand_as(x)].square().sum().backward()
    assert x.grad.isfinite().all() and x.grad[0, :, 4:].abs().max() == 0 and x.grad[0, :, :4].abs().min() > 0


@every_row(("kind", "options"), KINDS)
@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(kind, options):
    model = build(kind, **options)
    x, t, y = inputs(3)
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(model(x, t, y), alone, rtol=1e-5, atol=1e-5)


@every_row("kind", list(BACKBONES))
@torch.no_grad()
def test_a_time_for_each_token_reaches_it(kind):
    model = build(kind)
    x, t, y = inputs()
    each = t[:, None].expand(-1, model.num_tokens)
    torch.testing.assert_close(model(x, t, y), model(x, each, y), rtol=1e-4, atol=1e-4)
    later = each.clone()
    later[:, 20] += 0.5  # of frame 3, row 0, column 2
    change = (model(x, later, y) - model(x, t, y)).abs().amax((0, 1))
    assert change[3, 0:2, 4:6].min() > change[0, 2:4, 0:2].max()


@every_row("kind", list(BACKBONES))
@torch.no_grad()
def test_every_frame_sees_every_other_and_knows_its_number(kind):
    model = build(kind)
    x, t, y = inputs(1)
    before = model(x, t, y)
    other = x.clone()
    other[:, :, 5, :2, :2] += 3.0
    assert ((model(other, t, y) - before).abs().amax((0, 1, 3, 4)) > 1e-4).all()
    turned = model(x.flip(2), t, y).flip(2)
    assert (turned - before).abs().max() > 1e-2


@every_row("kind", list(BACKBONES))
def test_patches_and_expand_are_of_the_tokens_that_blocks_hand_over(kind):
    model = build(kind)
    x, _, _ = inputs(1)
    assert (model.num_tokens, model.frame_tokens, model.token_size, model.grid) == (36, 6, 12, (6, 2, 3))
    numbers = torch.arange(36.0)[None]
    assert torch.equal(model.patches(model.expand(numbers, x).expand_as(x))[..., 0], numbers)
    parts = model.parts()
    assert len(parts) == 5 and parts[-1] is model.final_layer


@every_row(("kind", "options"), KINDS)
def test_recomputed_blocks_give_the_same_loss_and_gradients(kind, options):
    results = []
    for recompute in (False, True):
        model = build(kind, **options).train()
        model.checkpoint_blocks = recompute
        sync = LayerSync(model, [(1, 3)], 0.5, token_dim=getattr(model, "token_dim", None))
        x, t, y = inputs()
        mask = of_frames(model, 4, 6)
        calls = []
        model.blocks[0].mlp.register_forward_hook(lambda *given, calls=calls: calls.append(1))
        (model(x, t, y, mask).square().mean() + sync(mask=mask)).backward()
        results.append({name: each.grad for name, each in model.named_parameters()})
        assert len(calls) == 1 + recompute, "the blocks were not recomputed"
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@every_row("kind", list(BACKBONES))
def test_compiled_block_by_block_it_is_the_same(kind):
    model = build(kind, depth=2)
    x, t, y = inputs()
    mask = of_frames(model, 4, 6)
    expected = model(x, t, y, mask)
    for part in model.parts():
        part.compile(fullgraph=True, backend="eager")
    torch.testing.assert_close(model(x, t, y, mask), expected)


@every_row("kind", list(BACKBONES))
def test_other_latents_are_refused(kind):
    for shape in ((3, 7, 4, 6), (2, 6, 4, 6), (3, 6, 6, 4), (3, 0, 4, 6)):
        with pytest.raises(ValueError, match=r"built for latents \(3, 6, 4, 6\), got"):
            build(kind)(torch.randn(1, *shape), torch.rand(1), torch.zeros(1, dtype=torch.int64))


# --- the config


@every_row(
    ("config", "values", "patch"),
    [
        (SiTConfig, {"patch_size": 2}, (2, 2, 2)),
        (SiTConfig, {"patch_size": [1, 2, 4]}, (1, 2, 4)),
        (LatteConfig, {"patch_size": 2}, (1, 2, 2)),
        (LatteConfig, {"patch_size": [1, 2, 1]}, (1, 2, 1)),
    ],
)
def test_a_patch_is_of_frames_rows_and_columns(config, values, patch):
    made = strict(config, {"size": "S", **values})
    assert made.patch == patch == made.recipe.patch_size


@every_row(
    ("config", "patch", "message"),
    [
        (SiTConfig, [1, 2], r"backbone.patch_size is \[1, 2\]; needed: a number, or \[frames, rows, columns\]"),
        (SiTConfig, [1, 0, 2], r"backbone.patch_size is \[1, 0, 2\]; it must be at least 1"),
        (
            LatteConfig,
            [2, 2, 2],
            r"backbone.patch_size is \[2, 2, 2\]; a patch of latte is a number P or \[1, rows, columns\]",
        ),
        (LatteConfig, [2, 2], r"backbone.patch_size is \[2, 2\]; a patch of latte is"),
        (LatteConfig, 0, r"backbone.patch_size is 0; it must be at least 1"),
    ],
)
def test_a_patch_that_is_none_is_refused_with_its_key(config, patch, message):
    with pytest.raises(ValueError, match=message):
        strict(config, {"size": "S", "patch_size": patch})

"""SiT on grids of one, two and three axes: layout of tokens, padding, shorter clips."""

import pytest
import torch
from torch import nn

from core.nets.layers import BlockOptions
from core.nets.sit import Recipe, SiT, SiTConfig
from tests.rows import every_row

GRIDS = [(12,), (4, 6), (2, 4, 6)]


class Embedder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(width))

    def initialize(self):
        nn.init.normal_(self.vector, generator=torch.Generator().manual_seed(0))

    def forward(self, condition):
        return self.vector * condition[:, None]


def sit(grid=(12,), patch=2, channels=3, **recipe):
    """A small SiT whose gates and output are not zero, as after training."""
    torch.manual_seed(0)
    model = SiT((channels, *grid), Recipe(2, patch, BlockOptions(24, 2), **recipe), Embedder)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@every_row("grid", GRIDS)
@every_row("patch", [1, 2])
def test_an_output_has_the_shape_of_its_input(grid, patch):
    model = sit(grid, patch)
    x = torch.randn(2, 3, *grid)
    assert model(x, torch.rand(2), torch.ones(2)).shape == x.shape
    assert model.num_tokens == x[0, 0].numel() // patch ** len(grid)


@every_row(
    ("grid", "patch"), [((4, 4, 6), (1, 2, 2)), ((4, 4, 6), (2, 4, 1)), ((4, 6), (4, 2)), ((12,), (3,)), ((6, 4, 4), 2)]
)
def test_every_axis_has_its_own_patch(grid, patch):
    """What `patches` cuts, `expand` covers and the last layer puts back is the same piece of the latents."""
    model = sit(grid, patch)
    each = (patch,) * len(grid) if isinstance(patch, int) else patch
    assert model.grid == tuple(side // own for side, own in zip(grid, each, strict=True))
    assert model.token_size == 3 * torch.Size(each).numel()
    code = torch.randn(2, 3, *grid)
    patches = model.patches(code)
    assert patches.shape == (2, model.num_tokens, model.token_size)
    for token in (0, model.num_tokens - 1):
        owner = torch.zeros(1, model.num_tokens)
        owner[0, token] = 1
        inside = model.expand(owner, code).bool().expand(1, 3, *grid)[0]
        assert sorted(code[0][inside].tolist()) == sorted(patches[0, token].tolist())
    model.final_layer.forward = lambda tokens, c: patches
    assert torch.equal(model(code, torch.rand(2), torch.ones(2)), code)


@every_row(
    ("patch", "message"),
    [
        ([1, 2], r"backbone.patch_size is \[1, 2\]; needed: a number, or 3, one an axis of latents \(4, 4, 6\)"),
        ([1, 2, 4], r"latent size \(4, 4, 6\) does not divide by backbone.patch_size \[1, 2, 4\]"),
    ],
)
def test_patches_that_do_not_fit_are_refused_with_their_key(patch, message):
    with pytest.raises(ValueError, match=message):
        sit((4, 4, 6), patch)


@every_row("patch", [0, [1, 0, 2], [], [-1]])
def test_patches_without_a_number_are_refused_with_their_key(patch):
    with pytest.raises(ValueError, match=r"backbone\.patch_size is"):
        SiTConfig(patch_size=patch, size="S")


def test_frames_have_the_positions_of_an_image_and_a_code_of_their_number():
    """So that the positions of an image model fit, and any width that they fit: 1024 does not divide by six."""
    image, video = sit((4, 6)), sit((6, 4, 6))
    assert torch.equal(video.pos_embed, image.pos_embed)
    assert video.temp_embed.shape == (1, 3, 24)
    places = video._positions(18)[0].reshape(3, 6, 24)
    torch.testing.assert_close(places[2] - places[0], (video.temp_embed[0, 2] - video.temp_embed[0, 0]).expand(6, 24))
    assert len({tuple(place) for place in video._positions(18)[0].tolist()}) == 18
    assert isinstance(sit((6, 4, 6), learned_frames=True).temp_embed, nn.Parameter)


@every_row("grid", GRIDS)
def test_tokens_are_patches_and_values_of_tokens_lie_on_them(grid):
    """Each number of a patch is decoded from its own token: what `expand` says of a token holds for all of it."""
    model = sit(grid)
    x = torch.zeros(1, 3, *grid)
    values = torch.arange(model.num_tokens, dtype=torch.float32)[None]
    laid = model.expand(values, x)
    assert laid.shape == (1, 1, *grid)
    for axis in range(len(grid)):  # constant within a patch
        pairs = laid.unflatten(axis + 2, (-1, 2)).movedim(axis + 3, -1)
        assert torch.equal(pairs[..., 0], pairs[..., 1])
    first_of_patches = laid[(..., *[slice(None, None, 2)] * len(grid))]
    assert torch.equal(first_of_patches.flatten(), values.flatten())  # the last axis fastest
    tokens = model.x_embedder(laid.expand(1, 3, *grid))
    same = model.x_embedder(torch.ones(1, 3, *grid)) - model.x_embedder(x)
    torch.testing.assert_close(tokens - model.x_embedder(x), values[..., None] * same, rtol=1e-4, atol=1e-4)


@every_row(("grid", "patch"), [((12,), 2), ((12, 4, 6), (2, 2, 3))])
def test_padded_frames_change_nothing_of_the_real_ones(grid, patch):
    """Whatever stands in them: attention does not look there, and no other part mixes tokens."""
    model = sit(grid, patch)
    x, t, condition = torch.randn(2, 3, *grid), torch.rand(2), torch.ones(2)
    frames = torch.arange(6) < torch.tensor([[4], [6]])
    mask = frames.repeat_interleave(model.frame_tokens, 1)
    other = x.clone()
    other[0, :, 8:] = 1e3 * torch.randn_like(other[0, :, 8:])
    outputs = [model(each, t, condition, mask) for each in (x, other)]
    torch.testing.assert_close(outputs[0][0, :, :8], outputs[1][0, :, :8], rtol=0, atol=0)
    torch.testing.assert_close(outputs[0][1], outputs[1][1], rtol=0, atol=0)
    assert not torch.allclose(model(x, t, condition)[0, :, :8], outputs[0][0, :, :8])  # unmasked, it does look


@every_row("rope", [False, True])
@every_row(("grid", "patch"), [((12,), 2), ((12, 4, 6), (2, 2, 3))])
def test_a_shorter_clip_is_a_padded_one_without_its_padding(grid, patch, rope):
    model = sit(grid, patch, rope=rope)
    x, t, condition = torch.randn(1, 3, *grid), torch.rand(1), torch.ones(1)
    mask = (torch.arange(6)[None] < 4).repeat_interleave(model.frame_tokens, 1)
    masked = model(x, t, condition, mask)
    torch.testing.assert_close(model(x[:, :, :8], t, condition), masked[:, :, :8], rtol=1e-5, atol=1e-5)


@every_row("shape", [(3, 14), (3, 7), (2, 12), (3, 0), (3, 4, 3)])
def test_other_latents_are_refused(shape):
    with pytest.raises(ValueError, match=r"the backbone was built for latents \(3, 12\), got"):
        sit()(torch.randn(1, *shape), torch.rand(1), torch.ones(1))
    with pytest.raises(ValueError, match=r"built for latents \(3, 4, 6\), got \(3, 2, 6\)"):  # smaller images
        sit((4, 6))(torch.randn(1, 3, 2, 6), torch.rand(1), torch.ones(1))
    for other in ((3, 6, 4, 6), (3, 2, 2, 6), (3, 3, 4, 6)):
        with pytest.raises(ValueError, match=r"built for latents \(3, 4, 4, 6\), got"):
            sit((4, 4, 6))(torch.randn(1, *other), torch.rand(1), torch.ones(1))
    with pytest.raises(ValueError, match=r"latent size \(9,\) does not divide by backbone.patch_size 2"):
        sit((9,))


def test_times_of_tokens_reach_their_frames():
    model = sit(patch=2)
    x, condition = torch.randn(1, 3, 12), torch.ones(1)
    t = torch.full((1, 6), 0.4)
    torch.testing.assert_close(model(x, t, condition), model(x, torch.full((1,), 0.4), condition))
    later = t.clone()
    later[0, 3] = 0.9
    assert not torch.allclose(model(x, later, condition)[..., 6:8], model(x, t, condition)[..., 6:8])


def test_a_compiled_model_is_the_same():
    model = sit(patch=2)
    x, t, condition, mask = torch.randn(2, 3, 12), torch.rand(2), torch.ones(2), torch.ones(2, 6, dtype=torch.bool)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, t, condition, mask), model(x, t, condition, mask))

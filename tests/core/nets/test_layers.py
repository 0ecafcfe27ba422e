"""Building blocks: positions, attention, conditioning. B batch, N tokens, D width, K width of a head."""

import itertools

import pytest
import torch

from core.nets.layers import (
    AdaLNZeroBlock,
    Attention,
    BlockOptions,
    FinalLayer,
    LabelEmbedder,
    Mlp,
    SwiGLU,
    TimestepEmbedder,
    rotary_table,
    rotate,
    sincos_grid,
    sincos_positions,
)
from tests.rows import every_row

BATCH, TOKENS, WIDTH, HEADS = 3, 7, 24, 4
HEAD_WIDTH = WIDTH // HEADS
GRIDS = [(5,), (3, 4), (2, 3, 4)]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def randomised(module, seed=0):
    """The module with every parameter random, so that no gate is shut and no bias zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def block(seed=0, **options):
    return randomised(AdaLNZeroBlock(BlockOptions(WIDTH, HEADS, **options)), seed)


# --- fixed positions


@every_row("grid", GRIDS)
def test_every_place_of_a_grid_has_its_own_code_and_its_own_angles(grid):
    codes, angles = sincos_grid(24, grid), rotary_table(24, grid)
    assert codes.shape == (torch.Size(grid).numel(), 24) and codes.dtype == torch.float32
    assert torch.pdist(codes).min() > 0.1
    assert angles.shape == (len(codes), 12) and torch.equal(angles[0], torch.zeros(12))
    assert torch.pdist(angles).min() > 1e-3


def test_the_code_of_a_line_is_sines_then_cosines_from_fast_to_slow():
    code = sincos_positions(6, torch.tensor([0, 3]))
    rates = torch.tensor([1, 10000 ** (-1 / 3), 10000 ** (-2 / 3)], dtype=torch.float64)
    torch.testing.assert_close(code[1], torch.cat([torch.sin(3 * rates), torch.cos(3 * rates)]))
    assert code[0].tolist() == [0, 0, 0, 1, 1, 1]


def test_in_two_dimensions_the_column_comes_first_as_published():
    rows, columns, width = 3, 4, 8
    codes = sincos_grid(width, (rows, columns))
    for row, column in itertools.product(range(rows), range(columns)):
        halves = [sincos_positions(width // 2, torch.tensor([place]))[0] for place in (column, row)]
        torch.testing.assert_close(codes[row * columns + column], torch.cat(halves).float())


def test_in_three_dimensions_the_axes_keep_their_order():
    frames, rows, columns, width = 2, 3, 4, 12
    codes = sincos_grid(width, (frames, rows, columns))
    for place in itertools.product(range(frames), range(rows), range(columns)):
        token = (place[0] * rows + place[1]) * columns + place[2]
        shares = [sincos_positions(width // 3, torch.tensor([each]))[0] for each in place]
        torch.testing.assert_close(codes[token], torch.cat(shares).float())


@every_row(("width", "grid"), [(7, (5,)), (6, (3, 4)), (10, (3, 4)), (16, (2, 3, 4)), (9, (2, 3, 4))])
def test_a_width_that_the_axes_cannot_share_is_refused(width, grid):
    with pytest.raises(ValueError, match="even"):
        sincos_grid(width, grid)


# --- rotary positions


def test_the_share_of_an_axis_turns_with_that_axis_only():
    angles = rotary_table(24, (2, 3, 4)).reshape(2, 3, 4, 3, 4)  # frame, row, column, axis, pair
    rates = 10000.0 ** (-torch.arange(4) / 4)
    for frame, row, column in itertools.product(range(2), range(3), range(4)):
        expected = torch.stack([frame * rates, row * rates, column * rates])
        torch.testing.assert_close(angles[frame, row, column], expected)


def test_three_axes_share_any_head_width_frames_first():
    """Heads of 64, as in three of the four published sizes, have 32 pairs."""
    angles = rotary_table(64, (3, 2, 2)).reshape(3, 2, 2, 32)
    assert (angles[2, 0, 0] > 0).tolist() == [True] * 12 + [False] * 20
    assert (angles[0, 1, 0] > 0).nonzero().flatten().tolist() == list(range(12, 22))
    assert (angles[0, 0, 1] > 0).nonzero().flatten().tolist() == list(range(22, 32))


def test_rotation_keeps_lengths_and_turns_by_the_angle():
    x = normal(2, HEADS, 5, 8)
    turned = rotate(x, rotary_table(8, (5,)))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    quarter = rotate(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[torch.pi / 2]]))
    torch.testing.assert_close(quarter, torch.tensor([[[[0.0, 1.0]]]]), atol=1e-7, rtol=0)


def subgrid(grid, size, offset):
    """Token numbers of a box of `size` at `offset` in a grid, row by row."""
    axes = [torch.arange(start, start + length) for start, length in zip(offset, size, strict=True)]
    places = torch.meshgrid(*axes, indexing="ij")
    token = torch.zeros_like(places[0])
    for place, length in zip(places, grid, strict=True):
        token = token * length + place
    return token.flatten()


@every_row(
    ("grid", "size", "offset"), [((20,), (7,), (9,)), ((9, 9), (2, 3), (5, 4)), ((5, 5, 5), (2, 2, 2), (1, 3, 2))]
)
def test_attention_sees_relative_rotary_positions_only(grid, size, offset):
    table = rotary_table(12, grid)
    here, there = (table[subgrid(grid, size, start)] for start in ((0,) * len(grid), offset))
    q, k = (normal(2, HEADS, len(here), 12, seed=seed) for seed in (1, 2))
    scores = [rotate(q, angles) @ rotate(k, angles).mT for angles in (here, there)]
    torch.testing.assert_close(scores[0], scores[1], atol=2e-5, rtol=1e-5)
    assert (scores[0] - q @ k.mT).abs().max() > 0.1, "the positions do nothing"

    attention = randomised(Attention(12 * HEADS, HEADS))
    x = normal(2, len(here), 12 * HEADS)
    torch.testing.assert_close(attention(x, here), attention(x, there), atol=2e-5, rtol=1e-5)
    assert (attention(x, here) - attention(x)).abs().max() > 0.01
    assert (attention(x, here) - attention(x, here.flip(0) * 3)).abs().max() > 0.01


def test_widths_that_cannot_be_shared_are_refused():
    with pytest.raises(ValueError, match="head width 6 cannot be shared by 2 axes"):
        rotary_table(6, (3, 4))
    with pytest.raises(ValueError, match="hidden_size 24 does not divide by num_heads 5"):
        Attention(24, 5)


# --- attention


def test_attention_is_softmax_attention_by_hand():
    attention, x = randomised(Attention(WIDTH, HEADS)).double(), normal(BATCH, TOKENS, WIDTH, dtype=torch.float64)
    q, k, v = (part.unflatten(-1, (HEADS, HEAD_WIDTH)) for part in attention.qkv(x).chunk(3, dim=-1))
    heads = []
    for head in range(HEADS):
        scores = q[:, :, head] @ k[:, :, head].mT / HEAD_WIDTH**0.5
        heads.append(scores.softmax(-1) @ v[:, :, head])
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(heads, dim=-1)))


@every_row("options", [{}, {"qk_norm": True}, {"swiglu": True}])
def test_what_stands_in_a_masked_token_never_reaches_another(options):
    layer, x, c = block(**options), normal(BATCH, TOKENS, WIDTH), normal(BATCH, WIDTH, seed=1)
    mask = torch.arange(TOKENS) < torch.tensor([[TOKENS], [4], [1]])
    other = torch.where(mask[..., None], x, 50 * normal(BATCH, TOKENS, WIDTH, seed=2))
    angles = rotary_table(HEAD_WIDTH, (TOKENS,))
    before, after = (layer(tokens, c, angles, mask) for tokens in (x, other))
    assert torch.equal(before[mask], after[mask])
    assert (layer(x, c, angles)[mask] - layer(other, c, angles)[mask]).abs().max() > 1e-2, "nothing to hide"


def test_qk_norm_makes_attention_blind_to_the_size_of_queries_and_keys():
    x = normal(BATCH, TOKENS, WIDTH)
    for qk_norm, blind in ((True, True), (False, False)):
        attention = randomised(Attention(WIDTH, HEADS, qk_norm))
        before = attention(x)
        with torch.no_grad():
            attention.qkv.weight[: 2 * WIDTH] *= 5
            attention.qkv.bias[: 2 * WIDTH] *= 5
        assert torch.allclose(before, attention(x), atol=1e-4) is blind


# --- MLPs


def test_swiglu_is_a_gated_product_of_about_an_mlps_parameters():
    def count(module):
        return sum(each.numel() for each in module.parameters())

    assert count(SwiGLU(384, 1536)) == pytest.approx(count(Mlp(384, 1536)), rel=0.01)
    layer, x = randomised(SwiGLU(WIDTH, 96)), normal(BATCH, TOKENS, WIDTH)
    hidden = layer.w12(x)
    gate, value = hidden[..., :64], hidden[..., 64:]
    torch.testing.assert_close(layer(x), layer.w3(gate * torch.sigmoid(gate) * value))


def test_the_mlp_takes_the_tanh_form_of_gelu():
    layer, x = randomised(Mlp(WIDTH, 96)), 4 * normal(BATCH, TOKENS, WIDTH)
    h = layer.fc1(x)
    gelu = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
    torch.testing.assert_close(layer(x), layer.fc2(gelu), atol=1e-6, rtol=1e-5)


# --- conditioning


@every_row("options", [{}, {"qk_norm": True, "swiglu": True}])
def test_a_condition_that_is_the_same_for_each_token_is_the_samples_condition(options):
    x, c = normal(BATCH, TOKENS, WIDTH).double(), normal(BATCH, WIDTH, seed=1).double()
    each = c[:, None].expand(-1, TOKENS, -1)
    for layer in (block(**options).double(), randomised(FinalLayer(WIDTH, 5)).double()):
        torch.testing.assert_close(layer(x, c), layer(x, each))
        assert (layer(x, c) - layer(x, c.roll(1, 0))).abs().max() > 0.1, "the condition does nothing"


def test_a_tokens_condition_shapes_that_token():
    layer, x, c = randomised(FinalLayer(WIDTH, 5)), normal(BATCH, TOKENS, WIDTH), normal(BATCH, TOKENS, WIDTH, seed=1)
    other = c.clone()
    other[:, 2] += 1
    changed = (layer(x, c) != layer(x, other)).any(-1)
    assert changed.tolist() == [[token == 2 for token in range(TOKENS)]] * BATCH


def test_a_block_with_shut_gates_is_the_identity():
    layer = block()
    torch.nn.init.zeros_(layer.adaLN_modulation[1].weight)
    torch.nn.init.zeros_(layer.adaLN_modulation[1].bias)
    x = normal(BATCH, TOKENS, WIDTH)
    assert torch.equal(layer(x, normal(BATCH, WIDTH)), x)


@every_row("options", [{}, {"qk_norm": True, "swiglu": True}])
@every_row("per_token", [False, True])
def test_gradients_are_those_of_finite_differences(options, per_token):
    layer = AdaLNZeroBlock(BlockOptions(4, 2, 2.0, **options)).double()
    randomised(layer)
    x = normal(2, 3, 4, dtype=torch.float64).requires_grad_()
    c = normal(2, *[3] * per_token, 4, seed=1, dtype=torch.float64).requires_grad_()
    angles = rotary_table(2, (3,)).double()
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert torch.autograd.gradcheck(lambda *sides: layer(*sides, angles, mask), (x, c))


@every_row("options", [{}, {"qk_norm": True, "swiglu": True}])
def test_every_parameter_gets_a_gradient(options):
    layer = block(**options)
    (layer(normal(BATCH, TOKENS, WIDTH), normal(BATCH, WIDTH, seed=1)) ** 2).mean().backward()
    dead = [name for name, each in layer.named_parameters() if each.grad is None or not each.grad.abs().max() > 1e-7]
    assert not dead


# --- embedders


def test_time_features_are_cosines_then_sines_of_the_raw_time():
    embedder = TimestepEmbedder(WIDTH, num_frequencies=6)
    features = embedder.features(torch.tensor([0.0, 0.25, 1.0]))
    rates = 10000.0 ** (-torch.arange(3) / 3)
    angles = torch.tensor([0.0, 0.25, 1.0])[:, None] * rates
    torch.testing.assert_close(features, torch.cat([angles.cos(), angles.sin()], dim=1))


def test_a_time_for_each_token_is_embedded_token_by_token():
    embedder = randomised(TimestepEmbedder(WIDTH))
    t = torch.rand(BATCH, TOKENS, generator=torch.Generator().manual_seed(0))
    each = embedder(t)
    assert each.shape == (BATCH, TOKENS, WIDTH)
    torch.testing.assert_close(each[:, 3], embedder(t[:, 3]))
    assert embedder(t[:, 0]).shape == (BATCH, WIDTH)


def test_the_table_of_rates_is_no_weight():
    assert set(TimestepEmbedder(WIDTH).state_dict()) == {"mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"}


def test_the_null_label_is_the_last_row_where_there_is_one():
    assert LabelEmbedder(10, WIDTH, null_row=True)(torch.tensor([0, 10])).shape == (2, WIDTH)
    with pytest.raises(IndexError):
        LabelEmbedder(10, WIDTH, null_row=False)(torch.tensor([10]))

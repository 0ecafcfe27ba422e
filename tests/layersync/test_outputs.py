"""What a block hands over: outputs, axes and tokens that are said, and what is refused until it is."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from layersync import TIME_WEIGHTS, LayerSync
from layersync.hooks import LayerHooks
from layersync.outputs import LayerOutput
from tests.core.stand_in import WIDTH, Player, media
from tests.rows import every_row


class Returning(nn.Module):
    """Blocks that return what a function makes of their number, a parameter times one; the model ignores it."""

    def __init__(self, returned, count=3):
        super().__init__()
        self.blocks = nn.ModuleList(One(returned, number) for number in range(count))

    def forward(self, x):
        for block in self.blocks:
            block(x)
        return x


class One(nn.Module):
    def __init__(self, returned, number):
        super().__init__()
        self.scale, self.returned, self.number = nn.Parameter(torch.ones(())), returned, number

    def forward(self, x):
        return self.returned(lambda *shape, seed=0: self.scale * seeded(*shape, seed=10 * self.number + seed))


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class Output:
    sample: torch.Tensor


def taken(returned, **options):
    """The first block's tokens."""
    model = Returning(returned)
    hooks = LayerHooks(model, [1], output=LayerOutput(**options))
    model(media())
    return hooks.take()["blocks.0"]


def text_and_image(make):
    return make(2, 5, 8), make(2, 9, 8, seed=1)


IMAGE, TEXT = seeded(2, 9, 8, seed=1), seeded(2, 5, 8)


@every_row(
    ("returned", "options", "expected"),
    [
        (lambda make: make(2, 5, 8), {}, TEXT),
        (lambda make: (make(2, 5, 8), torch.zeros(())), {}, TEXT),
        (lambda make: [None, make(2, 5, 8), make(2, 8)], {}, TEXT),
        (lambda make: {"tokens": make(2, 5, 8), "cache": None}, {}, TEXT),
        (text_and_image, {"output": 1}, IMAGE),
        (text_and_image, {"output": 0}, TEXT),
        (text_and_image, {"output": -1}, IMAGE),
        (text_and_image, {"output": lambda returned: returned[1]}, IMAGE),
        (lambda make: (None, make(2, 9, 8, seed=1)), {"output": 1}, IMAGE),  # the last block of SD3
        (lambda make: (None, make(2, 9, 8, seed=1)), {}, IMAGE),
        (lambda make: Output(make(2, 5, 8)), {"output": "sample"}, TEXT),
        (lambda make: dict(zip(("text", "image"), text_and_image(make), strict=True)), {"output": "image"}, IMAGE),
        (lambda make: make(2, 5, 8).transpose(0, 1), {"token_dim": 0}, TEXT),
        (lambda make: make(2, 5, 8).transpose(1, 2), {"token_dim": 2}, TEXT),
        (lambda make: make(2, 5, 8).transpose(1, 2), {"token_dim": -1}, TEXT),
        (lambda make: make(2, 3, 4, 8), {"token_dim": (1, 2)}, seeded(2, 3, 4, 8)),
        (lambda make: make(2, 3, 4, 8).movedim(-1, 1), {"token_dim": (2, 3)}, seeded(2, 3, 4, 8)),
        (lambda make: make(2, 3, 4, 8).movedim(-1, 1), {"token_dim": [-2, -1]}, seeded(2, 3, 4, 8)),
        (lambda make: make(2, 5, 8), {"tokens": slice(1, None)}, TEXT[:, 1:]),
        (lambda make: make(2, 5, 8), {"tokens": lambda tokens: tokens[:, ::2]}, TEXT[:, ::2]),
        (text_and_image, {"output": 1, "tokens": slice(-4, None)}, IMAGE[:, -4:]),
    ],
)
def test_tokens_are_found_where_they_are_said_to_be(returned, options, expected):
    assert torch.equal(taken(returned, **options), expected)


@every_row(
    ("returned", "options", "error", "message"),
    [
        (
            text_and_image,
            {},
            ValueError,
            r"tuple of \(Tensor \(2, 5, 8\), Tensor \(2, 9, 8\)\): several.*1 the second",
        ),
        (text_and_image, {"output": 2}, ValueError, r"tuple of .*in which output=2 is no tensor"),
        (lambda make: make(2, 5, 8), {"output": 1}, ValueError, r"Tensor \(2, 5, 8\), in which output=1 is no"),
        (lambda make: (None, make(2, 5, 8)), {"output": 0}, ValueError, r"\(None, Tensor .*output=0 is no tensor"),
        (lambda make: {"a": make(2, 5, 8)}, {"output": "b"}, ValueError, r"dict of \(a: Tensor .*output='b'"),
        (lambda make: Output(make(2, 5, 8)), {}, TypeError, r"returned Output; needed: a tensor or a tuple"),
        (lambda make: None, {}, TypeError, r"returned None; needed"),
        (lambda make: (), {}, TypeError, r"returned tuple of \(\); needed"),
        (lambda make: make(2, 5, 8), {"output": lambda out: [out]}, TypeError, r"output= gave list of \(Tensor"),
        (lambda make: torch.zeros(2, 5, 8, dtype=torch.int64), {}, TypeError, r"torch.int64 values; needed"),
        (lambda make: make(2, 8), {}, ValueError, r"Tensor \(2, 8\); needed: tokens \(B, N, D\)"),
        (
            lambda make: make(2, 8, 4, 4),
            {},
            ValueError,
            r"\(2, 8, 4, 4\).*token_dim=\(2, 3\) for \(B, C, H, W\)",
        ),
        (lambda make: make(2, 8, 4, 4), {"token_dim": 1}, ValueError, r"token_dim=1 it needs two more axes"),
        (lambda make: make(2, 5, 8), {"token_dim": 3}, ValueError, r"token_dim=3 it needs two more axes"),
        (lambda make: make(2, 5, 8), {"token_dim": (1, 1)}, ValueError, r"token_dim=\(1, 1\) it needs two more"),
        (
            lambda make: make(2, 5, 8),
            {"tokens": slice(5, None)},
            ValueError,
            r"no token is left, of Tensor \(2, 5",
        ),
        (lambda make: make(2, 0, 8), {}, ValueError, r"no token is left"),
        (
            lambda make: make(2, 3, 4, 8),
            {"token_dim": (1, 2), "tokens": slice(1, None)},
            ValueError,
            r"for one axis of tokens; give a function",
        ),
        (lambda make: make(2, 5, 8), {"tokens": lambda x: x[0]}, ValueError, r"tokens= made Tensor \(5, 8\)"),
    ],
)
def test_what_is_not_clear_is_refused_with_what_the_block_returned(returned, options, error, message):
    with pytest.raises(error, match=rf"layer 'blocks\.0'.*{message}"):
        taken(returned, **options)


@every_row(
    ("option", "value"),
    [
        *[("output", True), ("output", 1.5), ("token_dim", "N"), ("token_dim", ()), ("token_dim", (1.0,))],
        *[("tokens", tokens) for tokens in (3, slice("a"), slice(None, None, -1), slice(0, 3, 0), slice(0.5, 1))],
    ],
)
def test_an_option_that_is_none_is_refused_when_layersync_is_built(option, value):
    model = Returning(text_and_image)
    with pytest.raises(ValueError, match=rf"{option} is .*needed"):
        LayerSync(model, [(1, 2)], **{option: value})
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_nothing_is_raised_inside_of_the_model():
    """A model that is sampled from goes on; the fault is told where the loss is taken."""
    model = Returning(text_and_image)
    sync = LayerSync(model, [(1, 3)])
    for mode in (True, False):
        assert torch.equal(model.train(mode)(media()), media())
        with pytest.raises(ValueError, match="several of them may be tokens"):
            sync()


def test_each_layer_may_hand_over_in_its_own_way():
    def returned(make):
        first = make(2, 9, 8)
        return (make(2, 5, 8, seed=2), first) if first.flatten()[0] == IMAGE_OF[0].flatten()[0] else first

    model = Returning(returned)
    sync = LayerSync(model, [(1, 2)], output={1: 1}, weight=1.0)
    model(media())
    cosine = torch.cosine_similarity(IMAGE_OF[0], IMAGE_OF[1], dim=-1).mean()
    torch.testing.assert_close(sync(), -cosine)
    with pytest.raises(ValueError, match=r"output names \[3\]; the layers in pairs are \[1, 2\]"):
        LayerSync(model, [(1, 2)], output={3: 1})


IMAGE_OF = [seeded(2, 9, 8, seed=10 * number) for number in range(3)]


# images as feature maps


def feature_maps(**options):
    """Two convolutional blocks as a list, and the cosine of their features at each pixel."""
    torch.manual_seed(0)
    model = nn.ModuleList(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.GroupNorm(2, 6)) for _ in range(2))
    root = Through(model)
    sync = LayerSync(root, [(1, 2)], weight=1.0, blocks="blocks", **options)
    x = seeded(2, 6, 3, 5)
    root(x)
    first = model[0](x)
    return sync, torch.cosine_similarity(first, model[1](first), dim=1).mean()


class Through(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.blocks = blocks

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_feature_maps_need_a_word_and_are_then_compared_pixel_by_pixel():
    with pytest.raises(
        ValueError, match=r"'blocks\.0' returned Tensor \(2, 6, 3, 5\).*token_dim=\(2, 3\) for \(B, C, H, W\)"
    ):
        feature_maps()[0]()
    sync, expected = feature_maps(token_dim=(2, 3))
    loss = sync()
    torch.testing.assert_close(loss, -expected)
    loss.backward()
    assert sync.model.blocks[0][0].weight.grad.abs().max() > 0


def test_a_convolution_over_time_needs_a_word():
    with pytest.raises(ValueError, match=r"made of 1-D convolutions.*2 for \(B, C, N\)"):
        LayerSync(nn.ModuleList(nn.Conv1d(4, 4, 3) for _ in range(3)), [(1, 2)])


class Convolving(nn.Module):
    """A convolution over time and a linear map: of its conditions, or of its tokens."""

    def __init__(self, transposed):
        super().__init__()
        self.convolution, self.linear = nn.Conv1d(6, 6, 3, padding=1), nn.Linear(6, 6)
        self.transposed = transposed

    def forward(self, x):
        if self.transposed:
            return self.linear(x) + self.convolution(x.transpose(1, 2)).transpose(1, 2)
        return self.convolution(x) + self.linear(x.mean(-1)).unsqueeze(-1)


def test_a_convolution_with_a_linear_map_shows_its_axes_in_what_it_returns():
    columns, rows = ([Convolving(kind) for _ in range(2)] for kind in (False, True))
    model = Through(nn.ModuleList(columns))
    sync = LayerSync(model, [(1, 2)])
    model(seeded(2, 6, 9))
    with pytest.raises(ValueError, match=r"'blocks\.0' returned Tensor \(2, 6, 9\) of 1-D conv.*2 for \(B, C, N\)"):
        sync()
    told = LayerSync(model, [(1, 2)], token_dim=2)
    model(seeded(2, 6, 9))
    assert told.hooks.take()["blocks.0"].shape == (2, 9, 6)
    model = Through(nn.ModuleList(rows))
    sync = LayerSync(model, [(1, 2)])
    for count in (9, 6):
        model(seeded(2, count, 6))
        assert sync.hooks.take()["blocks.0"].shape == (2, count, 6)


# sequences that come before their batch


def encoder(batch_first, depth=2):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, batch_first=batch_first)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


def encoder_loss(batch_first, **options):
    """Of as many samples as tokens, weighted by time and masked."""
    model = encoder(batch_first)
    sync = LayerSync(model, [(1, 2)], time_weight=TIME_WEIGHTS["towards_data"], **options)
    x = seeded(4, 4, WIDTH)
    model(x if batch_first else x.transpose(0, 1))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    return sync(t=torch.tensor([0.1, 0.4, 0.6, 1.0]), mask=mask)


def test_an_encoder_of_torch_says_itself_that_its_sequence_comes_first():
    torch.testing.assert_close(encoder_loss(batch_first=False), encoder_loss(batch_first=True))
    torch.testing.assert_close(encoder_loss(batch_first=False, token_dim=0), encoder_loss(batch_first=True))


def test_an_encoder_that_packs_padding_away_while_evaluating_is_told_how_not_to():
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 3).eval()
    sync = LayerSync(model, [(1, 2)])
    with torch.no_grad():
        model(seeded(2, 4, WIDTH), src_key_padding_mask=torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1]]).bool())
    with pytest.raises(TypeError, match=r"'layers\.0' returned a nested tensor; .*enable_nested_tensor=False"):
        sync()


class Attending(nn.Module):
    """A block of somebody's own around torch's attention, whose default is sequence-first."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2)

    def forward(self, x):
        return x + self.attention(x, x, x)[0]


def test_attention_over_the_first_axis_needs_a_word_where_it_matters():
    model = Through(nn.ModuleList(Attending() for _ in range(2)))
    sync = LayerSync(model, [(1, 2)])
    model(seeded(4, 4, WIDTH))
    assert sync().isfinite()  # a mean over all tokens is the same
    model(seeded(4, 4, WIDTH))
    with pytest.raises(ValueError, match=r"batch_first=False.*token_dim=0, or token_dim=1"):
        sync(mask=torch.ones(4, 4))
    told = LayerSync(model, [(1, 2)], token_dim=0)
    model(seeded(4, 4, WIDTH))
    assert told(mask=torch.ones(4, 4)).isfinite()


class Recurring(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrence = nn.GRU(WIDTH, WIDTH)

    def forward(self, x):
        return self.recurrence(x)[0]


def test_a_recurrence_over_the_first_axis_needs_a_word_where_it_matters():
    model = Through(nn.ModuleList(Recurring() for _ in range(2)))
    sync = LayerSync(model, [(1, 2)])
    model(seeded(4, 4, WIDTH))
    with pytest.raises(ValueError, match=r"batch_first=False.*token_dim=0, or token_dim=1"):
        sync(mask=torch.ones(4, 4))


def test_a_prefix_does_not_count_when_it_is_left_out():
    weak, strong = seeded(2, 6, 8, seed=1), seeded(2, 6, 8, seed=2)
    model = Player([weak, strong])
    sync = LayerSync(model, [(1, 2)], weight=1.0, tokens=slice(2, None))
    model(torch.zeros(1))
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()  # of the tokens that are left
    cosine = torch.cosine_similarity(weak, strong, dim=-1)
    expected = torch.stack([cosine[0, 2:5].mean(), cosine[1, 2:4].mean()])
    torch.testing.assert_close(sync(mask=mask), -expected.mean())

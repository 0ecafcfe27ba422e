"""Conditions that are sequences of tokens with a mask train, are dropped, guide samples, as one tensor does."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import nn

from core.alignment.contract import NoAlignment
from core.conditioning.contract import drop_rows
from core.contracts import Batch, Requests, TokenSequence, concatenate
from core.data.stream import collate
from core.draws import StepRandom
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.flow.path import Interpolant, build_path
from core.flow.sampler import Sampler, SamplerConfig
from core.generate import Generator
from core.step import TrainingLoss

ROWS, TOKENS, WIDTH, TEXT = 6, 4, 8, 5


class Reader(nn.Module):
    """Latents (B, N, D) whose tokens attend to a text (B, L, D) and not to each other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.time, self.query, self.text = nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x, t, condition, mask=None):
        keys, values = self.text(condition.tokens).chunk(2, dim=-1)
        query = self.query(x + self.time(t[:, None])[:, None])
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=condition.mask[:, None])

    def expand(self, values, x):
        return values.reshape(*values.shape, *[1] * (x.ndim - values.ndim))


class Texts:
    """The null text is one token of zeros."""

    def drop(self, condition, random):
        return drop_rows(condition, self.null(condition), 0.5, random)

    def null(self, condition):
        first = torch.zeros_like(condition.mask)
        first[:, 0] = True
        return TokenSequence(torch.zeros_like(condition.tokens), first)


class Same:
    """Media are latents."""

    def encode(self, media, random):
        return media

    def decode(self, latents):
        return latents


def texts(seed=0):
    """Texts of one to five tokens."""
    tokens = torch.randn(ROWS, TEXT, WIDTH, generator=torch.Generator().manual_seed(seed))
    return TokenSequence(tokens, torch.arange(TEXT) < 1 + torch.arange(ROWS)[:, None] % TEXT)


def other_padding(sequence):
    """The same texts with other numbers behind their ends."""
    return replace(sequence, tokens=torch.where(sequence.mask[..., None], sequence.tokens, 9.0))


def same(a, b):
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.mask, b.mask)


def test_samples_with_texts_make_a_batch_that_is_cut_and_joined():
    items = [{"media": torch.ones(TOKENS, WIDTH), "condition": texts()[i], "index": i} for i in range(ROWS)]
    batch = collate(items).to("cpu")
    assert len(batch) == len(batch.condition) == ROWS and batch.mask is None and same(batch.condition, texts())
    assert same(concatenate(batch[:2], batch[2:]).condition, texts()) and batch[2:].index.tolist() == [2, 3, 4, 5]
    with pytest.raises(ValueError, match="5 of 6 have no value, such as a mask; needed: all or none"):
        collate([{**items[0], "mask": torch.ones(TOKENS, dtype=torch.bool)}, *items[1:]])


def test_a_step_trains_on_texts_and_drops_some():
    network, seen = Reader(), []
    network.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    objective = FlowMatching(ObjectiveConfig(), network.expand)
    loss = TrainingLoss(Same(), Texts(), network, network, objective, NoAlignment())
    batch, random = Batch(torch.ones(ROWS, TOKENS, WIDTH), texts(), torch.arange(ROWS)), StepRandom(0, 0)
    first = loss(batch, random, 0)
    first.total.backward()
    assert all(weight.grad.abs().max() > 0 for weight in network.parameters())
    dropped = random.uniform("condition drop", (ROWS,)) < 0.5
    assert 0 < dropped.sum() < ROWS
    assert same(seen[0][dropped], Texts().null(texts())[dropped]) and same(seen[0][~dropped], texts()[~dropped])
    assert torch.equal(loss(replace(batch, condition=other_padding(texts())), random, 0).flow, first.flow)
    changed = loss(replace(batch, condition=texts(1)), random, 0).flow != first.flow
    assert torch.equal(changed, ~dropped)


@pytest.mark.parametrize("masked", [False, True])
def test_a_sample_guided_by_a_text_does_not_depend_on_the_batch(masked):
    interpolant = Interpolant(build_path("linear"))
    sampler = Sampler(SamplerConfig(num_steps=3, guidance_scale=2.0), interpolant, "velocity")
    make = Generator(Reader(), sampler, Same(), Texts(), (TOKENS, WIDTH))
    mask = torch.arange(TOKENS) < 1 + torch.arange(ROWS)[:, None] % TOKENS if masked else None
    whole = make(Requests(texts(), mask), 0, ROWS)
    for size in (1, 4):
        torch.testing.assert_close(make(Requests(other_padding(texts()), mask), 0, size), whole)
    assert (make(Requests(texts(1), mask), 0, ROWS) - whole).abs().flatten(1).amax(1).min() > 0.01
    assert masked or torch.equal(make(texts(), 0, ROWS), whole)

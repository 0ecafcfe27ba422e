"""Tokens that skip blocks: which they are, what the network makes of them, what is aligned, counted and refused."""

import functools

import pytest
import torch

from audio.train import ENTRY as TRAIN_AUDIO
from core.alignment.layersync import LayerSyncConfig
from core.contracts import Batch
from core.draws import StepRandom
from core.nets.routing import Routing, take_tokens
from core.step import TrainingLoss
from core.train.flops import forward_flops
from image.train import ENTRY as TRAIN
from layersync.tokens import token_cosine
from motion.train import ENTRY as TRAIN_MOTION
from tests.core.alignment.parts import loss_parts, tiny
from tests.core.alignment.test_two_times import MDM
from tests.core.train.small import batch_of, make_trainer, opened
from tests.core.train.test_controls import taken
from tests.rows import every_row
from video.train import ENTRY as TRAIN_VIDEO

MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()


def inputs(seed=0):
    """Latents (3, 2, 6, 4), of 6 tokens, times and labels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, 6, 4, generator=generator), torch.rand(3, generator=generator), torch.tensor([0, 1, 2])


# which tokens


def test_the_share_skips_another_half_in_each_step_and_sample():
    routing, shape = Routing(0.5), (2000, 7)
    first, again, later = (routing.draw(StepRandom(3, step), shape) for step in (0, 0, 1))
    assert first.shape == (2000, 4) and (first.diff(dim=1) > 0).all() and first.max() == 6
    assert torch.equal(first, again) and not torch.equal(first, later) and len(first.unique(dim=0)) == 35
    shares = torch.bincount(first.flatten(), minlength=7) / 2000
    assert (shares - 4 / 7).abs().max() < 5 * (0.25 / 2000) ** 0.5
    part = routing.draw(StepRandom(3, 0, global_rows=2000, first_row=900), (5, 7))
    assert torch.equal(part, first[900:905]), "a part of the batch has what the whole has"


@every_row("share", [0.2, 0.5, 0.9])
def test_of_the_real_tokens_the_share_skips_too(share):
    kept = Routing(share).draw(StepRandom(0, 0), (3, 6), MASK)
    assert kept.shape == (3, 6 - int(share * 6))
    for row, real in enumerate((6, 4, 1)):
        assert len(kept[row].unique()) == kept.shape[1]
        assert MASK[row, kept[row]].sum() == real - int(share * real) >= 1


# what the network makes of them


@every_row("rope", [False, True])
@every_row("times", ["sample", "token", "two"])
@every_row("masked", [False, True])
def test_tokens_that_stay_see_each_other_alone_and_those_that_skip_are_as_they_were(rope, times, masked):
    """Through all blocks: a mask that hides the others gives the first the same, no blocks at all the second."""
    model = tiny(rope=rope).eval()
    x, t, condition = inputs()
    mask = MASK if masked else None
    kept = Routing(0.5).draw(StepRandom(0, 0), (3, 6), mask)
    if times != "sample":
        t = torch.where(torch.arange(6) % 2 == 0, t[:, None], 0.5 * t[:, None])
        model.two_times = times == "two"
    model.routed = (1, 3)
    found = model.patches(model(x, t, condition, mask, kept))
    stays = torch.zeros(3, 6).bool().scatter(1, kept, True)
    alone = model.patches(model(x, t, condition, stays if mask is None else stays & mask))
    seen = stays if mask is None else stays & mask
    torch.testing.assert_close(found[seen], alone[seen], atol=1e-4, rtol=1e-4)
    model.blocks = torch.nn.ModuleList()
    torch.testing.assert_close(found[~stays], model.patches(model(x, t, condition, mask))[~stays])


def test_they_skip_the_blocks_that_are_named_and_rejoin():
    model = tiny(depth=4)
    given, made = {}, {}
    for number, block in enumerate(model.blocks, start=1):
        block.register_forward_pre_hook(lambda module, args, number=number: given.update({number: args[0]}))
        block.register_forward_hook(lambda module, args, out, number=number: made.update({number: out}))
    kept = Routing(0.5).draw(StepRandom(0, 0), (3, 6))
    model.routed = (2, 3)
    model(*inputs(), None, kept)
    assert [len(given[number][0]) for number in (1, 2, 3, 4)] == [6, 3, 3, 6]
    assert torch.equal(given[2], take_tokens(made[1], kept)) and torch.equal(given[3], made[2])
    stays = torch.zeros(3, 6).bool().scatter(1, kept, True)
    assert torch.equal(take_tokens(given[4], kept), made[3]) and torch.equal(given[4][~stays], made[1][~stays])


def gradient(compiled):
    """The gradient of two steps, eager, or with the blocks or the model compiled; compiled blocks are recomputed."""
    model = tiny(depth=2, rope=True)
    model.routed, model.checkpoint_blocks = (1, 1), compiled == "blocks"
    network = torch.compile(model, backend="eager") if compiled == "model" else model
    if compiled == "blocks":
        for part in model.parts():
            part.compile(backend="eager")
    for step in (0, 1):
        kept = Routing(0.5).draw(StepRandom(0, step), (3, 6))
        network(*inputs(), None, kept).square().mean().backward()
    return torch.cat([each.grad.flatten() for each in model.parameters()])


@every_row("compiled", ["blocks", "model"])
def test_compiled_and_recomputed_it_is_the_same(compiled):
    torch.testing.assert_close(gradient(compiled), gradient(None), atol=1e-5, rtol=1e-4)


# a training step


@every_row("pair", [(1, 2), (2, 3), (3, 4), (1, 4)])
@every_row("mask", [None, MASK])
def test_layersync_aligns_the_tokens_that_both_sides_have(pair, mask):
    model, tokens = tiny(depth=4), {}
    for number in pair:
        model.blocks[number - 1].register_forward_hook(
            lambda module, args, out, number=number: tokens.update({number: out})
        )
    routing, random = Routing(0.5, 2, 3), StepRandom(0, 0)
    model.routed = (2, 3)
    x, _, labels = inputs()
    loss = TrainingLoss(*loss_parts(model), LayerSyncConfig(pairs=[pair]).build(model), routing=routing)
    losses = loss(Batch(x, labels, torch.arange(3), mask), random, 0)
    kept = routing.draw(random, (3, 6), mask)
    whole = pair == (1, 4)
    both = [tokens[number] if whole or number in (2, 3) else take_tokens(tokens[number], kept) for number in pair]
    counts = torch.ones(3, 6).bool() if mask is None else mask
    counts = counts if whole else take_tokens(counts, kept)
    wanted = token_cosine(*both)[counts]
    assert both[0].shape[1] == (6 if whole else 3)
    if mask is None:
        torch.testing.assert_close(losses.similarity[f"{pair[0]}->{pair[1]}"], wanted.mean().detach())
    else:
        assert (
            torch.isfinite(losses.total) and wanted.min() <= losses.similarity[f"{pair[0]}->{pair[1]}"] <= wanted.max()
        )
    losses.total.backward()


ROUTED = ("backbone.depth=4", "+trainer.routing.share=0.5", "+trainer.routing.first=2", "+trainer.routing.last=3")


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A trainer of a tiny run, without half a second of matrix products for a column of speed.jsonl."""
    monkeypatch.setattr("core.train.trainer.matmul_peak", lambda *told: 1e12)
    return functools.partial(make_trainer, tmp_path)


def test_a_run_learns_with_it_and_samples_without(make):
    words = ("alignment.pairs=[[2,4]]", *ROUTED)
    whole, _, losses = taken(opened(make(*words)))
    parts, _, _ = taken(opened(make(*words, "trainer.accumulate=2")))
    torch.testing.assert_close(parts, whole, atol=1e-5 * float(whole.abs().max()), rtol=0)
    plain, _, without = taken(opened(make("alignment.pairs=[[2,4]]", "backbone.depth=4")))
    assert not torch.allclose(losses.flow, without.flow) and not torch.allclose(plain, whole)
    routed, usual = (opened(make(*more, "backbone.depth=4", "alignment.pairs=[[2,4]]")) for more in (ROUTED, ()))
    batch = batch_of(usual)
    for trainer in (routed, usual):
        trainer.model.eval()
    with torch.no_grad(), routed.alignment.paused(), usual.alignment.paused():
        found, wanted = (each.model(batch.media, torch.full((8,), 0.5), batch.condition) for each in (routed, usual))
    assert torch.equal(found, wanted)


def test_the_arithmetic_that_is_skipped_is_not_counted(make):
    model, routing = tiny(depth=4), Routing(0.5, 2, 3)
    labels = torch.zeros(1, dtype=torch.long)
    whole = forward_flops(model, (2, 6, 4), labels)
    model.routed = (2, 3)
    width, tokens = 24, 6
    each = 2 * 12 * width**2 * (tokens - 3) + 4 * width * (tokens**2 - 3**2)  # linear maps, and two products
    assert forward_flops(model, (2, 6, 4), labels, routing=routing) == whole - 2 * each
    routed, usual = (make("alignment=none", "backbone.depth=4", *more) for more in (ROUTED, ()))
    assert 0.6 < routed.flops / usual.flops < 0.9
    taught = make("alignment=sra", "alignment.pairs=[[1,4]]", *ROUTED)
    assert taught.flops >= routed.flops + usual.flops // 3, "the average's pass skips nothing"


# refusals

HALF = ["+trainer.routing.share=0.5"]
REFUSED = [
    (TRAIN, ["+trainer.routing.share=0.0"], r"trainer.routing.share is 0.0; it must lie in \(0, 1\)"),
    (TRAIN, ["+trainer.routing.share=1.0"], "trainer.routing.share is 1.0"),
    (TRAIN, ["+trainer.routing.first=0"], "trainer.routing.first is 0 and last 8; needed: block numbers from 1, in"),
    (TRAIN, ["+trainer.routing.first=5", "+trainer.routing.last=4"], "trainer.routing.first is 5 and last 4"),
    (TRAIN, ["+trainer.routing.last=9"], "trainer.routing.last is 9; the backbone has blocks 1 to 8"),
    (TRAIN, [*HALF, "alignment=sra", "alignment.pairs=[[2,5]]"], "skip blocks 2 to 8, but alignment.pairs of alignm"),
    (TRAIN, [*HALF, "alignment=sra", "alignment.pairs=auto"], "alignment 'sra', which needs all tokens, names 2"),
    (TRAIN, [*HALF, "alignment=dispersive", "alignment.layer=2"], "'dispersive', which needs all tokens, names 2"),
    (TRAIN, [*HALF, "alignment=sra2", "alignment.layer=blocks.0"], "'sra2', which needs all tokens, names blocks.0"),
    (
        TRAIN,
        [*HALF, "alignment.teacher=ema", "alignment.pairs=[[1,5]]"],
        "'layersync', which needs all tokens, names 5",
    ),
    (TRAIN, [*HALF, "alignment.pairs=adaptive"], "but alignment.pairs may become any block; allowed with it: numbers"),
    (
        TRAIN_AUDIO,
        [*HALF, "alignment.neighbour_frames=1", "alignment.pairs=[[2,5]]"],
        "which needs all tokens, names 2",
    ),
    (TRAIN_VIDEO, [*HALF, "backbone=latte"], "trainer.routing is given, but tokens cannot skip blocks of this backb"),
    (TRAIN_MOTION, [*HALF, *MDM], "trainer.routing is given, but tokens cannot skip blocks of this backbone"),
]


def test_what_cannot_be_is_refused_where_the_config_is_read():
    for entry, words, message in REFUSED:
        with pytest.raises(ValueError, match=message):
            entry.config(words)
    for words in (["alignment.pairs=[[2,5]]"], ["alignment=sra2", "alignment.layer=1"], ["alignment=none"]):
        assert TRAIN.config([*HALF, *words]).trainer.routing == Routing(0.5, 2, 8)
    with pytest.raises(ValueError, match=r"trainer\.routing\.share is 0\.1, of 6 tokens none; needed: 0\.167"):
        Routing(0.1).kept(6)

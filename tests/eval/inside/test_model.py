"""Opening a run and listening to its blocks: what passes through, with which noise, under which condition."""

import pytest
import torch

from core.draws import SampleRandom
from eval.inside.model import ForwardOptions, capture_tokens, choose_rows, collect, domain_module, pool, read_rows
from eval.inside.splits import split_rows
from tests.eval.inside.toy_model import CLASSES, TOKENS, WIDTH, Backbone, Function, opened, residual


def test_tokens_are_those_of_the_blocks_at_the_point_on_the_path():
    """Identity, then doubled: block 1 is x_t = t data + (1 - t) noise with the noise of (seed, row)."""
    model = opened(Backbone([Function(lambda x: x + 0), Function(lambda x: 2 * x)]))
    rows, forward = [5, 3, 60], ForwardOptions(seed=11, batch_size=2)
    tokens, mask = collect(model, rows, 0.25, forward, pooled=False)
    noise = SampleRandom(11, rows).normal("noise", (3, TOKENS, WIDTH))
    expected = 0.25 * model.domain.dataset.media[rows] + 0.75 * noise
    torch.testing.assert_close(tokens[0], expected)
    torch.testing.assert_close(tokens[1], 2 * expected)
    assert mask is None


def test_pooled_tokens_are_means_whatever_the_batch_size():
    model = opened(residual())
    whole, _ = collect(model, range(10), 0.5, ForwardOptions(), pooled=False)
    for size in (3, 64):
        pooled, _ = collect(model, range(10), 0.5, ForwardOptions(batch_size=size))
        for a, b in zip(whole, pooled, strict=True):
            torch.testing.assert_close(a.mean(1), b)


def test_pooling_leaves_padding_out():
    tokens = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    assert pool(tokens, mask).tolist() == [[2, 3], [8, 9]]
    with pytest.raises(ValueError, match="3 tokens, the mask of the data has 2"):
        pool(tokens, mask[:, :2])


@pytest.mark.parametrize(
    ("condition", "seen"), [("unconditional", [2, 2, 2]), ("own", [1, 1, 0]), ("requested", [0, 1, 0])]
)
def test_the_condition_is_the_one_that_was_asked_for(condition, seen):
    model = opened(residual())
    collect(model, [5, 3, 60], 1.0, ForwardOptions(condition=condition, batch_size=2))
    assert torch.cat(model.domain.backbone.seen).tolist() == seen
    assert CLASSES == 2


def test_noise_is_the_same_at_all_times_and_nothing_keeps_a_gradient_or_a_hook():
    model = opened(residual())
    captured = list(capture_tokens(model, [0, 1], [0.0, 1.0], ForwardOptions()))
    assert [each.t for each in captured] == [0, 1]
    assert not captured[0].output.requires_grad
    torch.testing.assert_close(captured[1].x_t, model.domain.dataset.media[:2])
    assert not any(block._forward_hooks for block in model.domain.backbone.blocks)


def test_a_null_condition_that_was_never_trained_is_refused():
    model = opened(residual())
    object.__setattr__(model, "null_trained", False)
    with pytest.raises(ValueError, match=r"condition is 'unconditional' but the run has conditioning.drop 0"):
        collect(model, [0], 0.5, ForwardOptions())


@pytest.mark.parametrize("times", [[], [-0.1], [1.5], [0.5, 0.5]])
def test_bad_times_are_refused(times):
    with pytest.raises(ValueError, match=r"distinct times in \[0, 1\]"):
        next(capture_tokens(opened(residual()), [0], times, ForwardOptions()))


def test_rows_are_a_shuffled_data_set_cut():
    dataset = opened(residual()).domain.dataset
    rows = choose_rows(dataset, 10, seed=0)
    assert rows == choose_rows(dataset, None, seed=0)[:10] != choose_rows(dataset, 10, seed=1)
    assert sorted(choose_rows(dataset, None, seed=0)) == list(range(64))
    assert read_rows(dataset, [7, 2], seed=0).index.tolist() == [7, 2]


def test_without_named_splits_a_hashed_fifth_is_held_out():
    sides = split_rows(opened(residual(), rows=500), None, seed=0)
    again = split_rows(opened(residual(), rows=500), None, seed=1)
    assert sides.kind == "hashed"
    assert sorted(sides.train.rows + sides.heldout.rows) == list(range(500))
    assert 70 < len(sides.heldout.rows) < 130
    assert set(sides.heldout.rows) == set(again.heldout.rows)


@pytest.mark.parametrize("name", ["nodomain", "os", "core", "../x"])
def test_an_unknown_domain_is_named(name):
    with pytest.raises(ValueError, match="run belongs to the domain"):
        domain_module(name)

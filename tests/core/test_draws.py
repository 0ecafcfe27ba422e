"""Randomness as a function of (seed, what it is for)."""

from itertools import pairwise

import pytest
import torch

from core.draws import SampleRandom, StepRandom, fold_seed, numpy_rng
from tests.rows import every_row

every_kind = every_row("kind", ["normal", "uniform"])


def draw(random, kind, stream, shape):
    return getattr(random, kind)(stream, shape)


def check_law(values, kind):
    """Mean, variance and range of many draws."""
    mean, variance = {"normal": (0.0, 1.0), "uniform": (0.5, 1 / 12)}[kind]
    fourth = {"normal": 2.0, "uniform": 1 / 180}[kind]  # variance of the squared deviation
    assert values.mean().item() == pytest.approx(mean, abs=5 * (variance / values.numel()) ** 0.5)
    assert values.var().item() == pytest.approx(variance, abs=5 * (fourth / values.numel()) ** 0.5)
    if kind == "uniform":
        assert values.min() >= 0 and values.max() < 1


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


# seeds


def test_seeds_are_stable_for_ever():
    """A change here changes every sample and every resumed run."""
    assert fold_seed(0) == 4246866556266386882
    assert fold_seed(1234, 7, "noise") == 8010267899273890941
    assert fold_seed("a", -1) == 178177308365746355
    assert numpy_rng(0, "order").integers(1 << 30, size=2).tolist() == [681802238, 184333709]


def test_seeds_fit_and_differ():
    parts = [(seed, step, stream) for seed in range(20) for step in range(20) for stream in ("time", "noise", "drop")]
    seeds = {fold_seed(*each) for each in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed >> 58 for seed in seeds}) == 32  # all upper bits are in use
    assert fold_seed(1, 23) != fold_seed(12, 3)


# training


@every_kind
@every_row("cuts", [(0, 4, 8), (0, 1, 2, 8), (0, 3, 6, 8), (0, 8)])
@every_row("row", [(), (5,), (4, 3, 3)])
def test_rows_of_a_split_batch_are_those_of_the_whole(kind, cuts, row):
    whole = draw(StepRandom(3, 11), kind, "noise", (8, *row))
    for first, end in pairwise(cuts):
        part = StepRandom(3, 11, global_rows=8, first_row=first)
        assert torch.equal(draw(part, kind, "noise", (end - first, *row)), whole[first:end])


@every_kind
def test_a_step_draws_the_law_that_it_is_asked_for(kind):
    check_law(draw(StepRandom(0, 0), kind, "noise", (1000, 100)), kind)


@every_kind
def test_streams_steps_and_seeds_are_independent(kind):
    base = draw(StepRandom(0, 0), kind, "noise", (100, 100))
    assert torch.equal(base, draw(StepRandom(0, 0), kind, "noise", (100, 100)))
    for random, stream in ((StepRandom(0, 0), "time"), (StepRandom(0, 1), "noise"), (StepRandom(1, 0), "noise")):
        assert abs(correlation(base, draw(random, kind, stream, (100, 100)))) < 0.05


def test_global_randomness_is_left_alone():
    """Nor does a step have a state of its own: it draws the same again."""
    state, random = torch.get_rng_state(), StepRandom(0, 5)
    first = random.normal("noise", (4, 2))
    random.uniform("time", (4,))
    SampleRandom(0, [1, 2]).uniform("start", (2, 2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(random.normal("noise", (4, 2)), first)


@every_row(("first_row", "rows"), [(6, 3), (8, 1), (0, 9)])
def test_rows_outside_the_global_batch_are_refused(first_row, rows):
    with pytest.raises(ValueError, match=rf"rows {first_row} to {first_row + rows} .*8"):
        StepRandom(0, 0, global_rows=8, first_row=first_row).normal("noise", (rows, 2))


# sampling


@every_kind
@every_row("row", [(), (5,), (4, 3, 3)])
def test_a_sample_does_not_depend_on_its_neighbours(kind, row):
    whole = draw(SampleRandom(3, range(7)), kind, "start", (7, *row))
    assert len(whole.flatten(1).unique(dim=0) if row else whole.unique()) == 7
    for indices in ([0], [6, 2], [1, 3, 5], [4, 4]):
        part = draw(SampleRandom(3, indices), kind, "start", (len(indices), *row))
        assert torch.equal(part, whole[indices])


@every_kind
def test_a_stream_of_samples_continues(kind):
    """An SDE solver draws again and again; what other streams do meanwhile changes nothing."""
    random, again = SampleRandom(0, [4, 5]), SampleRandom(0, [5])
    draws = []
    for _ in range(3):
        draws.append(draw(random, kind, "sde", (2, 50)))
        random.normal("other", (2, 7))
    for each in draws:
        assert torch.equal(draw(again, kind, "sde", (1, 50)), each[1:])
    assert not torch.equal(draws[0], draws[1])


@every_kind
def test_samples_draw_the_law_that_they_are_asked_for(kind):
    check_law(draw(SampleRandom(0, range(200)), kind, "start", (200, 500)), kind)


@every_kind
def test_samples_streams_and_seeds_are_independent(kind):
    base = draw(SampleRandom(0, range(10)), kind, "start", (10, 1000))
    others = [
        draw(SampleRandom(0, range(10)), kind, "sde", (10, 1000)),
        draw(SampleRandom(1, range(10)), kind, "start", (10, 1000)),
        draw(SampleRandom(0, range(1, 11)), kind, "start", (10, 1000)),
        draw(StepRandom(0, 0), kind, "start", (10, 1000)),
    ]
    for other in others:
        assert abs(correlation(base, other)) < 0.05


def test_another_number_of_rows_than_samples_is_refused():
    with pytest.raises(ValueError, match="asked for 3 rows of noise for 2 samples"):
        SampleRandom(0, [1, 2]).normal("start", (3, 4))

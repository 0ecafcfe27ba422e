"""Dropout by hashes: the right share, independent places and rows, the same on one process and on several."""

import pytest
import torch

from core.draws import StepRandom
from core.nets.dropout import draw_seeds, drop

SHARE = 0.1


def seeds(rows=8, step=0, **options):
    """Seeds of the rows of a step."""
    return draw_seeds(StepRandom(0, step, **options), rows)


def test_a_share_is_zero_and_the_mean_stays():
    x = torch.ones(64, 30, 50)
    dropped = drop(x, SHARE, seeds(64), 3)
    assert (dropped == 0).float().mean() == pytest.approx(SHARE, abs=0.003)
    torch.testing.assert_close(dropped[dropped != 0].unique(), torch.tensor([1 / (1 - SHARE)]))
    for axes in ((0, 1), (0, 2), (1, 2)):  # no column, no row and no sample is favoured
        assert (dropped == 0).float().mean(axes).std() < 0.012, axes
    assert dropped.mean() == pytest.approx(1, abs=0.003)


def test_rows_places_and_steps_are_independent():
    x = torch.ones(4, 5000)
    kinds = [drop(x, 0.5, seeds(4, step), place)[row] == 0 for step in (0, 1) for place in (0, 1) for row in range(4)]
    likeness = torch.corrcoef(torch.stack(kinds).float()).fill_diagonal_(0)
    assert likeness.abs().max() < 0.07


def test_parts_of_a_batch_drop_what_the_whole_does():
    whole = seeds(8)
    assert torch.equal(whole, seeds(8)) and not torch.equal(whole, seeds(8, step=1))
    parts = [seeds(count, global_rows=8, first_row=first) for first, count in ((0, 3), (3, 5))]
    assert torch.equal(torch.cat(parts), whole) and whole.dtype == torch.int32
    x = torch.randn(8, 6)
    split = [drop(x[part], SHARE, whole[part], 1) for part in (slice(3), slice(3, 8))]
    assert torch.equal(torch.cat(split), drop(x, SHARE, whole, 1))


def test_without_seeds_or_share_nothing_is_dropped():
    x = torch.randn(3, 4)
    assert drop(x, SHARE, None, 0) is x and drop(x, 0.0, seeds(3), 0) is x

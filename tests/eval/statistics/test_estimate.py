"""Intervals: recorded replications, and whether a bootstrap covers what it says."""

import numpy as np
import pytest

from eval.statistics.estimate import bootstrap, replications
from tests.eval.statistics.feature_sets import normal
from tests.golden_files import load_golden

TENSORS, FACTS = load_golden("metrics")


def test_the_recorded_replications_come_out():
    values = TENSORS["replications.values"].numpy()
    ours = replications(values)
    assert ours.num_samples == len(values) == FACTS["official"]["replications"]
    assert ours.value == pytest.approx(TENSORS["replications.mean"].item(), rel=1e-12)
    half = TENSORS["replications.ci95"].item()
    assert ours.interval.high - ours.value == pytest.approx(half, rel=1e-9)
    assert ours.value - ours.interval.low == pytest.approx(half, rel=1e-9)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan], [[1.0, 2.0]]])
def test_replications_need_two_finite_values(values):
    with pytest.raises(ValueError, match="at least 2 finite values"):
        replications(values)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_a_bootstrap_of_a_mean_covers_as_often_as_it_says(level):
    covered = 0
    for trial in range(200):
        interval = bootstrap(np.mean, normal(60, 1, seed=trial), replicates=200, level=level, seed=trial).interval
        covered += interval.low <= 0 <= interval.high
    assert covered / 200 == pytest.approx(level, abs=0.08)


def test_a_bootstrap_of_a_mean_is_as_wide_as_the_normal_interval():
    x = normal(500, 1)
    ours = bootstrap(np.mean, x, replicates=2000)
    assert ours.value == x.mean()
    half = 1.96 * x.std() / np.sqrt(500)
    assert ours.interval.low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert ours.interval.high == pytest.approx(x.mean() + half, abs=0.1 * half)
    assert ours.interval.kind == "bootstrap percentiles, 95 %"


def test_pairs_stay_together_only_when_they_are_said_to_be_pairs():
    x = normal(50, 1)

    def difference(a, b):
        return float((a - b).mean())

    together = bootstrap(difference, x, x + 1, paired=True, replicates=50).interval
    apart = bootstrap(difference, x, x + 1, replicates=50).interval
    assert (together.low, together.high) == pytest.approx((-1, -1))
    assert apart.high - apart.low > 0.3


def test_a_bootstrap_is_a_function_of_its_seed():
    x = normal(30, 2)
    assert bootstrap(np.mean, x, replicates=20) == bootstrap(np.mean, x, replicates=20)
    assert bootstrap(np.mean, x, replicates=20) != bootstrap(np.mean, x, replicates=20, seed=1)


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([], {}, "at least 2 rows"),
        ([1], {}, r"at least 2 rows of every sample, got \[1\]"),
        ([5, 6], {"paired": True}, r"\[5, 6\] rows; they must be equally many"),
        ([5], {"level": 1.0}, "level is 1.0"),
        ([5], {"replicates": 1}, "replicates 1"),
    ],
)
def test_impossible_bootstraps_are_refused(samples, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(lambda *_: 0.0, *(normal(rows, 1) for rows in samples), **options)

"""KID: its estimator, its mean of zero, and torch-fidelity's numbers."""

import numpy as np
import pytest
import torch

from eval.statistics.kernel import kernel_distance, squared_discrepancy
from tests.eval.statistics.feature_sets import correlated, normal


def test_the_estimator_is_the_sum_over_pairs():
    x, y = normal(5, 3), normal(7, 3, seed=1)

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    within = [np.mean([kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (x, y)]
    across = np.mean([kernel(a, b) for a in x for b in y])
    assert squared_discrepancy(x, y) == pytest.approx(sum(within) - 2 * across)


def test_equal_distributions_have_zero_on_average():
    """Unbiased at 20 samples, where the biased estimate is far above zero."""
    values = [squared_discrepancy(normal(20, 4, 2 * i), normal(20, 4, 2 * i + 1)) for i in range(2000)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0


def test_a_shift_has_its_closed_form():
    """D = 1, N(0, 1) against N(m, 1): E (x x' + 1)^3 = 1 + 3 m^2 + 3 (m^2 + 1)^2 + (m^3 + 3 m)^2 for means m."""
    m = 0.7
    same_zero, same_m = 1 + 3, 1 + 3 * m**2 + 3 * (m**2 + 1) ** 2 + (m**3 + 3 * m) ** 2
    across = 1 + 3 * (m**2 + 1)
    estimate = kernel_distance(normal(20000, 1), normal(20000, 1, 1) + m, subsets=60, subset_size=1000)
    assert estimate.value == pytest.approx(same_zero + same_m - 2 * across, rel=0.1)


@pytest.mark.parametrize(("rows", "subsets", "size", "seed"), [((300, 250), 7, 100, 2020), ((64, 64), 1, 64, 3)])
def test_torch_fidelity_agrees(rows, subsets, size, seed):
    theirs = pytest.importorskip("torch_fidelity.metric_kid", reason="the extra `eval` is not installed")
    x, y = correlated(rows[0], 12), correlated(rows[1], 12, seed=1)
    options = {"kid_subsets": subsets, "kid_subset_size": size, "rng_seed": seed, "verbose": False}
    expected = theirs.kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **options)
    ours = kernel_distance(x, y, subsets=subsets, subset_size=size, seed=seed)
    std = expected[theirs.KEY_METRIC_KID_STD]
    assert ours.value == pytest.approx(expected[theirs.KEY_METRIC_KID_MEAN], rel=1e-9)
    assert ours.interval.high - ours.value == pytest.approx(std, rel=1e-9, abs=1e-12)
    assert ours.value - ours.interval.low == pytest.approx(std, rel=1e-9, abs=1e-12)


def test_the_defaults_are_those_of_torch_fidelity():
    defaults = pytest.importorskip("torch_fidelity.defaults", reason="the extra `eval` is not installed").DEFAULTS
    ours = kernel_distance(normal(1000, 2), normal(1000, 2, 1)).parameters
    assert ours["subsets"] == defaults["kid_subsets"] == 100
    assert ours["subset_size"] == defaults["kid_subset_size"] == 1000
    assert ours["seed"] == defaults["rng_seed"]


@pytest.mark.parametrize("options", [{"subsets": 0}, {"subset_size": 1}])
def test_impossible_subsets_are_refused(options):
    with pytest.raises(ValueError, match=r"allowed: at least 1 of at least 2"):
        kernel_distance(normal(9, 2), normal(9, 2), **options)

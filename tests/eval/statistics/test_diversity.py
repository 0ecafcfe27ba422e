"""Diversity and multimodality against recorded values, closed forms, and what they must not depend on."""

import numpy as np
import pytest

from eval.statistics.diversity import diversity, draw_pairs, multimodality, pair_distance
from tests.eval.statistics.feature_sets import normal
from tests.golden_files import load_golden

TENSORS, FACTS = load_golden("metrics")


@pytest.mark.parametrize("name", ["diversity", "multimodality"])
def test_the_recorded_values_come_out(name):
    activations, first, second, value = (
        TENSORS[f"{name}.{key}"].numpy() for key in ("activations", "first", "second", "value")
    )
    assert pair_distance(activations.astype(np.float64), first, second) == pytest.approx(value.item(), abs=1e-5)


def test_the_defaults_are_the_published_ones():
    assert diversity(normal(300, 2)).parameters["pairs"] == FACTS["official"]["diversity_times"]
    assert multimodality(normal(60, 2).reshape(3, 20, 2)).parameters["pairs"] == FACTS["official"]["mm_times"]


def test_pairs_are_drawn_without_repetition_and_from_the_seed():
    first, second = draw_pairs("a name", 20, 20, seed=0)
    assert sorted(first) == sorted(second) == list(range(20))
    assert (first != second).any()
    for name, seed in (("a name", 1), ("another name", 0)):
        assert (draw_pairs(name, 20, 20, seed)[0] != first).any()
    np.testing.assert_array_equal(draw_pairs("a name", 20, 20, 0), (first, second))


def test_the_distance_of_normal_samples_has_its_closed_form():
    """Two independent normal numbers are 2 / sqrt(pi) apart on average."""
    assert diversity(normal(20_000, 1), pairs=20_000).value == pytest.approx(2 / np.sqrt(np.pi), rel=0.02)
    features = normal(20_000, 1).reshape(200, 100, 1) + 50 * np.arange(200)[:, None, None]
    estimate = multimodality(features, pairs=100)
    # a repeat meets itself in 1 of 100 pairs
    assert estimate.value == pytest.approx(2 / np.sqrt(np.pi) * 0.99, rel=0.02)
    assert estimate.num_samples == 20_000


def test_repeats_that_do_not_vary_have_no_multimodality():
    features = np.repeat(normal(5, 3)[:, None], 30, axis=1)
    assert multimodality(features).value == 0


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match=r"diversity needs .* at least 300 samples"):
        diversity(normal(299, 4))
    with pytest.raises(ValueError, match=r"R at least 10, got \(4, 9, 2\)"):
        multimodality(normal(36, 2).reshape(4, 9, 2))
    with pytest.raises(ValueError, match=r"multimodality needs features \(C, R, D\)"):
        multimodality(normal(36, 2))
    for metric, features in ((diversity, normal(9, 2)), (multimodality, normal(9, 2)[None])):
        with pytest.raises(ValueError, match="pairs is 0"):
            metric(features, pairs=0)

"""R-precision and the matching distance against recorded values, and at their ends."""

import numpy as np
import pytest

from eval.statistics.retrieval import matching_distance, pool_distances, r_precision
from tests.eval.statistics.feature_sets import normal
from tests.golden_files import load_golden

TENSORS, FACTS = load_golden("metrics")
POOL = FACTS["pool"]
TEXT, MOTION = (TENSORS[name].numpy() for name in ("text_emb", "motion_emb"))


def test_the_recorded_distances_come_out():
    recorded = TENSORS["distance_matrices"].numpy()
    assert recorded.shape == (FACTS["pools"], POOL, POOL)
    np.testing.assert_allclose(pool_distances(TEXT, MOTION), recorded, atol=1e-5)


def test_the_recorded_hits_come_out():
    ours = r_precision(TEXT, MOTION)
    assert [estimate.parameters["hits"] for estimate in ours] == TENSORS["r_precision_counts"].tolist()
    assert [estimate.value for estimate in ours] == pytest.approx(TENSORS["r_precision_top1_2_3"].tolist())
    assert [estimate.parameters["k"] for estimate in ours] == [1, 2, 3]
    assert {estimate.num_samples for estimate in ours} == {len(TEXT)}
    assert {estimate.parameters["pool"] for estimate in ours} == {POOL} == {32}


@pytest.mark.parametrize("name", ["matching_score", "matching_score_norm_form"])
def test_the_recorded_matching_distances_come_out(name):
    assert matching_distance(TEXT, MOTION).value == pytest.approx(TENSORS[name].item(), abs=1e-5)


def test_pairs_that_are_equal_always_find_each_other():
    x = normal(64, 8)
    assert [estimate.value for estimate in r_precision(x, x)] == [1, 1, 1]
    assert matching_distance(x, x).value == 0


def test_pairs_that_are_independent_find_each_other_by_chance():
    values = [estimate.value for estimate in r_precision(normal(32 * 500, 8), normal(32 * 500, 8, seed=1))]
    assert values == pytest.approx([1 / 32, 2 / 32, 3 / 32], abs=0.01)


def test_a_pool_that_is_not_full_is_left_out():
    x, y = normal(64 + 31, 8), normal(64 + 31, 8, seed=1)
    assert r_precision(x, y) == r_precision(x[:64], y[:64])
    assert matching_distance(x, y) == matching_distance(x[:64], y[:64])
    assert matching_distance(x, y).num_samples == 64


def test_pools_do_not_see_each_other():
    """A pair is lost among 64 equal neighbours of another pool, not of its own."""
    x = normal(64, 8)
    y = x.copy()
    y[32:] = x[:32]
    assert r_precision(x, y)[0].value == pytest.approx((32 + r_precision(x[32:], x[:32])[0].parameters["hits"]) / 64)


def test_what_are_no_pairs_is_refused():
    with pytest.raises(ValueError, match=r"queries \(64, 4\) and candidates \(65, 4\) are not pairs"):
        r_precision(normal(64, 4), normal(65, 4))
    with pytest.raises(ValueError, match=r"\(64, 4\) and candidates \(64, 5\) are not pairs"):
        matching_distance(normal(64, 4), normal(64, 5))
    with pytest.raises(ValueError, match="top is 33; allowed: 1 to 32"):
        r_precision(normal(64, 4), normal(64, 4), top=33)

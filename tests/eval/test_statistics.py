"""The Fréchet distance against recorded values, closed forms and its own axioms."""

import numpy as np
import pytest

from eval.statistics import Moments, frechet_distance, moments
from tests.golden_files import load_golden

TENSORS, FACTS = load_golden("metrics")
CASES = sorted({key.split(".")[1] for key in TENSORS if key.startswith("frechet.")})
RANK_DEFICIENT = {
    case for case in CASES if min(FACTS["notes"][case][f"rank_{side}"] for side in "xy") < FACTS["notes"][case]["dim"]
}


def recorded(case, name):
    return TENSORS[f"frechet.{case}.{name}"].numpy()


def normal(rows, width, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width))


def distance(x, y):
    return frechet_distance(moments(x), moments(y))


def test_all_recorded_cases_are_used():
    assert sorted(CASES) == ["few_samples", "float32_input", "full", "rank_deficient", "same"]
    assert sorted(RANK_DEFICIENT) == ["few_samples", "rank_deficient"]


@pytest.mark.parametrize("case", CASES)
def test_the_recorded_distances_come_out(case):
    value = distance(recorded(case, "x"), recorded(case, "y"))
    tolerance = 1e-4 if case in RANK_DEFICIENT else 1e-7 if case == "float32_input" else 1e-9
    assert value == pytest.approx(recorded(case, "value").item(), rel=tolerance, abs=1e-7)
    assert value == pytest.approx(recorded(case, "symmetric_eigen_value").item(), rel=1e-6, abs=1e-7)


def test_the_recorded_moments_come_out():
    ours = moments(recorded("full", "x"))
    np.testing.assert_allclose(ours.mean, recorded("full", "mu_x"), atol=1e-12)
    np.testing.assert_allclose(ours.covariance, recorded("full", "sigma_x"), atol=1e-12)
    assert ours.num_samples == len(recorded("full", "x"))


def test_single_precision_is_taken_in_double():
    x = recorded("float32_input", "x")
    assert x.dtype == np.float32
    assert moments(x).covariance.dtype == np.float64
    far = normal(500, 4).astype(np.float32) + np.float32(1e4)
    np.testing.assert_allclose(moments(far).covariance, np.cov(far.astype(np.float64), rowvar=False), rtol=1e-12)


@pytest.mark.parametrize("width", [1, 2, 7])
def test_gaussians_with_independent_features_have_a_closed_form(width):
    rng = np.random.default_rng(width)
    means, deviations = rng.normal(size=(2, width)), rng.uniform(0.1, 3, size=(2, width))
    sides = [Moments(mean, np.diag(std**2), 100) for mean, std in zip(means, deviations, strict=True)]
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(*sides) == pytest.approx(expected)


def test_a_rotated_pair_that_shares_its_axes_has_the_same_distance():
    q, _ = np.linalg.qr(normal(3, 3))
    a, b = (Moments(np.zeros(3), q @ np.diag(variances) @ q.T, 9) for variances in ([1, 4, 9], [4.0, 4.0, 1.0]))
    assert frechet_distance(a, b) == pytest.approx(1 + 0 + 4)


def test_covariances_that_do_not_commute_have_the_general_value():
    """2x2 root: trace sqrt(AB) = sqrt(trace(AB) + 2 sqrt(det AB))."""
    a, b = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[3.0, -1.0], [-1.0, 1.0]])
    trace_root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2 * trace_root
    assert frechet_distance(Moments(np.zeros(2), a, 9), Moments(np.zeros(2), b, 9)) == pytest.approx(expected)


def test_it_is_symmetric_and_moves_with_a_shift():
    x, y = normal(60, 5), normal(40, 5, seed=1) * 2
    assert distance(x, y) == pytest.approx(distance(y, x))
    shift = np.arange(5)
    assert distance(x + shift, y + shift) == pytest.approx(distance(x, y))
    assert distance(x, x + shift) == pytest.approx((shift**2).sum())
    assert distance(3 * x, 3 * y) == pytest.approx(9 * distance(x, y))


def test_the_order_of_the_samples_does_not_matter():
    x, y = normal(60, 5), normal(40, 5, seed=1)
    assert distance(x[::-1], y) == pytest.approx(distance(x, y))


@pytest.mark.parametrize("rows", [2, 3, 10, 100])
def test_it_is_never_negative_and_zero_for_the_same_samples(rows):
    for seed in range(20):
        x = normal(rows, 16, seed)
        assert 0 <= distance(x, x) < 1e-9
        assert 0 <= distance(x, x + 1e-9) < 1e-6


def test_constant_features_have_the_distance_of_their_means():
    assert distance(np.zeros((4, 3)), np.full((5, 3), 2.0)) == pytest.approx(12)


def test_a_single_feature_is_enough():
    assert distance(normal(50, 1), normal(50, 1) + 2) == pytest.approx(4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_row(bad):
    x = normal(6, 3)
    x[2, 1] = x[4, 0] = bad
    with pytest.raises(ValueError, match="features of 2 samples are NaN or infinite, first at row 2"):
        moments(x)


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (5,), (2, 3, 4), ()])
def test_what_has_no_covariance_is_refused(shape):
    with pytest.raises(ValueError, match=r"needs features \(n, D\) of at least 2 samples"):
        moments(np.zeros(shape))


def test_features_of_different_width_cannot_be_compared():
    with pytest.raises(ValueError, match="width 3 and 4"):
        distance(normal(5, 3), normal(5, 4))

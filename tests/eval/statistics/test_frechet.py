"""The Fréchet distance against recorded values, closed forms and its own axioms; moments joined, saved and read."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch

from eval.statistics.frechet import (
    Moments,
    RunningMoments,
    frechet_distance,
    frechet_infinity,
    load_moments,
    merged,
    moments,
    save_moments,
)
from tests.eval.statistics.feature_sets import correlated, normal
from tests.golden_files import load_golden

TENSORS, FACTS = load_golden("metrics")
CASES = sorted({key.split(".")[1] for key in TENSORS if key.startswith("frechet.")})
RANK_DEFICIENT = {
    case for case in CASES if min(FACTS["notes"][case][f"rank_{side}"] for side in "xy") < FACTS["notes"][case]["dim"]
}


def recorded(case, name):
    return TENSORS[f"frechet.{case}.{name}"].numpy()


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


def test_without_spread_it_is_the_distance_of_the_means():
    a, b = (Moments(np.full(3, mean), np.zeros((3, 3)), 9) for mean in (0.0, 2.0))
    assert frechet_distance(a, b) == 12
    assert frechet_distance(a, Moments(b.mean, np.eye(3), 9)) == pytest.approx(12 + 3)


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


def test_samples_that_are_all_equal_are_refused():
    with pytest.raises(ValueError, match="all 4 samples have equal features; are the media all the same"):
        moments(np.full((4, 3), 0.1))


# Deficient rank


@pytest.mark.parametrize("rows", [5, 12, 40])
def test_few_samples_have_the_distance_of_all_singular_values(rows):
    """With fewer samples than features: trace (A B)^(1/2) is the nuclear norm of X Y^T of the centred samples."""
    x, y = correlated(rows, 40), correlated(9, 40, seed=1)
    centred = [(z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y)]
    trace_root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    expected = means + sum((c**2).sum() for c in centred) - 2 * trace_root
    assert distance(x, y) == pytest.approx(expected, rel=1e-10)
    from_covariances = [Moments(m.mean, m.covariance, None) for m in (moments(x), moments(y))]
    assert frechet_distance(*from_covariances) == pytest.approx(expected, rel=1e-10)


def test_directions_without_variance_add_nothing():
    """30 of 50 directions are empty in both sets, hidden by a rotation that leaves rounding noise in them."""
    x, y = correlated(400, 20), correlated(300, 20, seed=1)
    rotation, _ = np.linalg.qr(normal(50, 50, seed=2))
    hidden = [np.pad(z, ((0, 0), (0, 30))) @ rotation for z in (x, y)]
    assert distance(*hidden) == pytest.approx(distance(x, y), rel=1e-9)
    assert distance(hidden[0], hidden[0]) < 1e-7 * np.trace(moments(x).covariance)


def test_features_that_are_constant_in_one_set_only():
    x, y = correlated(400, 6), correlated(300, 6, seed=1)
    x[:, 2], y[:, 4] = 1.0, -3.0
    rest = [0, 1, 3, 5]
    extra = (x[:, [2, 4]].mean(0) - y[:, [2, 4]].mean(0)) ** 2
    expected = distance(x[:, rest], y[:, rest]) + extra.sum() + y[:, 2].var(ddof=1) + x[:, 4].var(ddof=1)
    assert distance(x, y) == pytest.approx(expected)


def test_features_of_very_different_scale_keep_their_digits():
    scales = np.geomspace(1e-6, 1e3, 30)
    x, y = normal(2000, 30) * scales, normal(2000, 30, seed=1) * scales[::-1]
    deviations = [np.sqrt(np.diagonal(moments(z).covariance)) for z in (x, y)]
    diagonal = [Moments(np.zeros(30), np.diag(d**2), 9) for d in deviations]
    assert frechet_distance(*diagonal) == pytest.approx(((deviations[0] - deviations[1]) ** 2).sum(), rel=1e-12)


# Moments from parts


def batches(features, cuts):
    return [features[start:stop] for start, stop in pairwise([0, *cuts, len(features)])]


def assert_same_moments(a, b, scale=1.0):
    np.testing.assert_allclose(a.mean, b.mean, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(a.covariance, b.covariance, rtol=0, atol=1e-12 * scale**2)
    assert a.num_samples == b.num_samples


@pytest.mark.parametrize("cuts", [[], [1], [1, 2, 3, 50], [100, 101, 299], list(range(1, 300))])
def test_batches_do_not_matter(cuts):
    x = normal(300, 7) * 3 + 5
    running = RunningMoments()
    for batch in batches(x, cuts):
        running.add(batch)
    assert_same_moments(running.result(), moments(x), scale=10)


def test_a_mean_far_from_zero_costs_no_digits():
    x = normal(1000, 4)
    running = RunningMoments()
    for batch in batches(x + 1e6, range(100, 1000, 100)):
        running.add(batch)
    np.testing.assert_allclose(running.result().covariance, moments(x).covariance, atol=1e-9)


def test_parts_of_processes_are_merged_in_any_grouping():
    x = normal(90, 5)
    parts = [RunningMoments().add(batch) for batch in batches(x, [10, 11, 60])]
    travelled = [pickle.loads(pickle.dumps(part)) for part in [RunningMoments(), *parts]]  # as through a gather
    assert_same_moments(merged(travelled).result(), moments(x))
    assert_same_moments(merged([merged(parts[2:]), merged(parts[:2]), RunningMoments()]).result(), moments(x))
    assert_same_moments(parts[0].result(), moments(x[:10]))  # the parts stay as they are


def test_tensors_of_any_float_type_are_taken():
    x = torch.from_numpy(normal(40, 5)).to(torch.bfloat16)
    assert_same_moments(RunningMoments().add(x).result(), moments(x.double().numpy()))


def test_running_moments_refuse_what_moments_refuse():
    running = RunningMoments()
    with pytest.raises(ValueError, match="at least 2 samples, got 0"):
        running.result()
    running.add(np.full((3, 2), 0.1))
    with pytest.raises(ValueError, match="all 5 samples have equal features"):
        merged([running, RunningMoments().add(np.full((2, 2), 0.1))]).result()
    with pytest.raises(ValueError, match="first at row 4"):
        running.add(np.array([[1, 2], [np.nan, 0]]))
    with pytest.raises(ValueError, match="width 2 and 3"):
        running.add(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"must be \(n, D\), got \(0, 2\)"):
        running.add(np.zeros((0, 2)))
    assert running.num_samples == 3
    assert running.add(np.zeros((1, 2))).result().num_samples == 4


# FVD's covariance


def test_biased_covariances_divide_by_n():
    x, y = correlated(30, 4), correlated(20, 4, seed=1)
    sides = [Moments(z.mean(0), np.cov(z, rowvar=False, bias=True), None) for z in (x, y)]
    assert frechet_distance(moments(x), moments(y), biased=True) == pytest.approx(frechet_distance(*sides))
    few = moments(normal(3, 4))
    assert frechet_distance(few, few, biased=True) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="do not say of how many samples"):
        frechet_distance(*sides, biased=True)


def test_of_recorded_features_it_is_what_fvds_code_computes():
    x, y = (TENSORS[f"frechet.full.{name}"].numpy().astype(np.float64) for name in "xy")

    def raw(rows):  # a raw second moment minus the outer product of the mean, as StyleGAN-V accumulates them
        mean = rows.sum(0) / len(rows)
        return mean, rows.T @ rows / len(rows) - np.outer(mean, mean)

    (mean_x, sigma_x), (mean_y, sigma_y) = raw(x), raw(y)
    root = scipy.linalg.sqrtm(sigma_x @ sigma_y)
    by_hand = np.real(np.square(mean_x - mean_y).sum() + np.trace(sigma_x + sigma_y - 2 * root))
    assert frechet_distance(moments(x), moments(y), biased=True) == pytest.approx(by_hand, rel=1e-9)
    recorded = TENSORS["frechet.full.value"].item()  # with n - 1
    assert abs(by_hand - recorded) > 1e-3 * recorded


# Files


def test_moments_come_back_from_their_file(tmp_path):
    ours = moments(correlated(50, 6))
    back = load_moments(save_moments(tmp_path / "new" / "reference.npz", ours))
    np.testing.assert_array_equal(back.mean, ours.mean)
    np.testing.assert_array_equal(back.covariance, ours.covariance)
    assert back.num_samples == 50
    unknown = load_moments(save_moments(tmp_path / "unknown.npz", Moments(ours.mean, ours.covariance, None)))
    assert unknown.num_samples is None


def test_a_reference_batch_of_adm_is_read(tmp_path):
    pool, spatial = moments(correlated(50, 6)), moments(correlated(50, 9))
    arrays = {"mu": pool.mean, "sigma": pool.covariance, "mu_s": spatial.mean, "sigma_s": spatial.covariance}
    images = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "VIRTUAL.npz", **{key: a.astype(np.float32) for key, a in arrays.items()}, arr_0=images)
    assert load_moments(tmp_path / "VIRTUAL.npz").mean.dtype == np.float64
    assert frechet_distance(load_moments(tmp_path / "VIRTUAL.npz"), pool) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(load_moments(tmp_path / "VIRTUAL.npz", spatial=True), spatial) == pytest.approx(0, abs=1e-4)


BAD_FILES = {
    "no mu and no sigma among its keys": {"arr_0": np.zeros((2, 3))},
    "do not fit each other": {"mu": np.zeros(3), "sigma": np.zeros((2, 2))},
    "not finite": {"mu": np.array([np.nan]), "sigma": np.ones((1, 1))},
    "negative variance, first at feature 1": {"mu": np.zeros(2), "sigma": np.diag([1.0, -1])},
    "not symmetric": {"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0, 1]])},
    "negative eigenvalue": {"mu": np.zeros(2), "sigma": np.array([[1.0, 2], [2, 1]])},
    "real numbers": {"mu": np.zeros(2) * 1j, "sigma": np.eye(2)},
    "sigma is of type <U3": {"mu": np.zeros(1), "sigma": np.array([["1.0"]])},
    "samples n is 1;": {"mu": np.zeros(1), "sigma": np.eye(1), "n": 1},
    "samples n is nan;": {"mu": np.zeros(1), "sigma": np.eye(1), "n": np.nan},
    "samples n is .5, 5.;": {"mu": np.zeros(1), "sigma": np.eye(1), "n": [5, 5]},
    r"mean .0,. and": {"mu": np.zeros(0), "sigma": np.zeros((0, 0))},
    "Object arrays": {"mu": np.array([{}]), "sigma": np.ones((1, 1))},
}


@pytest.mark.parametrize("reason", BAD_FILES)
def test_other_files_are_refused_by_name(tmp_path, reason):
    np.savez(tmp_path / "bad.npz", **BAD_FILES[reason])
    with pytest.raises(ValueError, match=rf"bad\.npz holds no statistics: .*{reason}"):
        load_moments(tmp_path / "bad.npz")


def test_rounding_of_published_files_is_let_through(tmp_path):
    """Of float32, in a covariance of deficient rank, whose smallest eigenvalues it makes negative."""
    ours = moments(correlated(9, 40) * np.logspace(-3, 3, 40))
    single = ours.covariance.astype(np.float32)
    assert np.linalg.eigvalsh(single.astype(np.float64))[0] < 0
    np.savez(tmp_path / "x.npz", mu=ours.mean, sigma=single)
    assert frechet_distance(load_moments(tmp_path / "x.npz"), ours) < 1e-3 * np.trace(ours.covariance)


def test_a_distance_far_below_zero_is_no_distance():
    none = Moments(np.zeros(2), -np.eye(2), None)
    with pytest.raises(ValueError, match="one of the covariances is none"):
        frechet_distance(none, none)


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 cut off"])
def test_what_is_no_archive_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.npz holds no statistics"):
        load_moments(tmp_path / "bad.npz")


def test_an_array_file_is_refused_by_name(tmp_path):
    np.save(tmp_path / "mean.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"mean\.npy holds no statistics"):
        load_moments(tmp_path / "mean.npy")


# FD-infinity


def test_infinity_removes_the_bias_of_small_samples():
    """Same Gaussian on both sides: the true distance is 0, that of n samples about (D (D + 1) / 4 + D) / n."""
    width, reference = 16, Moments(np.zeros(16), np.eye(16), None)
    plain, extrapolated = [], []
    for seed in range(30):
        x = normal(2000, width, seed=seed)
        plain.append(frechet_distance(moments(x), reference))
        extrapolated.append(frechet_infinity(x, reference, points=15, smallest=200, seed=seed).value)
    assert np.mean(plain) == pytest.approx((width * (width + 1) / 4 + width) / 2000, rel=0.1)
    assert abs(np.mean(extrapolated)) < 0.1 * np.mean(plain)


def test_infinity_finds_the_distance_of_the_distributions():
    shift = np.full(8, 0.5)
    estimate = frechet_infinity(normal(3000, 8) + shift, Moments(np.zeros(8), np.eye(8), None), smallest=300)
    assert estimate.value == pytest.approx(2, abs=0.1)
    assert estimate.num_samples == 3000


def test_infinity_is_a_line_through_its_points_and_says_how_it_was_drawn():
    x, reference = normal(400, 4), Moments(np.zeros(4), np.eye(4), None)
    two = frechet_infinity(x, reference, points=2, smallest=100)
    full = frechet_distance(moments(x), reference)
    assert two.value + two.parameters["slope"] / 400 == pytest.approx(full)  # the largest subset is the whole set
    assert two.parameters["r_squared"] == pytest.approx(1)
    assert {"points": 2, "smallest": 100, "replace": False, "seed": 0}.items() <= two.parameters.items()
    assert frechet_infinity(x, reference, points=2, smallest=100) == two
    assert frechet_infinity(x, reference, points=2, smallest=100, seed=1) != two
    assert frechet_infinity(x, reference, points=2, smallest=100, replace=True) != two


def test_infinity_refuses_too_few_samples_and_points():
    reference = Moments(np.zeros(4), np.eye(4), None)
    with pytest.raises(ValueError, match=r"FD-infinity needs .* of at least 501 samples"):
        frechet_infinity(normal(500, 4), reference)
    with pytest.raises(ValueError, match="width 3 and 4"):
        frechet_infinity(normal(600, 3), reference)
    with pytest.raises(ValueError, match="points 1 and smallest 500"):
        frechet_infinity(normal(600, 4), reference, points=1)

"""CKA, mutual nearest neighbours and CKNNA against their axioms, closed forms and a slow reading of the formulas."""

import math

import pytest
import torch

from eval.inside.representations import centred, cka, cka_matrix, cknna, gram, mutual_knn, neighbours


def features(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(width, seed=7):
    return torch.linalg.qr(features(width, width, seed))[0]


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_is_one_with_itself_and_sees_no_rotation_scale_or_shift(debiased):
    x, y = features(50, 8), features(50, 8) @ features(8, 5, 1) + 0.5 * features(50, 5, 2)
    assert cka(x, x, debiased=debiased) == pytest.approx(1)
    turned = 3.7 * x @ rotation(8) + 100
    assert cka(x, turned, debiased=debiased) == pytest.approx(1)
    assert cka(turned, y, debiased=debiased) == pytest.approx(cka(x, y, debiased=debiased))
    assert 0.1 < cka(x, y, debiased=debiased) < 0.99


def test_cka_is_that_of_the_features_cross_covariance():
    """|Y'X|^2 / (|X'X| |Y'Y|) with centred columns: Kornblith et al., section 3."""
    x, y = (each - each.mean(0) for each in (features(30, 4), features(30, 6, 1)))
    expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert cka(x, y, debiased=False) == pytest.approx(float(expected))


def test_debiased_cka_of_independent_features_is_near_zero_where_the_plain_one_is_not():
    pairs = [(features(40, 60, seed), features(40, 60, seed + 100)) for seed in range(20)]
    plain, debiased = ([cka(x, y, debiased=flag) for x, y in pairs] for flag in (False, True))
    assert min(plain) > 0.5
    assert abs(sum(debiased) / 20) < 0.02


def test_the_debiased_product_is_the_formula_of_song():
    n = 9
    a, b = (gram(features(n, 3, seed)) for seed in (0, 1))
    k, m = (each - torch.diag(each.diagonal()) for each in (a, b))
    one = torch.ones(n, dtype=torch.float64)
    terms = (
        torch.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 * (one @ k @ m @ one) / (n - 2)
    )
    product = (centred(a, debiased=True) * centred(b, debiased=True)).sum()
    assert float(product) == pytest.approx(float(terms))


def test_a_matrix_holds_what_pairs_give_and_a_constant_side_gives_zero():
    xs, ys = [features(20, 3), features(20, 5, 1)], [features(20, 4, 2), torch.full((20, 4), 3.3)]
    matrix = cka_matrix(xs, ys)
    assert matrix[1, 0] == pytest.approx(cka(xs[1], ys[0]))
    assert matrix[:, 1].tolist() == [0, 0]
    own = cka_matrix(xs)
    torch.testing.assert_close(own, own.T)
    torch.testing.assert_close(own.diagonal(), torch.ones(2, dtype=torch.float64))


def test_neighbours_are_the_nearest_and_never_the_sample_itself():
    angles = torch.tensor([0.0, 0.1, 0.3, 2.0, 2.05])
    near = neighbours(gram(torch.stack([angles.cos(), angles.sin()], 1), normalised=True), 1)
    assert near.nonzero()[:, 1].tolist() == [1, 0, 1, 4, 3]


def test_mutual_neighbours_of_equal_features_are_all_and_of_independent_ones_k_in_n():
    x = features(200, 8)
    assert mutual_knn(x, 5 * x @ rotation(8), 10) == 1
    shares = [mutual_knn(x, features(200, 8, seed), 10) for seed in range(1, 9)]
    assert sum(shares) / 8 == pytest.approx(10 / 199, abs=0.01)


def test_cknna_has_its_limits():
    x, y = features(60, 8), features(60, 8) + features(60, 8, 1)
    assert cknna(x, 2 * x @ rotation(8), 10) == pytest.approx(1)
    assert cknna(x, y, 10) == pytest.approx(cknna(y, x, 10))
    unit = [torch.nn.functional.normalize(each, dim=1) for each in (x, y)]
    assert cknna(x, y, 59) == pytest.approx(cka(*unit, debiased=True))
    far = [cknna(features(200, 8, seed), features(200, 8, seed + 50), 10) for seed in range(6)]
    assert abs(sum(far) / 6) < 0.1 < cknna(x, y, 10)


def test_bad_input_is_named():
    x = features(10, 3)
    with pytest.raises(ValueError, match=r"\[9, 10\] rows"):
        cka(x, x[:9])
    with pytest.raises(ValueError, match="1 to 9"):
        mutual_knn(x, x, 10)
    with pytest.raises(ValueError, match="at least 2"):
        cknna(x, x, 1)
    with pytest.raises(ValueError, match="at least 4"):
        cka(x[:3], x[:3])
    with pytest.raises(ValueError, match="NaN"):
        cka(x, torch.full_like(x, math.nan))

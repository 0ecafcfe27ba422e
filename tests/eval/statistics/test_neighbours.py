"""Precision, recall, density and coverage: brute force, other people's numbers, their ends, and memory."""

import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from eval.statistics.neighbours import DISTANCES, Blocks, density_coverage, precision_recall, squared_radii
from tests.eval.statistics.feature_sets import correlated, normal

SETS = [(normal(90, 3), normal(70, 3, seed=1) * 1.3), (correlated(60, 40), correlated(101, 40, seed=1))]


def by_hand(x, y, k_balls, k_density):
    """(precision, recall, density, coverage) of generated x against y from full distance matrices, float64."""

    def distances(a, b):
        return np.linalg.norm(a[:, None] - b[None], axis=-1)

    across = distances(y, x)
    radii_x, radii_y = (np.sort(distances(z, z), axis=1)[:, k_balls] for z in (x, y))
    radii_density = np.sort(distances(y, y), axis=1)[:, k_density]
    inside = across < radii_density[:, None]
    return (
        (across <= radii_y[:, None]).any(0).mean(),
        (across <= radii_x).any(1).mean(),
        inside.sum() / (k_density * len(x)),
        inside.any(1).mean(),
    )


def all_four(x, y, k=3, k_density=5, blocks=None):
    first, second = precision_recall(x, y, k=k, blocks=blocks), density_coverage(x, y, k=k_density, blocks=blocks)
    return [e.value for e in (first.precision, first.recall, second.density, second.coverage)]


@pytest.mark.parametrize("sets", SETS)
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("size", [7, 64, 4096])
def test_full_matrices_give_the_same(sets, k, size):
    assert all_four(*sets, k=k, k_density=k + 1, blocks=Blocks(size=size)) == pytest.approx(by_hand(*sets, k, k + 1))


@pytest.mark.parametrize("sets", SETS)
@pytest.mark.parametrize("k", [3, 5])
def test_torch_fidelity_agrees(sets, k):
    theirs = pytest.importorskip("torch_fidelity.metric_prc", reason="the extra `eval` is not installed")
    options = {"prc_neighborhood": k, "prc_batch_size": 50, "save_cpu_ram": True, "verbose": False}
    expected = theirs.prc_features_to_metric(*(torch.from_numpy(x) for x in sets), **options)
    ours = precision_recall(*sets, k=k)
    assert ours.precision.value == pytest.approx(expected[theirs.KEY_METRIC_PRECISION])
    assert ours.recall.value == pytest.approx(expected[theirs.KEY_METRIC_RECALL])


@pytest.mark.parametrize("distances", DISTANCES)
def test_equal_sets_have_one_everywhere_and_far_sets_zero(distances):
    x, blocks = normal(200, 5), Blocks(distances, size=37)
    same = all_four(x, x, blocks=blocks)
    assert same[:2] == [1, 1]
    assert same[2:] == pytest.approx([1, 1], abs=0.02 if distances == "adm_float16" else 0)
    assert all_four(x, x + 50, blocks=blocks) == [0, 0, 0, 0]


def test_a_few_modes_have_precision_and_no_recall():
    reference = normal(500, 4)
    narrow = reference[0] + 0.01 * normal(300, 4, seed=1)
    precision, recall, density, coverage = all_four(narrow, reference)
    assert precision == 1 and recall < 0.05 and density > 0.5 and coverage < 0.1


def test_an_outlier_of_the_reference_lifts_precision_but_hardly_density():
    """Its ball reaches back to the others: noise around it is precise, and lies in one ball of five."""
    reference = np.concatenate([normal(200, 2), [[100.0, 0.0]]])
    noise = np.array([60.0, 0.0]) + 10 * normal(300, 2, seed=1)
    precision, _, density, coverage = all_four(noise, reference)
    assert precision > 0.95
    assert density == pytest.approx(1 / 5, abs=0.05)
    assert coverage < 0.01


def test_an_outlier_among_the_generated_lifts_recall_but_not_coverage():
    reference = normal(200, 2)
    generated = np.concatenate([[50.0, 0.0] + 0.1 * normal(199, 2, seed=1), [[-50.0, 0.0]]])
    _, recall, _, coverage = all_four(generated, reference)
    assert recall > 0.95
    assert coverage == 0


def test_coverage_of_one_distribution_has_its_expectation():
    """Naeem et al. 2020, equation 9: 1 - the product over i < k of (n - 1 - i) / (2 n - 1 - i), n on both sides."""
    n, k = 400, 5
    expected = 1 - np.prod([(n - 1 - i) / (2 * n - 1 - i) for i in range(k)])
    found = [all_four(normal(n, 3, 2 * s), normal(n, 3, 2 * s + 1), k_density=k)[2:] for s in range(10)]
    assert np.mean(found, axis=0) == pytest.approx([1, expected], abs=0.02)


def test_a_mean_far_from_zero_costs_no_digits():
    x, y = SETS[0]
    assert all_four(x + 1e4, y + 1e4) == pytest.approx(all_four(x, y))


def test_adm_rounds_to_float16_and_differs_by_near_ties_only():
    x, y = np.abs(normal(600, 64)), np.abs(normal(500, 64, seed=1)) * 1.1
    blocks = Blocks("adm_float16", size=100)
    pair = torch.from_numpy(x[:100]).float(), torch.from_numpy(y[:100]).float()
    rounded = blocks.squared(*pair)
    assert torch.equal(rounded.half().float(), rounded)
    assert not torch.equal(rounded, Blocks().squared(*pair))
    torch.testing.assert_close(rounded, Blocks().squared(*pair), rtol=5e-3, atol=0.3)
    assert all_four(x, y, blocks=blocks)[:2] == pytest.approx(all_four(x, y)[:2], abs=0.02)


def test_adm_takes_float32_where_float16_overflows():
    x, y = 300 * normal(60, 8), 300 * normal(60, 8, seed=1)
    assert all_four(x, y, blocks=Blocks("adm_float16"))[:2] == pytest.approx(all_four(x, y)[:2])


def test_it_says_how_it_was_taken():
    ours = precision_recall(*SETS[0], blocks=Blocks("adm_float16"))
    assert ours.recall.parameters == {"k": 3, "num_reference": 70, "distances": "adm_float16"}
    assert ours.precision.num_samples == ours.recall.num_samples == 90


def test_tf32_that_training_allowed_is_off_within_and_back_after():
    seen = []

    class Seen(Blocks):
        def squared(self, x, y):
            seen.append(torch.get_float32_matmul_precision())
            return super().squared(x, y)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        all_four(*SETS[0], blocks=Seen())
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {"highest"}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"distances": "fp16"}, "'fp16'; allowed: float32, adm_float16"), ({"size": 0}, "size of a block is 0")],
)
def test_impossible_blocks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Blocks(**options)


def test_a_k_of_zero_is_refused():
    with pytest.raises(ValueError, match="k is 0"):
        precision_recall(*SETS[0], k=0)


# Memory


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors alive that were made within."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.seen = 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor.untyped_storage())
        return made

    def _follow(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key, size):
        self.seen.discard(key)
        self.now -= size


def peak_bytes(rows, width, blocks):
    """Most bytes of tensors alive at once while all four numbers are computed, `rows` on both sides."""
    x, y = normal(rows, width), normal(rows, width, seed=1)
    with LiveBytes() as live:
        all_four(x, y, blocks=blocks)
    return live.peak


@pytest.mark.parametrize("distances", DISTANCES)
def test_memory_is_that_of_the_features_and_a_few_blocks(distances):
    """50 000 x 50 000 distances are 10 GB; with what is bounded here, of 2048 features, it is below 4 GiB."""
    size, width = 128, 8
    blocks = Blocks(distances, size)
    for rows in (512, 2048):
        features = 2 * rows * (width + 4) * 4  # radii and flags too
        peak = peak_bytes(rows, width, blocks)
        assert 2 * rows * width * 4 + 4 * size**2 < peak  # the count sees features and a block
        assert peak < features + 16 * size**2 + 4 * size * (width + 64) * 4
    full = 50_000
    at_full_size = 2 * full * (2048 + 4) * 4 + 16 * Blocks().size ** 2 + 4 * Blocks().size * (2048 + 64) * 4
    given = 2 * full * 2048 * 4  # the caller's own arrays
    assert given + at_full_size < 4 * 2**30


def test_radii_do_not_depend_on_the_blocks():
    x = torch.from_numpy(normal(150, 6)).float()
    one = squared_radii(x, 4, Blocks())
    for size in (3, 50, 149):
        torch.testing.assert_close(squared_radii(x, 4, Blocks(size=size)), one)

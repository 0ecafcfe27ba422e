"""Token arithmetic: precision of the cosine, and what padding may not touch."""

import math

import pytest
import torch

from layersync.tokens import masked_mean, masked_token_mean, token_cosine
from tests.layersync.played import close, masked_example, played, tokens_like, two_sides
from tests.rows import every_row

# precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_similarity_lies_within_one(dtype, scale):
    a = (scale * tokens_like(8, 9, 64)).to(dtype)
    for b in (a, -a, 3 * a):
        similarity = played([(1, 2)], a, b).terms().similarity["1->2"]
        assert -1 <= similarity <= 1
        close(similarity.abs().double(), torch.ones((), dtype=torch.float64), tolerance=1e-5)


def test_similarity_is_not_rounded_above_one():
    vectors = [tokens_like(1, 1, 16, seed=seed) for seed in range(40)]
    assert any(token_cosine(a, a) > 1 for a in vectors)  # as the rounding of float32 would have it
    assert all(played([(1, 2)], a, a).terms().similarity["1->2"] <= 1 for a in vectors)


def nearly_parallel():
    """Two sets of bfloat16 tokens whose cosine is 0.9998, and that cosine from float64."""
    a = tokens_like(4, 9, 64)
    noise = tokens_like(4, 9, 64, seed=1)
    noise -= (noise * a).sum(-1, keepdim=True) / a.square().sum(-1, keepdim=True) * a
    b = a + 0.02 * noise * a.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    a, b = a.bfloat16(), b.bfloat16()
    return a, b, torch.cosine_similarity(a.double(), b.double(), dim=-1).mean()


def test_bfloat16_tokens_that_differ_do_not_read_one():
    a, b, exact = nearly_parallel()
    assert 0.9997 < exact < 0.9999
    rounded = (torch.nn.functional.normalize(a, dim=-1) * torch.nn.functional.normalize(b, dim=-1)).sum(-1).mean()
    assert rounded == 1  # what the peers log
    similarity = played([(1, 2)], a, b).terms().similarity["1->2"]
    assert similarity.dtype == torch.float32
    close(similarity.double(), exact, tolerance=1e-6)


def test_cosine_is_computed_in_float32_under_autocast():
    a, b, exact = nearly_parallel()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosine = token_cosine(a, b)
        terms = played([(1, 2)], a, b, weight=1.0).terms()
    assert cosine.dtype == terms.loss.dtype == torch.float32
    close(cosine.double().mean(), exact, tolerance=1e-6)
    close(-terms.loss.double(), exact, tolerance=1e-6)


def test_float64_tokens_keep_their_precision():
    a, b = two_sides(2, 3, 64)
    cosine = token_cosine(a.double(), b.double())
    assert cosine.dtype == torch.float64
    close(cosine, torch.cosine_similarity(a.double(), b.double(), dim=-1), tolerance=1e-14)


def test_tokens_of_zeros_give_zero_and_a_finite_gradient():
    sync = played([(1, 2)], torch.zeros(2, 3, 4), tokens_like(2, 3, 4))
    loss = sync()
    loss.backward()
    assert loss == 0
    assert sync.model.blocks[0].tokens.grad.isfinite().all()


# masks


def test_padding_never_counts_even_when_it_is_nan():
    weak, strong, mask, bad_weak, bad_strong = masked_example()
    terms = played([(1, 2)], bad_weak, bad_strong, weight=1.0).terms(mask=mask)
    alone = [torch.cosine_similarity(weak[i, :n], strong[i, :n], dim=-1).mean() for i, n in enumerate((5, 2, 1))]
    close(terms.similarity["1->2"], torch.stack(alone).mean())
    close(-terms.loss, torch.stack(alone).mean())


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_padding_gets_no_gradient_even_when_it_is_nan(stop_gradient):
    weak, strong, mask, bad_weak, bad_strong = masked_example()
    bad = played([(1, 2)], bad_weak, bad_strong, stop_gradient=stop_gradient)
    good = played([(1, 2)], weak, strong, stop_gradient=stop_gradient)
    for sync in (bad, good):
        sync(mask=mask).backward()
    for spoiled, whole in zip(bad.model.blocks, good.model.blocks, strict=True):
        if whole.tokens.grad is None:
            assert spoiled.tokens.grad is None
            continue
        assert (spoiled.tokens.grad[~mask] == 0).all()
        assert torch.equal(spoiled.tokens.grad, whole.tokens.grad)


def test_a_mask_of_ones_changes_nothing():
    sides = two_sides(3, 5, 4)
    close(played([(1, 2)], *sides)(mask=torch.ones(3, 5, dtype=torch.bool)), played([(1, 2)], *sides)())


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_a_mask_may_be_numbers(dtype):
    weak, strong, mask, bad_weak, bad_strong = masked_example()
    expected = played([(1, 2)], weak, strong)(mask=mask)
    close(played([(1, 2)], bad_weak, bad_strong)(mask=mask.to(dtype)), expected)


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"mask has \(3, 4\) tokens, the layers gave \(3, 5\)"):
        played([(1, 2)], *two_sides(3, 5, 4))(mask=torch.ones(3, 4))


def test_the_mean_is_over_samples_of_the_mean_over_tokens():
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, math.nan, math.inf]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert masked_token_mean(values, mask).tolist() == [2.0, 10.0]
    assert masked_token_mean(values[:1], None).tolist() == [2.0]


def test_a_sample_without_a_real_token_counts_in_no_mean():
    weak, strong, mask, bad_weak, bad_strong = masked_example()
    mask[1] = False
    sync = played([(1, 2)], bad_weak.masked_fill(~mask[..., None], math.nan), bad_strong, weight=1.0)
    terms = sync.terms(mask=mask)
    alone = [torch.cosine_similarity(weak[i, :n], strong[i, :n], dim=-1).mean() for i, n in ((0, 5), (2, 1))]
    close(-terms.loss, torch.stack(alone).mean())
    close(terms.similarity["1->2"], torch.stack(alone).mean())
    terms.loss.backward()
    gradient = sync.model.blocks[0].tokens.grad
    assert gradient.isfinite().all() and (gradient[1] == 0).all()


def test_a_batch_without_a_real_token_is_zero_and_moves_nothing():
    sync = played([(1, 2)], *two_sides(2, 3, 4), weight=1.0)
    loss = sync(mask=torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and (sync.model.blocks[0].tokens.grad == 0).all()
    assert masked_mean(torch.full((2, 3), math.nan), torch.zeros(2, 3)) == 0


def test_an_empty_batch_is_zero():
    assert played([(1, 2)], *two_sides(0, 3, 4))() == 0
    assert played([(1, 2)], *two_sides(0, 3, 4))(mask=torch.ones(0, 3)) == 0


@every_row(
    ("mask", "message"),
    [
        (torch.tensor([[[[0.0, -1e4, -1e4]]]] * 2), r"mask holds -10000, as a mask that is added to scores"),
        (torch.tensor([[1.0, math.nan, 1.0]] * 2), r"mask holds nan"),
        (
            torch.zeros(2, 3),
            r"mask holds 0 throughout, as a mask that is added to scores does",
        ),
        (torch.ones(3), r"mask is torch\.float32 of shape \(3,\); needed: \(B, N\)"),
        (torch.tensor(True), r"mask is torch\.bool of shape \(\); needed"),
        (torch.ones(2, 3, dtype=torch.complex64), r"mask is torch\.complex64"),
    ],
)
def test_masks_of_another_kind_are_refused(mask, message):
    sync = played([(1, 2)], *two_sides(2, 3, 4))
    with pytest.raises(ValueError, match=message):
        sync(mask=mask)

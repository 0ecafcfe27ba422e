"""LayerSync: recorded numbers, where its gradient goes, masks and times, and what it refuses."""

import math
from types import SimpleNamespace

import pytest
import torch

from core.alignment.contract import TIME_WEIGHTS, NoAlignment, WeightSchedule
from core.alignment.layersync import LayerSync, LayerSyncConfig
from core.alignment.methods import ALIGNMENTS
from core.alignment.tokens import masked_token_mean, token_cosine
from core.schema import strict
from tests.core.stand_in import DEPTH, WIDTH, Block, Player, gradients, media, transformer
from tests.golden_files import load_golden

GOLDEN, CONFIG = load_golden("layersync_loss")


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def played(pairs, *tokens, **options):
    """LayerSync on a model whose block i (from 1) emits tokens[i - 1], after a forward."""
    model = Player(tokens)
    sync = LayerSync(model, pairs, **options)
    model(torch.zeros(1))
    return sync


def tokens_like(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def two_sides(*shape, seed=0):
    return tokens_like(*shape, seed=seed), tokens_like(*shape, seed=seed + 1)


# recorded numbers


def reference_run():
    """The recorded student is block 2, the recorded teacher block 4."""
    other = torch.zeros_like(GOLDEN["zs"])
    return played([(2, 4)], other, GOLDEN["zs"], other, GOLDEN["gt_zs"], weight=CONFIG["weight"])


def test_reference_cosine_per_token():
    cosine = token_cosine(GOLDEN["zs"], GOLDEN["gt_zs"])
    close(cosine, GOLDEN["cosine_tokens"])
    close(-cosine, GOLDEN["reg_tokens"])


def test_reference_loss_and_similarity():
    terms = reference_run().terms()
    close(terms.loss, GOLDEN["weighted_reg"][0])
    close(terms.loss / CONFIG["weight"], GOLDEN["reg_mean"][0])
    assert list(terms.similarity) == ["2->4"]
    close(terms.similarity["2->4"], -GOLDEN["reg_mean"][0])


def test_reference_total_loss():
    error = GOLDEN["model_output"] - (GOLDEN["x1"] - GOLDEN["x0"])
    velocity_loss = error.square().mean((1, 2, 3))
    close(velocity_loss, GOLDEN["velocity_loss"])
    close(velocity_loss.mean() + reference_run()(), GOLDEN["total"][0])


def test_reference_gradients():
    sync = reference_run()
    sync().backward()
    student, teacher = (sync.model.blocks[i].tokens for i in (1, 3))
    close(student.grad, GOLDEN["grad_zs_total"])
    close(student.grad / CONFIG["weight"], GOLDEN["grad_zs_reg_mean"])
    assert GOLDEN["grad_zs_total"].abs().max() > 1e-4
    assert teacher.grad is None


def test_reference_of_several_pairs_is_the_mean_of_all_of_them():
    pairs = [tuple(pair) for pair in CONFIG["pairs_1_based"]]
    tokens = [GOLDEN[f"reps.{i}"] for i in range(sum(key.startswith("reps.") for key in GOLDEN))]
    terms = played(pairs, *tokens, weight=1.0).terms()
    close(terms.loss, GOLDEN["multi.mean_over_pairs_mean"][0])
    assert abs(terms.loss - GOLDEN["multi.as_run_mean"][0]) > 1e-2  # the source counts its last pair only
    singles = [played([pair], *tokens, weight=1.0)() for pair in pairs]
    close(torch.stack(singles), GOLDEN["multi.per_pair_mean"])
    close(torch.stack(list(terms.similarity.values())), -GOLDEN["multi.per_pair_mean"])


# where the gradient goes


def sync_gradients(pairs, **options):
    """Gradients of the alignment loss alone."""
    sync = LayerSync(model := transformer(), pairs, **options)
    model(media())
    sync().backward()
    return gradients(model)


def reached(found):
    """The parts of the model (blocks by number from 1) with a gradient that is not zero."""
    names = {name for name, gradient in found.items() if gradient is not None and gradient.abs().max() > 0}
    return {int(name.split(".")[1]) + 1 if name.startswith("blocks.") else name.split(".")[0] for name in names}


def test_only_the_weak_block_and_what_precedes_it_learn():
    assert reached(sync_gradients([(2, 4)])) == {"embed", 1, 2}


def test_without_stop_gradient_the_strong_side_learns_too():
    assert reached(sync_gradients([(2, 4)], stop_gradient=False)) == {"embed", 1, 2, 3, 4}


def test_strong_tokens_get_a_gradient_only_without_stop_gradient():
    for stop_gradient in (True, False):
        sync = played([(1, 2)], *two_sides(2, 3, 4), stop_gradient=stop_gradient)
        sync().backward()
        weak, strong = (block.tokens.grad for block in sync.model.blocks)
        assert weak.abs().max() > 0
        assert strong is None if stop_gradient else strong.abs().max() > 0


def test_several_pairs_are_the_mean_of_single_pairs_in_gradient_too():
    pairs = [(1, 3), (2, 5), ("blocks.0", "blocks.5")]
    together = sync_gradients(pairs)
    apart = [sync_gradients([pair]) for pair in pairs]
    for name in ("embed.weight", "blocks.0.linear.weight", "blocks.1.linear.weight"):
        parts = [0 if single[name] is None else single[name] for single in apart]
        close(together[name], sum(parts) / len(pairs))


def test_the_weight_scales_the_loss_and_not_the_similarity():
    sides = two_sides(2, 3, 4)
    one, five = (played([(1, 2)], *sides, weight=weight).terms() for weight in (0.1, 0.5))
    close(five.loss, 5 * one.loss)
    close(five.similarity["1->2"], one.similarity["1->2"])


def test_gradient_steps_raise_the_similarity():
    sync = LayerSync(model := transformer(), [(2, 4)], weight=1.0)
    optimizer, seen = torch.optim.SGD(model.parameters(), lr=1.0), []
    for _ in range(20):
        model(media())
        terms = sync.terms()
        seen.append(terms.similarity["2->4"].item())
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
    assert seen[-1] > seen[0] + 0.02


def test_similarity_carries_no_graph():
    assert not played([(1, 2)], *two_sides(2, 3, 4)).terms().similarity["1->2"].requires_grad


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


def masked_example():
    """Tokens (3, 5, 4) of which 5, 2 and 1 are real, the rest NaN."""
    weak, strong = two_sides(3, 5, 4)
    mask = torch.arange(5) < torch.tensor([[5], [2], [1]])
    spoil = mask.logical_not().unsqueeze(-1)
    return weak, strong, mask, weak.masked_fill(spoil, math.nan), strong.masked_fill(spoil, math.nan)


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


# frames


def test_tokens_in_frames_equal_flat_tokens():
    flat = two_sides(2, 6, 4)
    framed = [item.reshape(2, 3, 2, 4) for item in flat]
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]).bool()
    t = tokens_like(2, 6, seed=5).sigmoid()
    option = {"time_weight": TIME_WEIGHTS["middle"]}
    expected = played([(1, 2)], *flat, **option)(t=t, mask=mask)
    assert expected != played([(1, 2)], *flat)()
    for shape in ((2, 6), (2, 3, 2)):
        sync = played([(1, 2)], *framed, **option)
        close(sync(t=t.reshape(shape), mask=mask.reshape(shape)), expected)
    close(played([(1, 2)], *framed)(), played([(1, 2)], *flat)())


def test_a_time_per_frame_weighs_every_token_of_the_frame():
    framed, t = two_sides(2, 3, 2, 4), tokens_like(2, 3, seed=5).sigmoid()
    per_token = t[:, :, None].expand(2, 3, 2)
    option = {"time_weight": TIME_WEIGHTS["middle"]}
    close(played([(1, 2)], *framed, **option)(t=t), played([(1, 2)], *framed, **option)(t=per_token))


# times and steps


@pytest.mark.parametrize("name", list(TIME_WEIGHTS))
def test_time_weights_integrate_to_one(name):
    t = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    weight = TIME_WEIGHTS[name](t)
    close(weight.mean(), torch.ones((), dtype=torch.float64))
    assert (weight >= 0).all()


def test_time_weights_favour_the_end_they_are_named_for():
    noise, middle, data = torch.tensor([0.0, 0.5, 1.0])  # t = 0 is noise
    assert TIME_WEIGHTS["towards_data"](data) == 2 == TIME_WEIGHTS["towards_noise"](noise)
    assert TIME_WEIGHTS["towards_data"](noise) == 0 == TIME_WEIGHTS["towards_noise"](data)
    assert TIME_WEIGHTS["middle"](middle) == 1.5
    assert TIME_WEIGHTS["middle"](noise) == 0 == TIME_WEIGHTS["middle"](data)


@pytest.mark.parametrize("name", list(TIME_WEIGHTS))
@pytest.mark.parametrize("shape", [(3,), (3, 5)], ids=["per sample", "per token"])
def test_time_weighs_samples_or_tokens(name, shape):
    weak, strong, mask, _, _ = masked_example()
    t = tokens_like(*shape, seed=7).sigmoid()
    terms = played([(1, 2)], weak, strong, weight=1.0, time_weight=TIME_WEIGHTS[name]).terms(t=t, mask=mask)
    cosine = torch.cosine_similarity(weak, strong, dim=-1)
    weight = TIME_WEIGHTS[name](t).reshape(3, -1).expand(3, 5)
    expected = torch.stack([(cosine * weight)[i, :n].mean() for i, n in enumerate((5, 2, 1))]).mean()
    close(-terms.loss, expected)
    close(terms.similarity["1->2"], played([(1, 2)], weak, strong).terms(mask=mask).similarity["1->2"])


def test_a_time_weight_needs_the_times():
    with pytest.raises(ValueError, match="pass the flow times"):
        played([(1, 2)], *two_sides(2, 3, 4), time_weight=TIME_WEIGHTS["middle"])()


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (WeightSchedule(), {0: 1, 10**6: 1}),
        (WeightSchedule("warmup", warmup_steps=4), {0: 0.25, 1: 0.5, 3: 1, 4: 1, 10**6: 1}),
        (WeightSchedule("cosine", end_step=8), {0: 1, 4: 0.5, 8: 0, 9: 0}),
        (WeightSchedule("cosine", warmup_steps=4, end_step=12), {0: 0.25, 3: 1, 4: 1, 8: 0.5, 12: 0, 99: 0}),
        (WeightSchedule("stop", end_step=3), {0: 1, 2: 1, 3: 0, 4: 0}),
        (WeightSchedule("stop", warmup_steps=2, end_step=5), {0: 0.5, 1: 1, 4: 1, 5: 0}),
    ],
)
def test_schedule_at_its_key_steps(schedule, factors):
    for step, factor in factors.items():
        assert schedule.factor(step) == pytest.approx(factor, abs=1e-12), step
    sides = two_sides(2, 3, 4)
    whole = played([(1, 2)], *sides)()
    for step, factor in factors.items():
        close(played([(1, 2)], *sides, schedule=schedule)(step), factor * whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"kind": "warmup"}, "'warmup' but alignment.schedule.warmup_steps is 0"),
        ({"warmup_steps": 5}, "warmup_steps is 5 but alignment.schedule.kind is 'constant'"),
        ({"kind": "cosine"}, "end_step is None; 'cosine' needs one"),
        ({"kind": "stop"}, "end_step is None; 'stop' needs one"),
        ({"kind": "stop", "end_step": 0}, "end_step is 0; 'stop' needs one after"),
        ({"kind": "cosine", "warmup_steps": 5, "end_step": 5}, "end_step is 5; 'cosine' needs one after"),
        ({"end_step": 5}, "end_step is 5 but alignment.schedule.kind 'constant' has no end"),
        ({"kind": "warmup", "warmup_steps": 2, "end_step": 5}, "kind 'warmup' has no end"),
        ({"kind": "linear"}, "kind is 'linear'.*constant.*warmup.*cosine.*stop"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WeightSchedule(**options)


# refusals


@pytest.mark.parametrize(
    "pair",
    [(3, 3), (5, 2), ("blocks.2", "blocks.2"), ("blocks.4", "blocks.1"), (3, "blocks.2"), ("head", 2)],
)
def test_weak_must_come_before_strong(pair):
    model = transformer()
    with pytest.raises(ValueError, match=r"alignment\.pairs .*the weak layer must come before the strong") as caught:
        LayerSync(model, [(1, 2), pair])
    assert f"({pair[0]}, {pair[1]})" in str(caught.value)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_block_11_comes_after_block_10():
    model = transformer(blocks=[Block() for _ in range(12)])
    LayerSync(model, [(10, 11), (2, 11)])  # modules "blocks.9" and "blocks.10"
    for pair in ((11, 10), (11, 2)):
        with pytest.raises(ValueError, match="before the strong"):
            LayerSync(model, [pair])


@pytest.mark.parametrize("pair", [(0, 2), (2, DEPTH + 1), (-1, 3)])
def test_a_block_that_does_not_exist_is_refused_with_the_range(pair):
    with pytest.raises(ValueError, match=f"does not exist.* 1 to {DEPTH}"):
        LayerSync(transformer(), [pair])


def test_no_pair_is_refused():
    with pytest.raises(ValueError, match=r"alignment\.pairs is empty"):
        LayerSync(transformer(), [])


@pytest.mark.parametrize("pairs", [(2, 4), [(2, 4, 5)], [(1, 2, 3), (4, 5, 6)], [2], ["24"]])
def test_pairs_of_another_form_are_refused(pairs):
    model = transformer()
    with pytest.raises(ValueError, match=r"alignment\.pairs is .*\(weak, strong\) pairs"):
        LayerSync(model, pairs)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("pairs", [[(1, 3), (2, 4), (1, 3)], [(1, 3), ("blocks.0", "blocks.2")]])
def test_a_pair_given_twice_is_refused(pairs):
    model = transformer()
    with pytest.raises(ValueError, match=r"alignment\.pairs names a pair twice"):
        LayerSync(model, pairs)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("weight", [0, 0.0, -0.2, math.nan, math.inf])
def test_the_weight_must_be_above_zero(weight):
    with pytest.raises(ValueError, match=rf"alignment\.weight is {weight}; it must be above 0"):
        LayerSync(transformer(), [(2, 4)], weight=weight)


@pytest.mark.parametrize("other", [(3, 5, 4), (2, 7, 4), (2, 5, 8), (2, 1, 5, 4)])
def test_layers_of_different_shape_are_refused(other):
    sync = played([(1, 2)], tokens_like(2, 5, 4), tokens_like(*other))
    with pytest.raises(RuntimeError, match=r"pair 1->2: the weak layer gave tokens \(2, 5, 4\)"):
        sync()


def frozen_weak_side():
    sync = LayerSync(model := transformer(), [(2, 4)])
    for part in (model.embed, model.blocks[0], model.blocks[1]):
        part.requires_grad_(False)
    return sync


def test_a_weak_side_without_gradient_is_refused_while_training():
    sync = frozen_weak_side()
    sync.model(media())
    with pytest.raises(RuntimeError, match="pair 2->4: the weak layer carries no gradient"):
        sync()
    with torch.no_grad():
        sync.model(media())
    with pytest.raises(RuntimeError, match="carries no gradient"):
        sync()


def test_a_weak_side_without_gradient_is_fine_while_measuring():
    sync = frozen_weak_side()
    with torch.no_grad():
        sync.model(media())
        assert sync().isfinite()
    sync.model.eval()(media())
    assert sync().isfinite()


def test_a_loss_without_a_forward_is_refused():
    sync = LayerSync(model := transformer(), [(2, 4)])
    with pytest.raises(RuntimeError, match=r"'blocks\.1' did not fire"):
        sync()
    model(media())
    sync()
    with pytest.raises(RuntimeError, match="did not fire"):
        sync()


# the contract and its configs


def test_pausing_and_removing_reach_the_hooks():
    sync = LayerSync(model := transformer(), [(2, 4)])
    with sync.paused():
        model(media())
    assert not any(sync.hooks.tokens.values())
    sync.remove()
    model(media())
    assert not any(sync.hooks.tokens.values())


def test_the_baseline_adds_nothing():
    baseline = strict(ALIGNMENTS["none"], {}).build(transformer())
    assert isinstance(baseline, NoAlignment)
    with baseline.paused():
        terms = baseline.terms(SimpleNamespace(t=torch.rand(3)), None)
    assert terms.loss == 0 and len(baseline.heads) == 0
    assert terms.similarity == terms.values == {}


def test_config_defaults_are_the_paper():
    config = strict(ALIGNMENTS["layersync"], {"pairs": [[2, 4]]})
    assert config == LayerSyncConfig(pairs=[(2, 4)], weight=0.2, time_weight="uniform", stop_gradient=True)
    assert config.schedule.factor(10**6) == 1


def test_config_hands_every_option_on():
    node = {
        "pairs": [[1, "blocks.3"], [2, 5]],
        "weight": "3e-1",
        "schedule": {"kind": "stop", "end_step": 7},
        "time_weight": "towards_data",
        "stop_gradient": False,
    }
    sync = strict(LayerSyncConfig, node).build(transformer()).sync
    assert sync.pairs == [("blocks.0", "blocks.3"), ("blocks.1", "blocks.4")]
    assert (sync.weight, sync.stop_gradient) == (0.3, False)
    assert sync.schedule == WeightSchedule("stop", end_step=7)
    assert sync.time_weight is TIME_WEIGHTS["towards_data"]


def test_blocks_chooses_the_list_that_numbers_refer_to():
    model = transformer()
    model.extra = torch.nn.ModuleList(Block(WIDTH) for _ in range(DEPTH))
    with pytest.raises(ValueError, match="several lists"):
        LayerSync(model, [(2, 4)])
    assert LayerSync(model, [(2, 4)], blocks="blocks").pairs == [("blocks.1", "blocks.3")]

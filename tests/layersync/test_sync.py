"""LayerSync: recorded numbers, where its gradient goes, frames and times, and what it refuses."""

import math
from collections import UserList

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from layersync import TIME_WEIGHTS, LayerSync
from layersync.tokens import token_cosine
from tests.core.stand_in import DEPTH, WIDTH, Block, gradients, media, transformer
from tests.golden_files import load_golden
from tests.layersync.played import close, masked_example, played, tokens_like, two_sides
from tests.rows import every_row

GOLDEN, CONFIG = load_golden("layersync_loss")


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
        sync = played([(1, 2)], *framed, token_dim=(1, 2), **option)
        close(sync(t=t.reshape(shape), mask=mask.reshape(shape)), expected)
    close(played([(1, 2)], *framed, token_dim=(1, 2))(), played([(1, 2)], *flat)())
    with pytest.raises(ValueError, match=r"Tensor \(2, 3, 2, 4\).*token_dim=.*\(1, 2\) for \(B, F, N, D\)"):
        played([(1, 2)], *framed)()


def test_a_time_per_frame_weighs_every_token_of_the_frame():
    framed, t = two_sides(2, 3, 2, 4), tokens_like(2, 3, seed=5).sigmoid()
    per_token = t[:, :, None].expand(2, 3, 2)
    option = {"time_weight": TIME_WEIGHTS["middle"], "token_dim": (1, 2)}
    close(played([(1, 2)], *framed, **option)(t=t), played([(1, 2)], *framed, **option)(t=per_token))


# times and steps


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


@every_row("times", [[0, 999], [-0.1, 0.5], [0.5, 1.01], [0.5, float("nan")]])
def test_times_outside_of_flow_time_are_refused(times):
    sync = played([(1, 2)], *two_sides(2, 3, 4), time_weight=TIME_WEIGHTS["towards_noise"])
    with pytest.raises(ValueError, match=r"t holds values from .* in \[0, 1\].*t = 1 - timestep / 1000"):
        sync(t=torch.tensor(times))


@every_row("shape", [(), (3,), (2, 4), (1,), (3, 2), (2, 3, 4)])
def test_times_of_another_shape_are_refused(shape):
    sync = played([(1, 2)], *two_sides(2, 3, 4), time_weight=TIME_WEIGHTS["middle"])
    with pytest.raises(ValueError, match=r"t has shape .*; needed: \(2,\) or \(2, 3\)"):
        sync(t=torch.full(shape, 0.5))


def test_a_time_weight_needs_the_times():
    with pytest.raises(ValueError, match="pass the flow times"):
        played([(1, 2)], *two_sides(2, 3, 4), time_weight=TIME_WEIGHTS["middle"])()


# refusals


@pytest.mark.parametrize(
    "pair",
    [(3, 3), (5, 2), ("blocks.2", "blocks.2"), ("blocks.4", "blocks.1"), (3, "blocks.2")],
)
def test_weak_must_come_before_strong(pair):
    model = transformer()
    with pytest.raises(ValueError, match=r"pairs .*the weak layer must come before the strong") as caught:
        LayerSync(model, [(1, 2), pair])
    assert f"({pair[0]}, {pair[1]})" in str(caught.value)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_block_11_comes_after_block_10():
    model = transformer(blocks=[Block() for _ in range(12)])
    LayerSync(model, [(10, 11), (2, 11)])  # modules "blocks.9" and "blocks.10"
    for pair in ((11, 10), (11, 2)):
        with pytest.raises(ValueError, match="before the strong"):
            LayerSync(model, [pair])


class MiddleLast(nn.Module):
    """A model that declares its middle after what runs after it, as the U-Nets of diffusers do."""

    def __init__(self):
        super().__init__()
        self.down, self.up, self.middle = Block(), Block(), Block()

    def forward(self, x):
        return self.up(self.middle(self.down(x)))


def test_the_order_of_modules_outside_of_a_list_is_that_in_which_they_run():
    torch.manual_seed(0)
    model, x = MiddleLast(), tokens_like(2, 3, WIDTH)
    sync = LayerSync(model, [("middle", "up")], weight=1.0)
    y = model(x)
    close(sync(), -torch.cosine_similarity(model.middle(model.down(x)), y, dim=-1).mean())
    for pair in (("up", "middle"), ("middle", "middle.linear")):
        sync = LayerSync(model, [pair])
        model(x)
        with pytest.raises(RuntimeError, match=rf"'{pair[0]}' ran after '{pair[1]}'"):
            sync()
        sync.remove()
    LayerSync(model, [("middle.linear", "middle")])
    with pytest.raises(ValueError, match="before the strong"):
        LayerSync(model, [("up", "up")])


@pytest.mark.parametrize("pair", [(0, 2), (2, DEPTH + 1), (-1, 3)])
def test_a_block_that_does_not_exist_is_refused_with_the_range(pair):
    with pytest.raises(ValueError, match=f"does not exist.* 1 to {DEPTH}"):
        LayerSync(transformer(), [pair])


def test_no_pair_is_refused():
    with pytest.raises(ValueError, match=r"pairs is empty"):
        LayerSync(transformer(), [])


@pytest.mark.parametrize("pairs", [(2, 4), [(2, 4, 5)], [(1, 2, 3), (4, 5, 6)], [2], ["24"], [b"24"], [{2, 4}]])
def test_pairs_of_another_form_are_refused(pairs):
    model = transformer()
    with pytest.raises(ValueError, match=r"pairs is .*\(weak, strong\) pairs"):
        LayerSync(model, pairs)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_pairs_may_come_from_a_config_of_hydra():
    for pairs in (OmegaConf.create([[2, 4], ["blocks.0", "blocks.2"]]), UserList([UserList([2, 4]), (1, 3)])):
        sync = LayerSync(transformer(), pairs)
        assert sync.pairs == [("blocks.1", "blocks.3"), ("blocks.0", "blocks.2")]


def test_a_layer_that_is_meant_twice_hands_over_in_one_way():
    pairs = [(1, 3), ("blocks.0", 4)]
    LayerSync(transformer(), pairs, tokens=slice(1, None))
    with pytest.raises(ValueError, match=r"'blocks\.0' is meant twice, by number and by name"):
        LayerSync(transformer(), pairs, tokens={1: slice(1, None), 3: slice(1, None), 4: slice(1, None)})


def test_a_list_of_layers_is_no_layer():
    with pytest.raises(ValueError, match=r"pairs holds \(\[1\], 2\); a layer is"):
        LayerSync(transformer(), [([1], 2)])


@pytest.mark.parametrize("pairs", [[(1, 3), (2, 4), (1, 3)], [(1, 3), ("blocks.0", "blocks.2")]])
def test_a_pair_given_twice_is_refused(pairs):
    model = transformer()
    with pytest.raises(ValueError, match=r"pairs names a pair twice"):
        LayerSync(model, pairs)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("weight", [0, 0.0, -0.2, math.nan, math.inf])
def test_the_weight_must_be_above_zero(weight):
    with pytest.raises(ValueError, match=rf"^weight is {weight}; it must be above 0 and finite .*leave LayerSync out"):
        LayerSync(transformer(), [(2, 4)], weight=weight)


@pytest.mark.parametrize("weight", ["0.2", True, None, torch.tensor(0.2)])
def test_the_weight_is_a_number(weight):
    with pytest.raises(ValueError, match=rf"weight is .* of type {type(weight).__name__}; needed: a number above 0"):
        LayerSync(transformer(), [(2, 4)], weight=weight)


@every_row(
    ("options", "message"),
    [
        ({"schedule": "cosine"}, r"schedule is 'cosine'; needed: a WeightSchedule"),
        ({"time_weight": "late"}, r"time_weight is 'late'; needed: uniform, towards_data"),
        ({"time_weight": 2.0}, r"time_weight is 2\.0; needed"),
        ({"model": "transformer"}, r"model is of type str; needed: a torch\.nn\.Module"),
    ],
)
def test_options_of_another_kind_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LayerSync(**{"model": transformer(), "pairs": [(2, 4)], **options})


@every_row("step", [torch.tensor([0.2, 0.7]), torch.tensor(0.2), -1, math.nan, "5", True])
def test_what_is_no_step_is_refused(step):
    sync = played([(1, 2)], *two_sides(2, 3, 4))
    with pytest.raises(ValueError, match=r"step is .*needed: an optimizer step from 0.*sync\(t=t\)"):
        sync(step)


@every_row("weigh", [lambda t: 1.0, lambda t: None, lambda t: t[:1], lambda t: t.repeat(3)])
def test_a_time_weight_gives_a_weight_of_each_time(weigh):
    sync = played([(1, 2)], *two_sides(2, 3, 4), time_weight=weigh)
    with pytest.raises(ValueError, match=r"time_weight made .* of times \(2,\); needed: a weight of each"):
        sync(t=torch.tensor([0.2, 0.7]))


def test_a_time_weight_may_keep_axes_or_be_one_number():
    sides, t = two_sides(2, 2, 4), torch.tensor([0.2, 0.7])
    plain = played([(1, 2)], *sides, time_weight=lambda t: t)(t=t)
    for weigh in (lambda t: t[:, None], lambda t: t[None]):
        close(played([(1, 2)], *sides, time_weight=weigh)(t=t), plain)
    half = played([(1, 2)], *sides, time_weight=lambda t: torch.tensor(0.5))(t=t)
    close(half, played([(1, 2)], *sides)() / 2)


def test_masks_and_times_are_tensors_and_a_weight_over_time_may_be_named():
    sides, t = two_sides(2, 3, 4), torch.tensor([0.2, 0.7])
    for name in ("mask", "t"):
        with pytest.raises(ValueError, match=rf"{name} is of type list; needed: a tensor"):
            played([(1, 2)], *sides)(**{name: [[1, 1, 1], [1, 1, 0]]})
    named = played([(1, 2)], *sides, time_weight="middle")(t=t)
    close(named, played([(1, 2)], *sides, time_weight=TIME_WEIGHTS["middle"])(t=t))


@pytest.mark.parametrize("other", [(3, 5, 4), (2, 7, 4), (2, 5, 8)])
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

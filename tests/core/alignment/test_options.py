"""Options of LayerSync as a run's method, the variants of Dispersive, and several methods at once."""

import copy

import pytest
import torch

from core.alignment.adaptive import AdaptiveOptions
from core.alignment.contract import check_layers, draw_pair, settle
from core.alignment.dispersive import DispersiveConfig, covariance_loss, hinge_loss
from core.alignment.layersync import LayerSyncConfig
from core.alignment.several import SeveralConfig
from core.alignment.sra import SRAConfig
from core.alignment.sra2 import SRA2Config
from core.alignment.teacher import Teacher
from core.contracts import Batch
from core.draws import StepRandom
from core.nets.layers import BlockOptions, LabelEmbedder
from core.nets.sit import Recipe, SiT
from core.schema import plain, strict
from core.step import TrainingLoss
from image.train import ENTRY as TRAIN
from tests.core.alignment.parts import loss_parts, tiny
from tests.rows import every_row

BATCH = Batch(torch.randn(4, 2, 6, 4, generator=torch.Generator().manual_seed(5)), torch.arange(4) % 3, torch.arange(4))


def losses_of(config, model, step=0, weights=None, batch=BATCH):
    """The losses of one forward pass under `config`; a teacher with `weights`, by default the model's own."""
    teacher = Teacher(model, config.needs.teacher) if config.needs.teacher else None
    if weights is not None:
        teacher.model.load_state_dict(weights, strict=False)
    method = config.build(model)
    try:
        return TrainingLoss(*loss_parts(model), method, teacher=teacher)(batch, StepRandom(0, step), step)
    finally:
        method.remove()


# --- LayerSync


def test_the_averages_block_is_the_models_own_as_long_as_they_are_equal():
    model = tiny()
    for options in ({}, {"similarity": "smooth_l1", "time_weight": "towards_data"}):
        own = losses_of(LayerSyncConfig(pairs=[(1, 3), (2, 3)], **options), model)
        other = losses_of(LayerSyncConfig(pairs=[(1, 3), (2, 3)], teacher="ema", **options), model)
        assert torch.equal(own.total, other.total) and own.similarity == other.similarity
    later = losses_of(LayerSyncConfig(pairs=[(1, 3)], teacher="ema", noise_gap=0.5), model)
    moved = {name: 1.5 * value for name, value in model.state_dict().items()}
    averaged = losses_of(LayerSyncConfig(pairs=[(1, 3)], teacher="ema"), model, weights=moved)
    single = losses_of(LayerSyncConfig(pairs=[(1, 3)]), model)
    assert abs(later.total - single.total) > 1e-4 and abs(averaged.total - single.total) > 1e-4
    assert torch.equal(later.flow, single.flow)


def test_the_averages_tokens_get_the_axes_that_the_models_have():
    """Frames, of which a teacher hands over one row."""
    model = SiT((3, 6), Recipe(3, 1, BlockOptions(16, 2)), lambda width: LabelEmbedder(3, width, null_row=True))
    options = {"pairs": [(1, 3)], "neighbour_frames": 1}
    batch = Batch(torch.randn(4, 3, 6), BATCH.condition, BATCH.index)
    own, other = (losses_of(LayerSyncConfig(teacher=who, **options), model, batch=batch) for who in ("self", "ema"))
    assert torch.equal(own.total, other.total) and own.values == other.values != {}


def test_a_teachers_pass_is_counted_and_is_not_made_once_the_weight_is_0():
    off = {"schedule": {"kind": "stop", "end_step": 3}}
    config = strict(LayerSyncConfig, {"pairs": [[1, 3]], "teacher": "ema", **off})
    model = tiny()
    before, after = losses_of(config, model, step=2), losses_of(config, model, step=3)
    assert before.total != before.flow.mean() and before.similarity
    assert after.total == after.flow.mean() and not after.similarity
    assert config.build(copy.deepcopy(model)).extra_flops(7, 6) == 7
    assert LayerSyncConfig(pairs=[(1, 3)]).build(model).extra_flops(7, 6) == 0


def test_the_weight_is_0_from_the_step_where_it_stops():
    config = strict(LayerSyncConfig, {"pairs": [[1, 3]], "schedule": {"kind": "stop", "end_step": 3}})
    found = [losses_of(config, tiny(), step) for step in (2, 3)]
    assert [bool(each.total == each.flow.mean()) for each in found] == [False, True]
    assert all(each.similarity for each in found)  # what becomes of it is still seen


def test_a_range_of_times_is_that_of_the_flow():
    model, everywhere = tiny(), LayerSyncConfig(pairs=[(1, 3)])
    t = StepRandom(0, 0).uniform("time", (4,))
    below = [float(t.sort().values[1]) + 1e-4, 1.0]
    part = losses_of(LayerSyncConfig(pairs=[(1, 3)], time_range=below), model)
    whole = losses_of(everywhere, model)
    assert torch.equal(losses_of(LayerSyncConfig(pairs=[(1, 3)], time_range=(0.0, 1.0)), model).total, whole.total)
    assert part.similarity == whole.similarity  # of all samples
    none = losses_of(LayerSyncConfig(pairs=[(1, 3)], time_range=(float(t.max()) + 1e-4, 1.0)), model)
    assert none.total == none.flow.mean() != part.total != whole.total


def test_a_random_pair_is_a_function_of_the_seed_and_any_pair_is_drawn():
    config = LayerSyncConfig(pairs="random", weight=0.5)
    pairs = [settle(config, 5, seed).pairs[0] for seed in range(100)]
    assert pairs == [draw_pair(5, seed) for seed in range(100)]
    assert set(pairs) == {(weak, strong) for strong in range(1, 6) for weak in range(1, strong)}
    assert settle(config, 2, 7) == LayerSyncConfig(pairs=[(1, 2)], weight=0.5)
    assert settle(LayerSyncConfig(pairs=[(1, 2)]), 5, 0).pairs == [(1, 2)]
    with pytest.raises(ValueError, match=r"alignment.pairs names block 2, which does not exist"):
        check_layers(config, 1)


# --- Dispersive


def test_the_hinge_and_the_covariance_are_their_formulas():
    z = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    rows = z.flatten(1)
    squared = torch.tensor([[float((a - b).square().sum()) for b in rows] for a in rows])
    for mean, distance in ((False, squared), (True, squared / 12)):
        margin = float(distance.median())
        hinge = (margin - distance).clamp(min=0).square()
        torch.testing.assert_close(hinge_loss(z, margin, mean=mean).float(), hinge.mean())
        apart = hinge_loss(z, margin, mean=mean, diagonal=False)
        torch.testing.assert_close(apart.float(), (hinge.sum() - 5 * margin**2) / 20)
    squares = torch.corrcoef(rows.T).square()
    total = squares.sum() - 12
    torch.testing.assert_close(covariance_loss(z), total)
    torch.testing.assert_close(covariance_loss(z, mean=True), total / (12 * 11))


def test_what_never_varies_correlates_with_nothing():
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    z[:, 2:4] = torch.tensor([0.0, 3.0])
    z.requires_grad_()
    covariance_loss(z).backward()
    torch.testing.assert_close(covariance_loss(z), covariance_loss(z[:, [0, 1, 4, 5]]))
    assert z.grad.isfinite().all() and not z.grad[:, 2:4].any() and z.grad.any()
    with pytest.raises(ValueError, match="the batch has a single row"):
        covariance_loss(z[:1])


def test_a_variant_is_chosen_by_name():
    model = tiny()
    found = {
        variant: losses_of(DispersiveConfig(layer=2, variant=variant, weight=1.0, **keys), model)
        for variant, keys in (("infonce", {}), ("hinge", {"margin": 9.0}), ("covariance", {}))
    }
    kept = []
    model.blocks[1].register_forward_hook(lambda module, inputs, output: kept.append(output))
    losses_of(LayerSyncConfig(pairs=[(1, 3)]), model)
    wanted = {"hinge": hinge_loss(kept[0], 9.0, mean=True), "covariance": covariance_loss(kept[0], mean=True)}
    for variant, loss in wanted.items():
        torch.testing.assert_close(found[variant].values["dispersive/2"], loss)
    assert found["infonce"].values["dispersive/2"] < 0


def test_options_that_another_one_leaves_unread_are_refused():
    pairs = [(1, 3)]
    for config, keys, unread in (
        (LayerSyncConfig, {"pairs": pairs, "beta": 0.2}, "beta is 0.2, but alignment.similarity is 'cosine'"),
        (
            LayerSyncConfig,
            {"pairs": pairs, "neighbour_decay": 2.0},
            "neighbour_decay is 2.0, but .*neighbour_frames is 0",
        ),
        (LayerSyncConfig, {"pairs": pairs, "adaptive": AdaptiveOptions(7)}, "adaptive is .*, but alignment.pairs is"),
        (SRAConfig, {"pairs": pairs, "beta": 0.2}, "beta is 0.2, but alignment.distance is 'cosine'"),
        (SRAConfig, {"pairs": pairs, "distance": "l1", "cosine_axis": "token"}, "cosine_axis is 'token', but .*'l1'"),
        (DispersiveConfig, {"layer": 2, "margin": 3.0}, "margin is 3.0, but alignment.variant is 'infonce'"),
        (DispersiveConfig, {"layer": 2, "variant": "hinge", "temperature": 1.0}, "temperature is 1.0, but .*'hinge'"),
        (DispersiveConfig, {"layer": 2, "variant": "covariance", "diagonal": False}, "diagonal is False, but"),
    ):
        with pytest.raises(ValueError, match=f"alignment.{unread}"):
            config(**keys)


# --- several

PAIR = ("alignment=layersync", "alignment.pairs=[[1,2]]")
BOTH = {"layersync": {"pairs": [[1, 3]]}, "spread": {"name": "dispersive", "layer": 2, "weight": 0.25}}


def test_several_methods_are_the_sum_of_each():
    model = tiny()
    parts = [losses_of(config, model) for config in (LayerSyncConfig([(1, 3)]), DispersiveConfig(2, weight=0.25))]
    both = losses_of(strict(SeveralConfig, {"of": BOTH}), model)
    flow = both.flow.mean()
    torch.testing.assert_close(both.total - flow, sum(each.total - flow for each in parts))
    assert both.similarity == {"layersync/1->3": parts[0].similarity["1->3"]}
    assert both.values == {"spread/dispersive/2": parts[1].values["dispersive/2"]}


def test_several_methods_need_what_any_needs_and_keep_their_heads_apart():
    sra = {"pairs": [[1, 2], [1, 3]]}
    renamed = {"far": {"name": "sra", "pairs": [[2, 3]]}, "clean": {"name": "sra2", "layer": 1}}
    config = strict(SeveralConfig, {"of": {**BOTH, "sra": sra, **renamed}})
    assert config.layers == [1, 3, 2, 1, 2, 1, 3, 2, 3, 1]
    assert config.needs.teacher == (2, 3) and config.needs.couples_rows
    model = tiny()
    method = config.build(model)
    groups = {name.partition(".")[0] for name, _ in method.heads.named_parameters()}
    assert groups == {"sra", "far", "clean"} and method.extra_flops(10, 6) > 20
    model(BATCH.media, torch.rand(4), BATCH.condition)
    with method.paused():
        model(BATCH.media, torch.rand(4), BATCH.condition)
    method.remove()
    assert not any(module._forward_hooks for module in model.modules())


def test_several_methods_survive_a_configs_file_with_every_option():
    config = strict(SeveralConfig, {"of": BOTH})
    assert config.of == {"layersync": LayerSyncConfig([(1, 3)]), "spread": DispersiveConfig(2, weight=0.25)}
    kept = plain(config)
    assert kept["of"]["layersync"]["weight"] == 0.2 and kept["of"]["spread"]["name"] == "dispersive"
    assert strict(SeveralConfig, kept) == config
    drawn = settle(SeveralConfig({"layersync": LayerSyncConfig("random"), "sra2": SRA2Config(layer=1)}), 9, 4)
    assert drawn.of == {"layersync": LayerSyncConfig(pairs=[draw_pair(9, 4)]), "sra2": SRA2Config(layer=1)}


@every_row(
    ("words", "message"),
    [
        (["alignment.of={}"], "alignment.of' is {}; needed: .*layersync"),
        (["alignment.of={sra2: 3}"], "alignment.of.sra2' is 3; needed: a mapping"),
        (["alignment.of={sra2: {layer: 99}}"], "alignment.of names block 99, which does not exist.*1 to 8"),
        (["alignment.of={sra2: {layer: 1, weight: 0}}"], "alignment.of.sra2.weight is 0.0; it must be above 0"),
        (["alignment.of={sra2: {weight: 1}}"], "missing config key 'alignment.of.sra2.layer'"),
        (["alignment.of={mine: {layer: 1}}"], "alignment.of.mine' is of 'mine'; allowed, .*dispersive"),
        (["alignment.of={1a: {layer: 1}}"], "alignment.of' has the label '1a'"),
        (["+alignment.of.mine.name=[3]"], "alignment.of.mine' is of .3.; allowed"),
        (["alignment.of={none: {}}"], "alignment.of.none' is of 'none'; allowed"),
        (["alignment.of={x: {name: several, of: {}}}"], "alignment.of.x' is of 'several'; allowed"),
        (["+alignment.of.layersync.pairs=[[5,2]]"], "alignment.of.layersync.pairs holds"),
        (["alignment.of={dispersive: {layer: 1}}", "trainer.accumulate=2"], "accumulate is 2, but alignment 'several'"),
        (["alignment=sra2", "alignment.layer=1", "optimizer.lr_scale={blocks: 9, factor: 2}"], "lr_scale.blocks is 9"),
        (["alignment=none", "optimizer.gradient=matched"], "optimizer.gradient is 'matched', but the run has no align"),
        (
            [*PAIR, "alignment.noise_gap=0.1"],
            "alignment.noise_gap is 0.1, but",
        ),
        (
            [*PAIR, "alignment.time_range=[0.5,0.1]"],
            "alignment.time_range is",
        ),
        (
            [*PAIR, "alignment.similarity=l1"],
            "alignment.similarity' is 'l1'",
        ),
        (["alignment=layersync", "alignment.pairs=any"], "alignment.pairs' is 'any'"),
        ([*PAIR, "alignment.beta=0"], "alignment.beta is 0.0"),
        (["alignment=dispersive", "alignment.layer=1", "alignment.margin=-1"], "alignment.margin is -1.0"),
        (["alignment=dispersive", "alignment.layer=1", "alignment.variant=l2"], "alignment.variant' is 'l2'"),
    ],
)
def test_what_does_not_fit_is_refused_where_the_config_is_read(words, message):
    with pytest.raises(ValueError, match=message):
        TRAIN.config(["alignment=several", *words] if words[0].partition("=")[0] != "alignment" else words)


def test_a_teacher_is_not_trained():
    with pytest.raises(ValueError, match=r"stop_gradient is false, but alignment.teacher is 'ema'"):
        LayerSyncConfig(pairs=[(1, 2)], teacher="ema", stop_gradient=False)

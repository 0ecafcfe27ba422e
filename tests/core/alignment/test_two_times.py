"""Self-Flow and dual timesteps: what holds of them by definition, and what they refuse."""

import pytest
import torch
from torch import nn

from core.alignment.dual_timesteps import DualTimestepsConfig, by_group
from core.alignment.self_flow import SelfFlowConfig
from core.alignment.several import SeveralConfig
from core.alignment.sra2 import SRA2Config
from core.alignment.teacher import Teacher
from core.conditioning.labels import LabelConditioning, LabelConfig
from core.contracts import Batch
from core.draws import StepRandom
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.flow.path import TableConfig
from core.latents.pixels import Pixels
from core.nets.layers import Attention, BlockOptions, LabelEmbedder
from core.nets.sit import Recipe, SiT
from core.step import TrainingLoss
from core.train.flops import forward_flops, training_flops
from image.train import ENTRY as TRAIN
from motion.train import ENTRY as TRAIN_MOTION
from video.nets.latte import Latte

BLOCK = BlockOptions(16, 2)


def tiny(shape=(3, 8), patch=1, depth=3):
    """A SiT over frames with random weights everywhere."""
    return opened(SiT(shape, Recipe(depth, patch, BLOCK), lambda size: LabelEmbedder(4, size, null_row=True)))


def opened(model):
    """The network with random weights, so that no gate is shut."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


METHODS = {
    "self_flow": SelfFlowConfig(pairs=[(1, 2)], ratio=0.4),
    "together": DualTimestepsConfig(pairs=[(1, 2)]),
    "separated": DualTimestepsConfig(pairs=[(1, 2)], separation=True, one_time=0.0),
    "alone": DualTimestepsConfig(pairs=None, separation=True),
}


def step_of(config, media, mask=None, objective=ObjectiveConfig()):  # noqa: B008, immutable
    """A training step of a tiny network on clips (B, 3, 8); the loss, and what was kept of network and teacher."""
    model, kept = tiny(), {}
    model.two_times = config.needs.token_times
    teacher = Teacher(model, config.needs.teacher) if config.needs.teacher else None
    method = config.build(model)
    for name, network in {"student": model, "teacher": teacher and teacher.model}.items():
        if network is not None:
            network.register_forward_pre_hook(lambda module, given, name=name: kept.update({name: given}))
    method.heads.requires_grad_(False)
    for number, parameter in enumerate(method.heads.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))
    batch = Batch(media, torch.arange(len(media)) % 4, torch.arange(len(media)), mask)
    conditioning = LabelConditioning(LabelConfig(drop=0.5), 4)
    parts = (Pixels(), conditioning, model, model, FlowMatching(objective, model.expand), method)
    losses = TrainingLoss(*parts, teacher=teacher, needs=config.needs)(batch, StepRandom(0, 0), 0)
    losses.total.backward()
    return losses, kept, model


MEDIA = torch.randn(6, 3, 8, generator=torch.Generator().manual_seed(3))
MASK = torch.arange(8) < torch.tensor([8, 8, 5, 4, 3, 1])[:, None]


def test_a_sample_has_two_times_and_the_teacher_sees_what_the_method_says():
    for name, config in METHODS.items():
        _, kept, _ = step_of(config, MEDIA)
        _, t, condition, mask = kept["student"]
        assert t.shape == (6, 8) and {len(row.unique()) for row in t} <= {1, 2}, name
        assert (mask is not None) == (name in ("separated", "alone")), name
        if name == "alone":
            continue
        _, later, labels, later_mask = kept["teacher"]
        if name == "self_flow":
            assert torch.equal(later, t.amax(1)) and torch.equal(labels, condition)
            continue
        assert later.shape == t.shape and (later >= t).all() and (later - t).max() <= 0.2 + 1e-6
        assert torch.equal(labels, torch.arange(6) % 4) and not torch.equal(labels, condition)
        assert mask is later_mask is None or torch.equal(mask, later_mask)
        for row, other in zip(t, later, strict=True):  # a gap of its own for each group
            assert len(torch.stack([row, other]).unique(dim=1).T) == len(row.unique())
        gaps = [{round(gap, 5) for gap in (a - b).tolist()} for a, b in zip(later, t, strict=True)]
        assert all(len(each) == 2 for each in gaps)


def test_the_later_time_is_the_teachers_although_all_tokens_have_the_other():
    config = SelfFlowConfig(pairs=[(1, 2)], ratio=1e-6)
    _, kept, _ = step_of(config, MEDIA)
    t, later = kept["student"][1], kept["teacher"][1]
    assert (t == t[:, :1]).all()
    both = FlowMatching(ObjectiveConfig()).draw_time(StepRandom(0, 0), (6, 2))
    assert torch.equal(later, both.amax(1)) and (later > t[:, 0]).any()


def test_tokens_have_the_second_time_as_often_as_the_ratio_says():
    method, objective = METHODS["self_flow"].build(tiny()), FlowMatching(ObjectiveConfig())
    times = method.times(objective, StepRandom(0, 0), (400, 8))
    both = objective.draw_time(StepRandom(0, 0), (400, 2))
    assert ((times == both[:, 1:]).float().mean() - 0.4).abs() < 0.03
    assert ((times == both[:, :1]) | (times == both[:, 1:])).all()
    assert len({tuple(row.tolist()) for row in times == both[:, 1:]}) > 100  # one by one


def test_padding_is_in_no_group_and_changes_nothing():
    for name, config in METHODS.items():
        losses, kept, model = step_of(config, MEDIA, MASK)
        other, _, again = step_of(config, torch.where(MASK[:, None], MEDIA, 7.0), MASK)
        torch.testing.assert_close(losses.total, other.total, atol=1e-6, rtol=1e-6)
        for (part, one), two in zip(model.named_parameters(), again.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad, atol=1e-5, rtol=1e-4, msg=f"{name} {part}")
            assert one.grad.isfinite().all()
        groups = kept["student"][3]
        if name == "separated":
            assert torch.equal(groups == 0, ~MASK)
            assert (groups == 1).sum(1).tolist() == [2, 2, 1, 1, 1, 0]  # a quarter of the real ones


def test_on_a_table_times_are_noise_levels():
    objective = ObjectiveConfig(path=TableConfig("cosine", 50), prediction="data")
    for name, config in METHODS.items():
        losses, kept, _ = step_of(config, MEDIA, objective=objective)
        levels = [each[1] for each in kept.values()]
        assert losses.total.isfinite() and all(each.dtype == torch.int64 for each in levels), name
        assert all(((each >= 0) & (each < 50)).all() for each in levels)
        if len(levels) == 2:
            later = levels[1] if levels[1].ndim == 2 else levels[1][:, None]
            assert (later <= levels[0]).all() and (later < levels[0]).any()


def test_separated_tokens_do_not_see_the_other_group():
    model, groups = tiny(), torch.tensor([[1, 2, 2, 1, 2, 0, 1, 2]])
    x, t, label = MEDIA[:1], torch.rand(1, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1])
    out = model(x, t, label, groups)
    for group in (1, 2):
        other = torch.where((groups == group)[:, None], x, 5.0)
        seen = (groups == group)[0]
        torch.testing.assert_close(model(other, t, label, groups)[..., seen], out[..., seen], atol=1e-6, rtol=1e-6)
    assert (model(other, t, label)[..., seen] - model(x, t, label)[..., seen]).abs().max() > 1e-2


def test_two_vectors_of_a_sample_modulate_as_those_of_each_token_do():
    """The output and every gradient, of SiT and of a Latte, with rows that have one time too."""
    latte = Latte((3, 2, 4, 4), Recipe(3, (1, 2, 2), BLOCK), lambda size: LabelEmbedder(4, size, null_row=True))
    generator, results = torch.Generator().manual_seed(0), []
    t = torch.where(torch.arange(8) % 3 == 0, 0.3, torch.tensor([0.8, 0.1, 0.3])[:, None])
    for model, shape in ((tiny(), (3, 3, 8)), (opened(latte), (3, 3, 2, 4, 4))):
        x, label = torch.randn(shape, generator=generator), torch.tensor([0, 1, 4])
        for two in (False, True):
            model.two_times = two
            out = model(x, t, label)
            gradients = torch.autograd.grad(out.square().mean(), list(model.parameters()))
            results.append([out.detach(), *gradients])
        one, other = results[-2:]
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5 * float(a.abs().max()) + 1e-7, rtol=1e-4)


def test_one_group_is_attention_to_all():
    attention = Attention(16, 2)
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attention(x, mask=torch.full((3, 5), 2)), attention(x))


def test_samples_of_one_time_are_as_many_as_asked_for():
    for config, share in ((METHODS["alone"], 0.25), (METHODS["together"], 0.0), (METHODS["separated"], 0.0)):
        groups = config.build(tiny()).groups(StepRandom(0, 0), (600, 8), None)
        assert abs((groups == 2).all(1).float().mean().item() - share) < 0.05


def test_by_group_gives_each_token_its_groups_value():
    values = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    groups = torch.tensor([[1, 2, 1], [2, 2, 1]])
    assert torch.equal(by_group(groups, values), torch.tensor([[0.1, 0.2, 0.1], [0.4, 0.4, 0.3]]))


def test_nothing_is_aligned_and_no_teacher_kept_without_pairs():
    config = METHODS["alone"]
    losses, kept, _ = step_of(config, MEDIA)
    assert config.needs.teacher == () and not config.build(tiny()).heads and "teacher" not in kept
    assert torch.equal(losses.total, losses.flow.mean()) and losses.similarity == {}


def test_flops_are_those_of_a_time_for_each_token_a_teacher_and_a_head():
    model, label = tiny(), torch.zeros(1, dtype=torch.int64)
    shape, tokens, width = (3, 8), model.num_tokens, model.width
    one = forward_flops(model, shape, label)
    modulated = sum(block.adaLN_modulation[1].weight.numel() for block in [*model.blocks, model.final_layer])
    modulated += sum(layer.weight.numel() for layer in (model.t_embedder.mlp[0], model.t_embedder.mlp[2]))
    assert forward_flops(model, shape, label, token_times=True) == one + 2 * (tokens - 1) * modulated
    model.two_times = True
    assert training_flops(model, shape, label, token_times=True) == 3 * (one + 2 * modulated)
    head = 3 * 2 * tokens * 4 * width**2
    assert METHODS["self_flow"].build(model).extra_flops(one, tokens) == one * 2 // 3 + head
    assert METHODS["together"].build(model).extra_flops(one, tokens) == one * 2 // 3 + head
    assert METHODS["alone"].build(model).extra_flops(one, tokens) == 0


BAD = [
    (SelfFlowConfig, {"pairs": [(1, 2)], "ratio": 0.0}, r"alignment.ratio is 0.0; it must lie in \(0, 1\)"),
    (SelfFlowConfig, {"pairs": [(1, 2)], "weight": 0.0}, "alignment.weight is 0.0"),
    (SelfFlowConfig, {"pairs": []}, "alignment.pairs is empty"),
    (DualTimestepsConfig, {"pairs": [(1, 2)], "ratio": 1.0}, "alignment.ratio is 1.0"),
    (DualTimestepsConfig, {"pairs": None, "one_time": 1.0}, r"alignment.one_time is 1.0; it must lie in \[0, 1\)"),
    (DualTimestepsConfig, {"pairs": None, "weight": -1.0}, "alignment.weight is -1.0"),
    (DualTimestepsConfig, {"pairs": [(2, 1)]}, r"alignment.pairs holds \(2, 1\)"),
]


def test_bad_options_are_refused_when_the_config_is_made():
    for schema, options, words in BAD:
        with pytest.raises(ValueError, match=words):
            schema(**options)


MDM = ["experiment=humanml3d_mdm", "data.root=x", "conditioning.path=x"]
REFUSED = [
    (
        TRAIN,
        ["alignment=self_flow", "alignment.pairs=[[2,6]]", "objective.time_per=token"],
        "objective.time_per is 'to",
    ),
    (TRAIN, ["alignment=self_flow", "alignment.pairs=[[2,6]]", "ema.device=cpu"], "ema.device is 'cpu'"),
    (TRAIN, ["alignment=dual_timesteps", "alignment.pairs=[[2,9]]"], "alignment.pairs names block 9"),
    (
        TRAIN_MOTION,
        [*MDM, "alignment=self_flow", "alignment.pairs=[[2,6]]"],
        "alignment is 'self_flow', which gives a sample two",
    ),
    (TRAIN_MOTION, [*MDM, "alignment=dual_timesteps", "alignment.pairs=null"], "alignment is 'dual_timesteps', which"),
]


def test_what_a_run_cannot_have_is_refused_where_the_config_is_read():
    for entry, words, message in REFUSED:
        with pytest.raises(ValueError, match=message):
            entry.config(words)


def test_every_preset_is_read():
    for name, pairs in {
        "self_flow_depth12": [(4, 8)],
        "dual_timesteps_depth12": [(3, 8)],
        "dual_timesteps_reference": [(3, 8)],
        "self_flow_depth28": [(8, 20)],
        "dual_timesteps_depth28": [(8, 20)],
    }.items():
        config = TRAIN.config([f"alignment={name}", "backbone.depth=28"])
        assert config.alignment.pairs == pairs, name
    assert TRAIN.config(["alignment=dual_timesteps", "alignment.pairs=null"]).alignment.needs.teacher == ()


def test_beside_another_method_tokens_have_the_same_times_and_groups():
    for name in ("separated", "self_flow"):
        both = SeveralConfig({"sra2": SRA2Config(layer=1), name: METHODS[name]})
        (_, kept, _), (_, usual, _) = (step_of(config, MEDIA) for config in (both, METHODS[name]))
        for side in ("student", "teacher"):
            for ours, alone in zip(kept[side], usual[side], strict=True):
                assert (ours is alone is None) or torch.equal(ours, alone), (name, side)

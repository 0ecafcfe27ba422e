"""Whole training steps of Self-Flow and dual timesteps against recorded ones."""

from types import SimpleNamespace

import torch
from torch import nn

from core.alignment.dual_timesteps import DualTimestepsConfig
from core.alignment.self_flow import SelfFlowConfig
from core.alignment.teacher import Teacher
from core.contracts import Batch
from core.draws import StepRandom
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.latents.pixels import Pixels
from core.nets.layers import BlockOptions, LabelEmbedder, visible_keys
from core.nets.sit import Recipe, SiT
from core.step import TrainingLoss
from core.storage.weights import load_into
from tests.golden_files import load_golden, with_prefix

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


class Recorded:
    """Streams of numbers that are given by name."""

    def __init__(self, **streams):
        self.streams = {name.replace("_", " "): value for name, value in streams.items()}

    def normal(self, stream, shape):
        assert tuple(self.streams[stream].shape) == tuple(shape), stream
        return self.streams[stream]

    uniform = normal


class OtherWay(nn.Module):
    """A network of noise - data at a time that is 1 at the noise, as one of ours."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, t, condition, mask=None):
        return -self.network(x, 1 - t, condition, mask)


def recorded_network(tensors, facts, learn_sigma=False):
    """The recording's SiT, and its teacher, whose weights are 0.9 of the student's."""
    sizes = facts["model"]
    block = BlockOptions(sizes["hidden_size"], sizes["num_heads"])
    labels = len(tensors["y_embedder.embedding_table.weight"])
    patch = sizes["patch_size"]
    model = SiT(
        (sizes["in_channels"], sizes["input_size"], sizes["input_size"]),
        Recipe(sizes["depth"], patch, block, learn_sigma),
        lambda width: LabelEmbedder(labels - 1, width, null_row=True),
    )
    state = {name: value for name, value in tensors.items() if name in model.state_dict()}
    state["x_embedder.proj.weight"] = state["x_embedder.proj.weight"].reshape(model.x_embedder.proj.weight.shape)
    load_into(model, state, "the golden file")
    model.two_times = True  # as in a run
    return model


def teacher_of(model, layer):
    """The average, with 0.9 of the weights."""
    teacher = Teacher(model, (layer,))
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter.mul_(0.9)
    return teacher


def loss_of(model, network, method, teacher, needs, dropped=None):
    """The training step of the repository; `dropped` are the labels that the student sees."""
    conditioning = SimpleNamespace(drop=lambda condition, random: condition if dropped is None else dropped)
    objective = FlowMatching(ObjectiveConfig(), model.expand)
    return TrainingLoss(Pixels(), conditioning, network, model, objective, method, teacher=teacher, needs=needs)


def test_a_step_of_self_flow_is_the_recorded_one():
    golden, facts = load_golden("self_flow")
    state, two = with_prefix(golden, "state."), with_prefix(golden, "two.")
    model = recorded_network(state, facts, learn_sigma=True)
    config = SelfFlowConfig(pairs=[(facts["student_block"], facts["teacher_block"])], ratio=facts["mask_ratio"])
    assert config.weight == facts["align_weight"]
    teacher = teacher_of(model, facts["teacher_block"])
    method, seen = config.build(model), []
    teacher.model.register_forward_pre_hook(lambda module, given: seen.append(given[:2]))
    head = method.heads["pair0"]
    head.load_state_dict(with_prefix(state, "projector."))
    head.register_forward_hook(lambda module, given, out: seen.append(out))
    times = 1 - torch.stack([two["t"], two["s"]], 1)  # the recording's are 0 at the data
    random = Recorded(noise=two["noise"], time=times, second_time=torch.where(two["mask"], 0.0, 0.99))
    batch = Batch(two["data"], golden["y"], torch.arange(len(times)))
    losses = loss_of(model, model, method, teacher, config.needs)(batch, random, 0)
    (x, t), projected = seen
    projected.retain_grad()
    losses.total.backward()
    torch.testing.assert_close(model.patches(x), channel_last(two["teacher_in"], facts), **CLOSE)
    torch.testing.assert_close(1 - t, two["teacher_t"], **CLOSE)
    torch.testing.assert_close(projected, two["student_head"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses.flow, two["flow_loss"], **CLOSE)
    torch.testing.assert_close(losses.total.detach().reshape(1), two["total_loss"], **CLOSE)
    (similarity,) = losses.similarity.values()
    torch.testing.assert_close(similarity, two["cosine"].mean(), **CLOSE)
    torch.testing.assert_close(projected.grad, config.weight * two["grad_align.student_head"], atol=1e-7, rtol=1e-3)
    named = {**dict(model.named_parameters()), "projector.linear2.weight": head.linear2.weight}
    for name, gradient in with_prefix(two, "grad.").items():
        torch.testing.assert_close(named[name].grad, gradient, atol=1e-5, rtol=1e-3, msg=name)
    assert all(parameter.grad is None for parameter in teacher.model.parameters())


def channel_last(tokens, facts):
    """Recorded tokens (B, N, C P P), whose channels are slowest, as ours, whose channels are fastest."""
    channels = facts["model"]["in_channels"]
    return tokens.unflatten(-1, (channels, -1)).transpose(-1, -2).flatten(-2)


def dual_step(name):
    """A recorded step of dual timesteps, ours, and what is compared."""
    golden, facts = load_golden("alignment2")
    golden, facts = with_prefix(golden, "dts."), facts["dts"] | {"model": load_golden("alignment2")[1]["model"]}
    case, options = with_prefix(golden, f"{name}."), facts["cases"][name]
    model = recorded_network(with_prefix(golden, "state."), facts)
    config = DualTimestepsConfig(
        pairs=[(facts["student_block"], facts["teacher_block"])],
        weight=facts["weight"],
        ratio=options["ratio"],
        separation=options["sep"],
        one_time=options["full"],
        cosine_axis="token",
    )
    teacher, method = teacher_of(model, facts["teacher_block"]), config.build(model)
    teacher.network = OtherWay(teacher.model)
    method.heads["pair0"].load_state_dict(with_prefix(golden, "state.ap_head."))
    one = (case["group_ids"] == 1).all(1)
    random = Recorded(
        noise=case["noise"],
        time=1 - case["group_times"],
        group_order=case["group_ids"].float(),
        one_time=torch.where(one, 0.0, 0.99),
        teacher_time=case["teacher_offset_draw"],
    )
    batch = Batch(golden["data"], golden["y"], torch.arange(len(one)))
    loss = loss_of(model, OtherWay(model), method, teacher, config.needs, case["student_labels"])
    return case, method, loss(batch, random, 0), method.groups(random, (len(one), model.num_tokens), None)


def test_steps_of_dual_timesteps_are_the_recorded_ones():
    """Separated, the teacher with the labels before the drop, without and with samples of one time."""
    for name in ("as_sra", "as_full"):
        case, method, losses, groups = dual_step(name)
        assert torch.equal(groups, case["group_ids"] + 1), name
        assert torch.equal(visible_keys(groups)[:, 0], case["attention_allowed"]), name
        torch.testing.assert_close(losses.flow, case["denoising_loss"], **CLOSE)
        torch.testing.assert_close(losses.total.detach().reshape(1), case["total_loss"], **CLOSE)
        (similarity,) = losses.similarity.values()
        torch.testing.assert_close((1 - similarity).reshape(1), case["align_cos_feature_axis_mean"], **CLOSE)
        if name == "as_sra":
            losses.total.backward()
            gradient = method.heads["pair0"].linear2.bias.grad
            torch.testing.assert_close(gradient, case["grad.ap_head.linear2.bias"], atol=1e-6, rtol=1e-3)


def test_groups_have_the_recorded_sizes_at_random_places():
    golden, _ = load_golden("alignment2")
    for ratio, tokens, first, second in golden["dts.count_table"].tolist():
        method = DualTimestepsConfig(pairs=None, ratio=ratio).build(nn.Identity())
        groups = method.groups(StepRandom(0, 0), (50, int(tokens)), None)
        assert set((groups == 1).sum(1).tolist()) == {int(first)} and set((groups == 2).sum(1).tolist()) == {
            int(second)
        }
        assert ((groups == 1).float().mean(0) - ratio).abs().max() < 0.35  # no place is always in one group

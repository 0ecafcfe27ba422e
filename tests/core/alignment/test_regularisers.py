"""Dispersive, SRA and SRA 2 against recorded numbers, and what holds of them by definition."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.alignment.contract import Alignment, AlignmentTerms, Forward, Needs, check_layers
from core.alignment.dispersive import DispersiveConfig, dispersive_loss
from core.alignment.layersync import LayerSyncConfig
from core.alignment.methods import ALIGNMENTS
from core.alignment.sra import Head, SRAConfig, later_time
from core.alignment.sra2 import SRA2Config, make_head
from core.alignment.teacher import Teacher
from core.contracts import Batch
from core.draws import StepRandom
from core.flow.path import Interpolant, Linear, Table
from core.step import TrainingLoss
from image.train import ENTRY as TRAIN
from tests.core.alignment.parts import loss_parts, tiny
from tests.golden_files import load_golden, with_prefix

GOLDEN, FACTS = load_golden("regularisers")
DISPERSIVE = {
    "formula_tau0.5": {"distance": "sum"},
    "formula_tau0.5_offdiagonal": {"distance": "sum", "diagonal": False},
    "mean_square_tau0.5": {"distance": "mean"},
    "released_mean_square_tau1": {"distance": "mean", "temperature": 1.0},
}


class Listed(nn.Module):
    """Two "blocks" that return what they are told to."""

    def __init__(self, *tokens: torch.Tensor):
        super().__init__()
        self.width = tokens[0].shape[-1]
        self.blocks = nn.ModuleList(nn.Identity() for _ in tokens)
        self.given = tokens

    def forward(self):
        return [block(tokens) for block, tokens in zip(self.blocks, self.given, strict=True)]


class GivenTeacher:
    """A teacher whose tokens are recorded; it keeps what it was asked."""

    def __init__(self, tokens):
        self.tokens_of, self.seen = tokens, None

    def tokens(self, x, t, condition, mask):
        self.seen = x, t
        return self.tokens_of


def forward_of(latents, noise, t, random, mask=None, path=None):
    """The parts of a forward pass that a term reads."""
    batch = Batch(latents, torch.zeros(len(latents)), torch.arange(len(latents)), mask)
    interpolant = Interpolant(path or Linear())
    x_t = interpolant.point(latents, noise, t)
    objective = SimpleNamespace(interpolant=interpolant)
    return Forward(0, batch, latents, noise, t, x_t, batch.condition, x_t, random, objective)


def test_dispersive_is_the_recorded_formula_in_all_four_forms():
    for name, options in DISPERSIVE.items():
        tokens = GOLDEN["dispersive.z"].clone().requires_grad_()
        model = Listed(tokens)
        method = DispersiveConfig(layer=1, weight=1.0, **options).build(model)
        model()
        terms = method.terms(SimpleNamespace(step=0, batch=SimpleNamespace(mask=None)), None)
        assert terms.loss.item() == pytest.approx(GOLDEN[f"dispersive.{name}"].item(), rel=1e-5), name
        terms.loss.backward()
        torch.testing.assert_close(tokens.grad, GOLDEN[f"dispersive.grad.{name}"], atol=1e-6, rtol=1e-5)


def test_dispersive_couples_rows_and_needs_two_of_them_without_the_diagonal():
    z = GOLDEN["dispersive.z"]
    whole, halves = dispersive_loss(z), [dispersive_loss(half) for half in z.chunk(2)]
    assert abs(whole - sum(halves) / 2) > 0.05
    with pytest.raises(ValueError, match=r"alignment.diagonal is false, but the batch has a single row"):
        dispersive_loss(z[:1], diagonal=False)


def sra(distance: str, cosine_axis: str = "feature"):
    """SRA on recorded student and teacher tokens; returns terms, the student's projection and the teacher."""
    projected = GOLDEN["sra.student_projected"].clone().requires_grad_()
    model = Listed(projected, projected)
    config = SRAConfig(pairs=[(1, 2)], weight=1.0, distance=distance, cosine_axis=cosine_axis, beta=0.05)
    method = config.build(model)
    method.heads["pair0"] = nn.Identity()
    model()
    teacher = GivenTeacher({2: GOLDEN["sra.teacher_tokens"]})
    w = GOLDEN["sra.w"]
    random = SimpleNamespace(uniform=lambda stream, shape: w.reshape(shape))
    t = 1 - GOLDEN["sra.student_t"]  # recorded times run the other way
    forward = forward_of(GOLDEN["sra.images"], GOLDEN["sra.noise"], t, random)
    return method.terms(forward, teacher), projected, teacher


def test_sra_distances_are_the_recorded_ones():
    recorded = {("cosine", "token"): "cos", ("smooth_l1", "feature"): "sml1", ("l1", "feature"): "l1"}
    recorded |= {("l2", "feature"): "l2", ("cosine", "feature"): "cos_over_features"}
    for (distance, axis), name in recorded.items():
        terms, projected, _ = sra(distance, axis)
        assert terms.loss.item() == pytest.approx(GOLDEN[f"sra.align.{name}"].mean().item(), abs=2e-6), name
        if f"sra.grad_student.{name}_mean" in GOLDEN:
            terms.loss.backward()
            torch.testing.assert_close(projected.grad, GOLDEN[f"sra.grad_student.{name}_mean"], atol=1e-6, rtol=1e-4)


def test_sra_shows_its_teacher_the_recorded_input_at_the_recorded_time():
    _, _, teacher = sra("cosine")
    x, t = teacher.seen
    torch.testing.assert_close(x, GOLDEN["sra.teacher_input"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(1 - t, GOLDEN["sra.teacher_t"], atol=1e-6, rtol=1e-5)


def test_sra_head_is_the_recorded_one():
    head = Head(GOLDEN["sra.head_in"].shape[-1])
    head.load_state_dict(with_prefix(GOLDEN, "sra.head."))
    torch.testing.assert_close(head(GOLDEN["sra.head_in"]), GOLDEN["sra.head_out"], atol=1e-5, rtol=1e-5)


def test_a_later_time_is_one_that_the_path_has():
    t, gap = torch.tensor([0.0, 0.5, 0.95]), torch.tensor([0.2, 0.2, 0.2])
    torch.testing.assert_close(later_time(Linear(), t, gap), torch.tensor([0.2, 0.7, 1.0]))
    path = Table("cosine", 50)
    levels = path.network_time(later_time(path, path.times(t, "data"), gap))
    assert ((levels >= 0) & (levels < 50)).all() and levels[-1] == 0
    assert (levels <= path.network_time(path.times(t, "data"))).all()


def test_sra2_compares_the_heads_patches_with_those_of_the_clean_latent():
    model, random = tiny(), StepRandom(0, 0)
    method = SRA2Config(layer=2, weight=1.0, beta=0.05).build(model)
    latents, noise, t = random.normal("data", (4, 2, 6, 4)), random.normal("noise", (4, 2, 6, 4)), torch.full((4,), 0.4)
    kept = []
    model.blocks[1].register_forward_hook(lambda module, inputs, output: kept.append(output))
    forward = forward_of(latents, noise, t, random)
    model(forward.x_t, t, torch.zeros(4, dtype=torch.int64))
    terms = method.terms(forward, None)
    predicted = method.heads["patches"](kept[0])
    patches = torch.stack(  # by hand: rows and columns of the grid, then of the patch, channels last
        [
            latents[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].permute(0, 2, 3, 1).flatten(1)
            for y in range(3)
            for x in range(2)
        ],
        dim=1,
    )
    assert torch.equal(model.patches(latents), patches)
    error = (predicted - patches).abs()
    expected = torch.where(error < 0.05, error.square() / 0.1, error - 0.025).mean()
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    terms.loss.backward()
    assert all(each.grad is not None for each in method.heads.parameters())
    assert model.blocks[1].mlp.fc1.weight.grad is not None and model.blocks[2].mlp.fc1.weight.grad is None


def test_the_head_of_sra2_has_the_papers_size():
    assert sum(each.numel() for each in make_head(1152, 16).parameters()) == pytest.approx(8e6, rel=0.03)


def test_padding_moves_no_term():
    """NaN in padded tokens changes neither loss nor gradient of any method."""
    tokens, target = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    for name, config in {
        "dispersive": DispersiveConfig(layer=1),
        "sra": SRAConfig(pairs=[(1, 2)]),
        "sra smooth_l1": SRAConfig(pairs=[(1, 2)], distance="smooth_l1"),
        "sra token": SRAConfig(pairs=[(1, 2)], cosine_axis="token"),
        "sra2": SRA2Config(layer=1),
    }.items():
        losses = []
        for filler in (0.0, torch.nan):
            padded = torch.where(mask[..., None], tokens, filler).requires_grad_()
            model = Listed(padded, padded)
            model.token_size, model.patches = 8, lambda x, filler=filler: torch.where(mask[..., None], target, filler)
            torch.manual_seed(0)
            method = config.build(model)
            model()
            forward = forward_of(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2), StepRandom(0, 0), mask)
            loss = method.terms(forward, GivenTeacher({2: torch.where(mask[..., None], target, filler)})).loss
            loss.backward()
            losses.append(loss.item())
            assert padded.grad.isfinite().all(), name
        assert losses[0] == losses[1], name


def test_a_teacher_has_hooks_and_blocks_of_its_own():
    model, x = tiny(), torch.randn(2, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    inputs = x, torch.tensor([0.2, 0.7]), torch.tensor([0, 1])
    teacher = Teacher(model, (1, 2))
    method = LayerSyncConfig(pairs=[(1, 3)]).build(model)
    model(*inputs)
    tokens = teacher.tokens(*inputs)
    assert method.sync.terms(t=inputs[1]).similarity["1->3"].isfinite()  # the student's tokens are still there
    kept = []
    model.blocks[1].register_forward_hook(lambda module, inputs, output: kept.append(output))
    with method.paused():
        model(*inputs)
    assert torch.equal(tokens[2], kept[0]) and not tokens[2].requires_grad
    assert len(teacher.model.blocks) == 2 and len(model.blocks) == 3  # what nobody looks at is not computed


BAD = [
    (LayerSyncConfig, {"pairs": [(1, 2)], "weight": -1.0}, r"alignment.weight is -1.0; it must be above 0"),
    (LayerSyncConfig, {"pairs": []}, "alignment.pairs is empty"),
    (LayerSyncConfig, {"pairs": [(3, 3)]}, r"alignment.pairs holds \(3, 3\); the weak layer must come before"),
    (SRAConfig, {"pairs": [(1, 2), (1, 2)]}, "alignment.pairs names a pair twice"),
    (SRAConfig, {"pairs": [(1, 2)], "max_gap": 1.5}, r"alignment.max_gap is 1.5; it must lie in \[0, 1\]"),
    (SRAConfig, {"pairs": [(1, 2)], "beta": 0.0}, "alignment.beta is 0.0"),
    (SRA2Config, {"layer": 1, "weight": 0.0}, "alignment.weight is 0.0"),
    (SRA2Config, {"layer": 1, "beta": -1.0}, "alignment.beta is -1.0"),
    (DispersiveConfig, {"layer": 1, "temperature": 0.0}, "alignment.temperature is 0.0"),
]


def test_bad_options_are_refused_when_the_config_is_made():
    for schema, options, words in BAD:
        with pytest.raises(ValueError, match=words):
            schema(**options)


def test_every_method_says_which_layers_it_listens_to():
    paired = ("layersync", "sra", "self_flow", "dual_timesteps")
    options = {"none": {}, **{name: {"pairs": [(1, 9)]} for name in paired}}
    options["external"] = {"layer": 9, "encoder": "dinov2:x"}
    options["several"] = {"of": {"sra2": SRA2Config(9), "sra": SRAConfig([(1, 2)])}}
    for name, schema in ALIGNMENTS.items():
        config = schema(**options.get(name, {"layer": 9}))
        check_layers(config, 9)
        if name != "none":
            with pytest.raises(
                ValueError, match=r"alignment\.(pairs|layer|of) names block 9, which does not exist: .*blocks 1 to 8"
            ):
                check_layers(config, 8)


REFUSED = [
    (["alignment.weight=-1"], r"alignment.weight is -1.0; it must be above 0"),
    (["alignment.pairs=[]"], "alignment.pairs is empty"),
    (
        ["alignment.pairs=[[1,99]]"],
        r"alignment.pairs names block 99, which does not exist: the backbone has blocks 1 to 8",
    ),
    (
        ["alignment=dispersive", "alignment.layer=2", "trainer.accumulate=2"],
        "trainer.accumulate is 2, but alignment 'disp",
    ),
    (
        ["alignment=sra", "alignment.pairs=[[2,5]]", "ema.device=cpu"],
        "ema.device is 'cpu', but the average is the teacher",
    ),
]


def test_what_a_method_cannot_have_is_refused_where_the_config_is_read():
    """Not in the job: `--print-config` and a sweep's dry run read the config and nothing else."""
    for words, message in REFUSED:
        with pytest.raises(ValueError, match=message):
            TRAIN.config(words)


def test_a_method_may_ask_for_a_time_for_each_token():
    class Kept(Alignment):
        def terms(self, forward, teacher):
            self.t = forward.t
            return AlignmentTerms(forward.t.new_zeros(()))

    model, method = tiny(), Kept()
    batch = Batch(torch.zeros(4, 2, 6, 4), torch.zeros(4, dtype=torch.int64), torch.arange(4))
    parts = (*loss_parts(model), method)
    for needs, shape in ((Needs(), (4,)), (Needs(token_times=True), (4, 6))):
        TrainingLoss(*parts, needs=needs)(batch, StepRandom(0, 0), 0)
        assert method.t.shape == shape

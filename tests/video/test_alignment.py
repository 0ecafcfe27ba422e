"""Every alignment method on both backbones: padding moves nothing, tokens have frames where they are asked for."""

import pytest
import torch

from core.alignment.dispersive import DispersiveConfig
from core.alignment.layersync import LayerSyncConfig
from core.alignment.sra import SRAConfig
from core.alignment.sra2 import SRA2Config
from core.alignment.teacher import Teacher
from core.conditioning.none import Unconditional
from core.contracts import Batch
from core.draws import StepRandom, seeded_weights
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.step import TrainingLoss
from layersync.hooks import LayerHooks
from layersync.outputs import LayerOutput
from layersync.tokens import hide_padding, masked_mean, neighbour_cosine, token_cosine
from tests.rows import every_row
from video.backbone import BACKBONES

METHODS = {
    "layersync": LayerSyncConfig(pairs=[(1, 3), (2, 4)]),
    "neighbours": LayerSyncConfig(pairs=[(1, 3)], neighbour_frames=1),
    "neighbours over time": LayerSyncConfig(pairs=[(2, 3)], neighbour_frames=2, time_weight="towards_data"),
    "dispersive": DispersiveConfig(layer=2),
    "sra": SRAConfig(pairs=[(1, 3)]),
    "sra token": SRAConfig(pairs=[(2, 3)], cosine_axis="token"),
    "sra2": SRA2Config(layer=2),
}
FRAMES = 4
ROWS = [(kind, name) for kind in BACKBONES for name in METHODS]


class AsTheyAre:
    """Media are latents."""

    def encode(self, media, random):
        return media


def build(kind):
    with seeded_weights(0, "weights"):
        config = BACKBONES[kind](depth=4, hidden_size=16, num_heads=2, patch_size=[1, 2, 2])
        model = config.build((3, FRAMES, 4, 4), Unconditional())
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def one_step(kind, config, latents, mask, time_per="sample"):
    """The loss of a training step, what it logs, and the gradients of the backbone."""
    model = build(kind)
    teacher = Teacher(model, config.needs.teacher) if config.needs.teacher else None
    with seeded_weights(0, "alignment heads"):
        method = config.build(model)
    flow = FlowMatching(ObjectiveConfig(time_per=time_per), model.expand)
    step = TrainingLoss(AsTheyAre(), Unconditional(), model, model, flow, method, teacher=teacher, needs=config.needs)
    none = torch.zeros(len(latents), dtype=torch.int64)
    losses = step(Batch(latents, none, torch.arange(len(latents)), mask), StepRandom(0, 0), 0)
    losses.total.backward()
    return losses, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def clips():
    latents = torch.randn(3, 3, FRAMES, 4, 4, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(FRAMES) < torch.tensor([[2], [4], [3]])).repeat_interleave(4, 1)
    return latents, mask


@every_row(("kind", "name"), ROWS)
@every_row("time_per", ["sample", "token"])
def test_what_stands_in_padded_frames_changes_nothing(kind, name, time_per, clips):
    latents, mask = clips
    if time_per == "token" and name.startswith("sra"):
        return  # a later time of each token is no matter of frames
    padded = ~build(kind).expand(mask, latents).expand_as(latents)
    other = torch.where(padded, 1e3 * torch.randn(latents.shape), latents)
    results = [one_step(kind, METHODS[name], each, mask, time_per) for each in (latents, other)]
    (losses, gradients), (changed, others) = results
    assert losses.total != losses.flow.mean() and losses.total.isfinite()
    torch.testing.assert_close(losses.total, changed.total, rtol=1e-5, atol=1e-6)
    for parameter, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(gradient, others[parameter], rtol=1e-3, atol=1e-5, msg=parameter)


@every_row("kind", list(BACKBONES))
def test_neighbours_are_the_frames_of_the_blocks_tokens(kind, clips):
    """Whatever axes the blocks hand over: the same sum over tokens that are told apart by frame and place."""
    latents, mask = clips
    model, t = build(kind), torch.tensor([0.1, 0.5, 0.9])
    sync = LayerSyncConfig(pairs=[(1, 3)], weight=1.0, neighbour_frames=1).build(model).sync
    hooks = LayerHooks(model, [1, 3], output=LayerOutput(token_dim=getattr(model, "token_dim", None)))
    model(latents, t, torch.zeros(3, dtype=torch.int64), mask)
    weak, strong = (hide_padding(each.reshape(3, FRAMES, 4, 16), mask) for each in hooks.take().values())
    near = neighbour_cosine(weak, strong, 1, 1.0)
    expected = -masked_mean(token_cosine(weak, strong) + near, mask)
    torch.testing.assert_close(sync(t=t, mask=mask), expected)


def test_neighbours_of_tokens_without_frames_are_refused_with_the_key():
    from image.backbone import SiTConfig  # images have no frames

    model = SiTConfig(depth=3, hidden_size=16, num_heads=2).build((3, 4, 4), 5)
    with pytest.raises(
        ValueError, match=r"^alignment\.neighbour_frames is 1, but the backbone's tokens are not of frames"
    ):
        LayerSyncConfig(pairs=[(1, 3)], neighbour_frames=1).build(model)
    assert LayerSyncConfig(pairs=[(1, 3)]).build(model).sync.neighbour_frames == 0


@every_row("kind", list(BACKBONES))
def test_a_shorter_clip_has_neighbours_too(kind, clips):
    latents, _ = clips
    model = build(kind)
    sync = LayerSyncConfig(pairs=[(1, 3)], neighbour_frames=1).build(model).sync
    t = torch.rand(3)
    model(latents[:, :, :3], t, torch.zeros(3, dtype=torch.int64))
    terms = sync.terms(t=t)
    assert terms.loss.isfinite() and terms.values["neighbours/1->3"].abs() > 0

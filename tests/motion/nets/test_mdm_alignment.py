"""Alignment of MDM: its tokens are frames alone, and padded frames change nothing where they are hidden."""

import dataclasses

import pytest
import torch

from core.alignment.contract import listen
from core.alignment.dispersive import DispersiveConfig
from core.alignment.layersync import LayerSyncConfig
from core.alignment.sra import SRAConfig
from core.alignment.sra2 import SRA2Config
from core.alignment.teacher import Teacher
from core.conditioning.labels import LabelConditioning, LabelConfig
from core.contracts import Batch
from core.draws import StepRandom
from core.flow.objective import ObjectiveConfig
from core.flow.path import TableConfig
from core.step import TrainingLoss
from layersync.tokens import token_cosine
from motion.nets.mdm import MDM, Recipe
from tests.core.flow.numerics import close, one_thread  # noqa: F401, a fixture

pytestmark = pytest.mark.usefixtures("one_thread")
ROWS, CHANNELS, FRAMES, WIDTH = 4, 5, 8, 16
LENGTHS = torch.tensor([8, 3, 5, 1])
METHODS = [
    LayerSyncConfig(pairs=[(1, 3)]),
    LayerSyncConfig(pairs=[(1, 2), (2, 3)], neighbour_frames=2),
    DispersiveConfig(layer=2),
    SRAConfig(pairs=[(1, 2)]),
    SRA2Config(layer=2),
]


class Identity:
    """Latents are the media."""

    def encode(self, media, random):
        return media


def training_loss(alignment, mask_frames=True):
    """A step's loss of a small MDM with classes, under a diffusion of 50 levels."""
    torch.manual_seed(0)
    model = MDM((CHANNELS, FRAMES), Recipe(3, WIDTH, 2, 32, mask_frames=mask_frames), actions=3)
    for block in model.blocks:
        torch.nn.init.normal_(block.linear2.weight, std=0.2)  # blocks that are not alike
    teacher = Teacher(model, alignment.needs.teacher) if alignment.needs.teacher else None
    objective = ObjectiveConfig(TableConfig("cosine", 50), "data").build(model)
    conditioning = LabelConditioning(LabelConfig(), 3)
    parts = {"network": model, "backbone": model, "objective": objective, "alignment": alignment.build(model)}
    return TrainingLoss(Identity(), conditioning, **parts, teacher=teacher, needs=alignment.needs)


def batch():
    """Motions of different lengths, padded at the end."""
    media = torch.randn(ROWS, CHANNELS, FRAMES, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(FRAMES) < LENGTHS[:, None]
    return Batch(torch.where(mask[:, None], media, 0), torch.tensor([0, 1, 2, 0]), torch.arange(ROWS), mask)


@pytest.mark.parametrize("alignment", METHODS, ids=lambda each: type(each).__name__ + str(each.layers))
def test_padded_frames_change_nothing_where_they_are_hidden(alignment):
    given = batch()
    other = dataclasses.replace(given, media=given.media + 3 * ~given.mask[:, None])
    found = [training_loss(alignment)(each, StepRandom(0, 5), 5) for each in (given, other)]
    close(found[0].total, found[1].total, 1e-6)
    close(found[0].flow, found[1].flow, 1e-6)
    for pair, similarity in found[0].similarity.items():
        close(similarity, found[1].similarity[pair], 1e-6)
    shown = [training_loss(alignment, mask_frames=False)(each, StepRandom(0, 5), 5) for each in (given, other)]
    assert (shown[0].flow - shown[1].flow).abs().max() > 1e-3  # the published default sees them


def test_layersync_aligns_frames_and_not_the_token_in_front():
    loss, given, blocks = training_loss(METHODS[0]), batch(), {}
    model = loss.backbone
    for number in (0, 2):
        model.blocks[number].register_forward_hook(lambda module, inputs, output, n=number: blocks.update({n: output}))
    found = loss(given, StepRandom(0, 5), 5)
    assert blocks[0].shape == (ROWS, 1 + FRAMES, WIDTH)
    cosine = token_cosine(blocks[0][:, 1:], blocks[2][:, 1:])
    wanted = (torch.where(given.mask, cosine, 0).sum(1) / LENGTHS).mean()
    close(found.similarity["1->3"], wanted.detach())
    close(found.total - found.flow.mean(), -0.2 * wanted)
    assert (token_cosine(blocks[0], blocks[2]).mean() - cosine.mean()).abs() > 1e-3


def test_probes_hear_frames_alone():
    model = training_loss(METHODS[0]).backbone
    hooks = listen(model, [1, 2, 3])
    model(torch.randn(2, CHANNELS, FRAMES), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    assert {tuple(each.shape) for each in hooks.take().values()} == {(2, FRAMES, WIDTH)}


def test_a_step_is_the_same_in_parts_and_when_it_is_made_again():
    """Dropout is a function of the step and the row: resume and micro-batches see the same zeros."""
    given = batch()
    whole = training_loss(METHODS[0])(given, StepRandom(0, 5), 5)
    again = training_loss(METHODS[0])(given, StepRandom(0, 5), 5)
    assert torch.equal(whole.total, again.total)
    loss = training_loss(METHODS[0])
    parts = [loss(given[first : first + 2], StepRandom(0, 5, global_rows=4, first_row=first), 5) for first in (0, 2)]
    close(torch.cat([each.flow for each in parts]), whole.flow)
    assert not torch.equal(training_loss(METHODS[0])(given, StepRandom(0, 6), 6).flow, whole.flow)

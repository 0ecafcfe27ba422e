"""Padding never counts: not in the loss, not in the alignment, not in a gradient, whatever stands in it."""

import pytest
import torch

from audio.backbone import SiTConfig
from core.alignment.layersync import LayerSyncAlignment
from core.conditioning.none import Unconditional
from core.contracts import Batch
from core.data.stream import collate
from core.draws import StepRandom
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.step import TrainingLoss
from layersync import LayerSync

CHANNELS, FRAMES, PATCH = 5, 12, 2
LENGTHS = (2, 6, 4)  # real tokens of each clip


class AsTheyAre:
    """Media are latents."""

    def encode(self, media, random):
        return media


def one_step(latents, mask, time_per="sample"):
    """Losses and the gradients of all parameters of one training step on latents (B, Z, T)."""
    torch.manual_seed(0)
    model = SiTConfig(patch_size=PATCH, depth=3, hidden_size=16, num_heads=2).build((CHANNELS, FRAMES), Unconditional())
    for parameter in model.parameters():  # gates and output are not zero, as after some training
        parameter.data += 0.1 * torch.randn_like(parameter)
    sync = LayerSyncAlignment(LayerSync(model, [(1, 3), (2, 3)], weight=0.5))
    flow = FlowMatching(ObjectiveConfig(time_per=time_per), model.expand)
    step = TrainingLoss(AsTheyAre(), Unconditional(), model, model, flow, sync)
    batch = Batch(latents, torch.zeros(len(latents), dtype=torch.int64), torch.arange(len(latents)), mask)
    losses = step(batch, StepRandom(0, 0), 0)
    losses.total.backward()
    return losses, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.fixture
def clips():
    latents = torch.randn(3, CHANNELS, FRAMES, generator=torch.Generator().manual_seed(1))
    return latents, torch.arange(FRAMES // PATCH) < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fill", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("time_per", ["sample", "token"])
def test_what_stands_in_padded_frames_changes_nothing(clips, seed, fill, time_per):
    latents, mask = clips
    other, random = latents.clone(), torch.Generator().manual_seed(seed)
    padded = ~mask.repeat_interleave(PATCH, 1)[:, None].expand_as(other)
    other[padded] = fill * torch.randn(other.shape, generator=random)[padded]
    (losses, gradients), (changed, others) = one_step(latents, mask, time_per), one_step(other, mask, time_per)
    torch.testing.assert_close(losses.flow, changed.flow, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses.total, changed.total, rtol=1e-6, atol=1e-6)
    for pair, value in losses.similarity.items():
        torch.testing.assert_close(value, changed.similarity[pair], rtol=1e-6, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-4, atol=1e-6, msg=name)


def test_without_the_mask_they_would_count(clips):
    latents, mask = clips
    other = torch.where(mask.repeat_interleave(PATCH, 1)[:, None], latents, torch.full_like(latents, 3.0))
    (masked, _), (unmasked, _) = one_step(other, mask), one_step(other, None)
    assert not torch.isclose(masked.flow, unmasked.flow)[[0, 2]].any()
    assert any(not torch.isclose(masked.similarity[pair], unmasked.similarity[pair]) for pair in masked.similarity)


def test_padded_tokens_get_no_gradient(clips):
    """Neither from the flow loss nor from the alignment."""
    latents, mask = clips
    latents = latents.clone().requires_grad_(True)
    one_step(latents, mask)
    padded = ~mask.repeat_interleave(PATCH, 1)[:, None].expand_as(latents)
    assert latents.grad[padded].abs().max() == 0
    assert latents.grad[~padded].abs().min(0).values > 0


def test_a_clip_that_is_padding_as_a_whole_is_refused(clips):
    latents, mask = clips
    mask = mask.clone()
    mask[1] = False
    with pytest.raises(ValueError, match="sample 1 of the data set is masked as a whole"):
        collate(Batch(latents, torch.zeros(3, dtype=torch.int64), torch.arange(3), mask))

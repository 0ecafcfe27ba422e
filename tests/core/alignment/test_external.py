"""REPA and iREPA against recorded losses and gradients, and where the encoder's tokens come from."""

import pytest
import torch
from torch import nn

from core.alignment.external import (
    ConvolutionHead,
    ExternalConfig,
    MLPHead,
    normalise_tokens,
    tokens_on_grid,
)
from core.alignment.several import SeveralConfig
from core.contracts import Batch
from core.draws import StepRandom
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.flow.path import broadcast_time
from core.latents.pixels import Pixels
from core.step import TrainingLoss
from core.storage.weights import load_into
from layersync.tokens import token_cosine
from tests.core.alignment.parts import Recorded, Same, loss_parts, rows, tiny
from tests.golden_files import load_golden, with_prefix

CLOSE = {"atol": 1e-6, "rtol": 1e-5}
MEDIA = torch.randn(2, 2, 6, 4, generator=torch.Generator().manual_seed(3))


class Given:
    """An encoder whose features are given; it keeps the rows that it saw."""

    flops = 1000

    def __init__(self, features):
        self.features, self.width = features, features.shape[1]

    def __call__(self, batch):
        self.seen = batch
        return self.features[: len(batch)]


def loss_of(config, features, mask=None):
    """The losses of a step of a tiny SiT with tokens on 3 x 2 patches, the method, and the encoder."""
    model, encoder = tiny(), Given(features)
    torch.manual_seed(0)
    method = config.build(model, lambda name: encoder)
    loss = TrainingLoss(*loss_parts(model), method)
    media = Batch(MEDIA, torch.tensor([0, 2]), torch.arange(2), mask)
    return loss(media, StepRandom(0, 0, torch.device("cpu")), 0), method, encoder


def test_repas_head_loss_and_gradient_are_the_recorded_ones():
    tensors = with_prefix(load_golden("regularisers")[0], "repa.")
    width, features, hidden = tensors["tokens"].shape[-1], tensors["target0"].shape[-1], 32
    head = MLPHead(width, features, hidden)
    load_into(head, with_prefix(tensors, "projector0."), "recording")
    tokens = tensors["tokens"].clone().requires_grad_()
    projected = head(tokens, ())
    torch.testing.assert_close(projected, tensors["projected0"], **CLOSE)
    loss = -token_cosine(projected, tensors["target0"]).mean()
    torch.testing.assert_close(loss, tensors["proj_loss.one_encoder"].squeeze(), **CLOSE)
    (found,) = torch.autograd.grad(loss, tokens)
    torch.testing.assert_close(found, tensors["grad_tokens.one_encoder"], **CLOSE)


def test_irepas_head_targets_loss_and_gradients_are_the_recorded_ones():
    tensors, facts = load_golden("alignment2")
    tensors, facts = with_prefix(tensors, "irepa."), facts["irepa"]
    width, features = tensors["tokens"].shape[-1], tensors["target"].shape[-1]
    head = ConvolutionHead(width, features, 2)
    state = with_prefix(tensors, "projector.projection_layer.")
    load_into(head, {f"projection.{name}": value for name, value in state.items()}, "recording")
    torch.testing.assert_close(head(tensors["tokens"], tuple(facts["grid"])), tensors["projected"], **CLOSE)
    rect = head(tensors["rect.tokens"], tuple(facts["rect_grid"]))
    torch.testing.assert_close(rect, tensors["rect.projected"], **CLOSE)
    for alpha in (1.0, 0.8, 0.6, None):
        tokens, target = tensors["tokens"].clone().requires_grad_(), tensors["target"]
        if alpha is not None:
            target = normalise_tokens(target, alpha)
        loss = -token_cosine(head(tokens, tuple(facts["grid"])), target).mean()
        name = "no_norm" if alpha is None else f"alpha{alpha}"
        torch.testing.assert_close(loss, tensors[f"loss.{name}"].squeeze(), **CLOSE)
        for key, of in (("grad_tokens", tokens), ("grad_conv", head.projection.weight)):
            if f"{key}.{name}" in tensors:
                (found,) = torch.autograd.grad(loss, of, retain_graph=True)
                torch.testing.assert_close(found, tensors[f"{key}.{name}"], atol=1e-5, rtol=1e-4)
        if f"target_norm.{name}" in tensors:
            torch.testing.assert_close(target, tensors[f"target_norm.{name}"], **CLOSE)


class Answers(nn.Module):
    """A backbone whose one block gives recorded tokens, and which gives a recorded prediction; it keeps its input."""

    num_tokens, width, grid, expand = 16, 32, (4, 4), staticmethod(broadcast_time)

    def __init__(self, tokens, prediction):
        super().__init__()
        self.tokens, self.prediction, self.blocks = nn.Parameter(tokens), prediction, nn.ModuleList([nn.Identity()])

    def forward(self, x, t, condition, mask=None):
        self.seen = x
        self.blocks[0](self.tokens)
        return self.prediction


def test_a_whole_step_of_irepa_is_the_recorded_one():
    """The recording's time runs from data to noise, so that its velocities are ours with the other sign."""
    tensors, facts = load_golden("alignment2")
    data, tensors = tensors["ig.data"], with_prefix(tensors, "irepa.")
    step, grid = with_prefix(tensors, "step."), tuple(facts["irepa"]["grid"])
    model, encoder = Answers(tensors["tokens"], -step["model_output"]), Given(tensors["target"].mT.unflatten(-1, grid))
    config = ExternalConfig(1, "dinov2:x", "conv", normalise=0.6, weight=facts["irepa"]["coeff"])
    method = config.build(model, lambda name: encoder)
    state = with_prefix(tensors, "projector.projection_layer.")
    load_into(method.heads["features"].projection, state, "recording")
    random = Recorded(noise=[step["noise"]], time=[1 - step["t"]])
    parts = Pixels(), Same(), model, model, FlowMatching(ObjectiveConfig(), model.expand)
    found = TrainingLoss(*parts, method)(rows(data), random, 0)
    torch.testing.assert_close(model.seen, step["input"], **CLOSE)
    torch.testing.assert_close(found.flow, step["denoising_loss"], **CLOSE)
    torch.testing.assert_close(found.total - found.flow.mean(), step["proj_loss_weighted"].squeeze(), **CLOSE)
    found.total.backward()
    torch.testing.assert_close(model.tokens.grad, tensors["grad_tokens.alpha0.6"], atol=1e-5, rtol=1e-4)
    gradient = method.heads["features"].projection.weight.grad
    torch.testing.assert_close(gradient, tensors["grad_conv.alpha0.6"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head", ["mlp", "conv"])
def test_a_step_sees_clean_media_and_padding_counts_nothing(head):
    features = torch.randn(2, 5, 3, 2, generator=torch.Generator().manual_seed(4))
    mask = torch.arange(6) < torch.tensor([6, 3])[:, None]
    config = ExternalConfig(2, "dinov2:x", head, normalise=0.6, width=8 if head == "mlp" else 2048)
    found, method, encoder = loss_of(config, features, mask)
    assert torch.equal(encoder.seen.media, MEDIA)
    torch.testing.assert_close(found.total, found.flow.mean() - 0.5 * found.similarity["2->dinov2"])
    other = torch.where(mask.reshape(2, 1, 3, 2), features, 7.0)
    assert torch.equal(loss_of(config, other, mask)[0].total, found.total)
    assert not torch.equal(loss_of(config, other)[0].total, loss_of(config, features)[0].total)
    found.total.backward()
    assert all(parameter.grad is not None for parameter in method.heads.parameters())
    assert method.extra_flops(0, 6) > encoder.flops


def test_a_token_has_the_mean_of_the_places_that_it_covers():
    features = torch.arange(24.0).reshape(1, 1, 6, 4)
    whole = tokens_on_grid(features, (6, 4))
    assert torch.equal(whole[0, :, 0], torch.arange(24.0))
    assert tokens_on_grid(features, (3, 2))[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5, 18.5, 20.5]
    with pytest.raises(ValueError, match="features on 2 axes"):
        tokens_on_grid(features, (24,))


def test_what_cannot_be_is_refused_when_the_config_is_read():
    with pytest.raises(ValueError, match=r"alignment.encoder is 'dinov2'; needed"):
        ExternalConfig(2, "dinov2")
    with pytest.raises(ValueError, match=r"alignment.head is 'both'"):
        ExternalConfig(2, "dinov2:x", head="both")
    with pytest.raises(ValueError, match=r"alignment.width is 0"):
        ExternalConfig(2, "dinov2:x", width=0)
    with pytest.raises(ValueError, match=r"alignment.width is 8, but alignment.head is 'conv'; allowed with it: 2048"):
        ExternalConfig(2, "dinov2:x", "conv", width=8)
    several = SeveralConfig({"near": ExternalConfig(1, "dinov2:x"), "far": ExternalConfig(2, "dinov2:y")})
    assert several.needs.features == ("dinov2:x", "dinov2:y")
    found = several.build(tiny(), lambda name: Given(torch.zeros(2, 5 if name == "dinov2:x" else 7, 3, 2)))
    assert [method.encoder.width for method in found.methods.values()] == [5, 7]

"""REPA and iREPA against recorded losses and gradients, and where the encoder's tokens come from."""

import pytest
import torch

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
from core.step import TrainingLoss
from core.storage.weights import load_into
from layersync.tokens import token_cosine
from tests.core.alignment.parts import loss_parts, tiny
from tests.golden_files import load_golden, with_prefix

CLOSE = {"atol": 1e-6, "rtol": 1e-5}
MEDIA = torch.randn(2, 2, 6, 4, generator=torch.Generator().manual_seed(3))


class Given:
    """An encoder whose features are given; it keeps the media that it saw."""

    flops = 1000

    def __init__(self, features):
        self.features, self.width = features, features.shape[1]

    def __call__(self, media):
        self.media = media
        return self.features[: len(media)]


def loss_of(config, features, mask=None):
    """The losses of a step of a tiny SiT with tokens on 3 x 2 patches, the method, and the encoder."""
    model, encoder = tiny(), Given(features)
    torch.manual_seed(0)
    method = config.build(model, lambda name: encoder)
    loss = TrainingLoss(*loss_parts(model), method)
    rows = Batch(MEDIA, torch.tensor([0, 2]), torch.arange(2), mask)
    return loss(rows, StepRandom(0, 0, torch.device("cpu")), 0), method, encoder


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


@pytest.mark.parametrize("head", ["mlp", "conv"])
def test_a_step_sees_clean_media_and_padding_counts_nothing(head):
    features = torch.randn(2, 5, 3, 2, generator=torch.Generator().manual_seed(4))
    mask = torch.arange(6) < torch.tensor([6, 3])[:, None]
    config = ExternalConfig(2, "dinov2:x", head, normalise=0.6, width=8)
    found, method, encoder = loss_of(config, features, mask)
    assert torch.equal(encoder.media, MEDIA)
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
    with pytest.raises(ValueError, match=r"alignment.encoder is 'dinov2:'; needed"):
        ExternalConfig(2, "dinov2:")
    with pytest.raises(ValueError, match=r"alignment.head is 'both'"):
        ExternalConfig(2, "dinov2:x", head="both")
    with pytest.raises(ValueError, match=r"alignment.width is 0"):
        ExternalConfig(2, "dinov2:x", width=0)
    several = SeveralConfig({"near": ExternalConfig(1, "dinov2:x"), "far": ExternalConfig(2, "dinov2:y")})
    assert several.needs.features == ("dinov2:x", "dinov2:y")
    found = several.build(tiny(), lambda name: Given(torch.zeros(2, 5 if name == "dinov2:x" else 7, 3, 2)))
    assert [method.encoder.width for method in found.methods.values()] == [5, 7]

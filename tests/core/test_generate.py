"""Sampling in batches: sample i depends on (seed, i), its condition and the weights, and on nothing else."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from core.contracts import Requests
from core.flow.path import Interpolant, Linear
from core.flow.sampler import Sampler, SamplerConfig
from core.generate import Generator
from core.nets.layers import LabelEmbedder
from core.nets.sit import SiT, SiTConfig
from core.processes.failures import SamplesError

SHAPE, CLASSES = (3, 4), 5


class Network(nn.Module):
    """A velocity that depends on x, t and the label; it remembers how it was called."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.labels = nn.Embedding(CLASSES + 1, 4)
        self.calls = []

    def forward(self, x, t, condition, mask=None):
        self.calls.append((len(x), self.training, torch.is_grad_enabled()))
        return self.linear(x) * t[:, None, None] + self.labels(condition)[:, None]


class Tokenizer:
    """Decodes by doubling."""

    def decode(self, latents):
        return 2 * latents


class Conditioning:
    """The last label is null."""

    def null(self, condition):
        return torch.full_like(condition, CLASSES)


def generator(network=None, **sampler):
    config = SamplerConfig(**{"num_steps": 3, "solver": "heun", **sampler})
    return Generator(
        network=network or Network(),
        sampler=Sampler(config, Interpolant(Linear()), "velocity"),
        tokenizer=Tokenizer(),
        conditioning=Conditioning(),
        latent_shape=SHAPE,
    )


LABELS = torch.arange(7) % CLASSES
SAMPLERS = [{}, {"solver": "euler_maruyama"}, {"solver": "dopri5"}, {"guidance_scale": 2.0}]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_batch_size_does_not_change_a_sample(sampler, batch_size):
    make = generator(**sampler)
    torch.testing.assert_close(make(LABELS, 0, batch_size), make(LABELS, 0, 7), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_number_of_samples_does_not_change_a_sample(sampler):
    make = generator(**sampler)
    torch.testing.assert_close(make(LABELS[:2], 0, 4), make(LABELS, 0, 4)[:2], atol=1e-5, rtol=1e-5)


def test_samples_differ_by_index_seed_and_label():
    make = generator()
    same_label = make(torch.zeros(2, dtype=torch.long), 0, 4)
    assert (same_label[0] - same_label[1]).abs().max() > 0.1
    assert (make(LABELS, 0, 4) - make(LABELS, 1, 4)).abs().max() > 0.1
    assert (make(LABELS, 0, 4) - make((LABELS + 1) % CLASSES, 0, 4)).abs().max() > 0.01


def test_guidance_uses_the_null_condition():
    network = Network()
    guided = generator(network, guidance_scale=3.0)(LABELS, 0, 7)
    plain = generator(network)(LABELS, 0, 7)
    null = generator(network)(torch.full_like(LABELS, CLASSES), 0, 7)
    assert (guided - plain).abs().max() > 0.01
    assert (guided - null).abs().max() > 0.01


def test_latents_are_decoded():
    make = generator()
    latents = Generator(**{**vars(make), "tokenizer": type("Same", (), {"decode": lambda self, z: z})()})
    assert torch.equal(make(LABELS, 0, 4), 2 * latents(LABELS, 0, 4))


@pytest.mark.parametrize("training", [True, False])
def test_the_network_samples_in_evaluation_mode_without_gradients_and_goes_back(training):
    network = Network().train(training)
    media = generator(network)(LABELS, 0, 4)
    assert network.training is training
    assert {(mode, grad) for _, mode, grad in network.calls} == {(False, False)}
    assert not media.requires_grad


def test_the_mode_comes_back_after_an_error():
    network = Network().train()
    network.linear.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        generator(network)(LABELS, 0, 4)
    assert network.training


class Broken(Network):
    """Gives what is not finite for the samples of one label."""

    def __init__(self, label, value):
        super().__init__()
        self.label, self.value = label, value

    def forward(self, x, t, condition, mask=None):
        prediction = super().forward(x, t, condition)
        return torch.where((condition == self.label)[:, None, None], self.value, prediction)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("solver", ["euler", "euler_maruyama", "dopri5"])
def test_samples_that_are_not_finite_are_named_and_never_given(value, solver):
    make = replace(generator(Broken(3, value), solver=solver, guidance_scale=1.5), precision="bf16")
    told = []
    with pytest.raises(SamplesError) as caught:
        make(LABELS, 0, 2, told.append)
    assert told == [2]  # those before it
    named = "samples 2 to 3" if solver == "dopri5" else "sample 3 has latents that are NaN or infinite"
    assert str(caught.value).startswith(named), caught.value
    assert all(text in str(caught.value) for text in ("precision=bf16", "sampler.guidance_scale=1.5", solver))


def test_what_is_decoded_is_looked_at_too():
    class Overflowing(Tokenizer):
        def decode(self, latents):
            media = super().decode(latents)
            media[1:] /= 0
            return media

    with pytest.raises(
        SamplesError, match=r"^sample 1 \(and 5 more of its batch of 7\) is decoded to numbers that are NaN"
    ):
        replace(generator(), tokenizer=Overflowing())(LABELS, 0, 7)


def test_finished_batches_are_told():
    told = []
    assert generator()(LABELS, 0, 3, told.append).shape == (7, *SHAPE)
    assert told == [3, 3, 1]


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="the sampling batch size is 0"):
        generator()(LABELS, 0, 0)


LENGTHS = torch.tensor([3, 8, 5, 1])
ASKED = Requests(LABELS[:4], torch.arange(8) < LENGTHS[:, None])


def over_time(**sampler):
    """A SiT on eight frames, none of its weights zero."""
    torch.manual_seed(0)
    recipe = SiTConfig(patch_size=1, depth=2, hidden_size=16, num_heads=2).recipe
    network = SiT((2, 8), recipe, lambda width: LabelEmbedder(CLASSES, width, null_row=True))
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.2)
    return replace(generator(network, **sampler), latent_shape=(2, 8))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_of_a_given_length_is_the_same_whatever_is_beside_it(sampler):
    """To rounding; where that sets the size of steps, as in dopri5, to a solver's own tolerance."""
    make = over_time(**sampler)
    near = SamplerConfig().rtol if sampler.get("solver") == "dopri5" else 1e-4
    together, full = make(ASKED, 0, 4), make(ASKED.condition, 0, 4)
    for i, length in enumerate(LENGTHS.tolist()):
        alone = make.one_batch(ASKED[i : i + 1], 0, first=i)[0]
        torch.testing.assert_close(alone, together[i], atol=near, rtol=near)
        assert (together[i, :, length:] == 0).all() and (together[i, :, :length] != 0).all()
        change = (together[i, :, :length] - full[i, :, :length]).abs().max()
        assert change < near if length == 8 else change > 1e-2


def test_what_a_network_gives_for_padding_reaches_no_sample():
    """Not even what is not finite, which no attention weight of zero takes away."""
    make = over_time(guidance_scale=2.0)
    plain, forward = make(ASKED, 0, 4), make.network.forward
    make.network.forward = lambda x, t, c, mask: torch.where(mask[:, None], forward(x, t, c, mask), torch.nan)
    assert torch.equal(make(ASKED, 0, 4), plain)

import pytest
import torch
from torch import nn

from audio.codecs.oobleck import OobleckNetwork, check_format, frames_of
from tests.audio.codecs.tiny_oobleck import tiny_oobleck


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_oobleck()


@pytest.fixture(scope="module")
def network(model) -> OobleckNetwork:
    return OobleckNetwork(model)


@pytest.fixture
def media() -> torch.Tensor:
    return torch.rand(3, 2, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_facts_come_from_the_models_config(network):
    assert (network.hop, network.sample_rate, network.in_channels, network.latent_channels) == (8, 16000, 2, 4)
    assert network.latent_shape((2, 96)) == (4, 12)


def test_stable_audio_open_has_a_hop_of_2048():
    """By the class's own defaults, which are the published layout; on no device, as it has 156 M weights."""
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        network = OobleckNetwork(diffusers.AutoencoderOobleck())
    assert (network.hop, network.sample_rate, network.in_channels, network.latent_channels) == (2048, 44100, 2, 64)
    assert network.latent_shape((2, 215 * 2048)) == (64, 215)


@torch.no_grad()
def test_moments_are_the_posteriors(network, model, media):
    mean, std = network.moments(media)
    first, second = model.encoder(media).chunk(2, dim=1)
    torch.testing.assert_close(mean, first)
    torch.testing.assert_close(std, second.exp().add(1).log() + 1e-4)
    assert mean.shape == std.shape == (3, *network.latent_shape((2, 96)))


@torch.no_grad()
def test_decoded_clips_are_as_long_as_encoded_ones(network, model, media):
    latents = network.moments(media)[0]
    assert network.decode(latents).shape == media.shape
    torch.testing.assert_close(network.decode(latents), model.decode(latents).sample)


def test_what_does_not_fit_is_refused(network):
    with pytest.raises(ValueError, match=r"1 channels \(data.channels\); the tokenizer takes 2"):
        network.latent_shape((1, 96))
    for samples in (0, 7, 97):
        with pytest.raises(ValueError, match=f"{samples} samples; the tokenizer takes whole frames of 8"):
            network.latent_shape((2, samples))


def test_format_is_checked(network):
    check_format(network, 16000, 2)
    with pytest.raises(ValueError, match=r"data.sample_rate is 44100; the tokenizer takes 16000 Hz"):
        check_format(network, 44100, 2)
    with pytest.raises(ValueError, match=r"data.channels is 1; the tokenizer takes 2"):
        check_format(network, 16000, 1)


def test_a_network_without_a_rate_takes_any():
    network = nn.Module()
    network.sample_rate, network.in_channels = None, 1
    check_format(network, 12345, 1)


def test_models_that_change_the_length_are_refused():
    with pytest.raises(ValueError, match=r"tokenizer.path.*downsampling_ratios \[3, 2\]; allowed: even"):
        OobleckNetwork(tiny_oobleck(ratios=(3, 2)))


def test_models_whose_decoder_takes_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"tokenizer.path.*decoder_input_channels 8"):
        OobleckNetwork(tiny_oobleck(decoder_input_channels=8))


def test_frames_of():
    assert frames_of((1, 512), 1, 64, 256) == (64, 2)

import copy

import pytest
import torch
from torch import nn

from audio.codecs.autoencoder import AudioAutoencoder, AudioAutoencoderConfig
from audio.codecs.chunked import ChunkedNetwork
from audio.codecs.oobleck import OobleckNetwork
from audio.codecs.spectral import SpectralCodec, SpectralConfig
from core.draws import seeded_weights
from tests.audio.codecs.tiny_oobleck import tiny_oobleck

FRAMES = 120
NETWORKS = ("oobleck", "deeper oobleck", "ours")


def build(kind: str) -> nn.Module:
    if kind == "ours":
        with seeded_weights("test", 0):
            config = AudioAutoencoderConfig(latent_channels=4, ratios=(2, 4), width=4, units=2)
            return AudioAutoencoder(config, in_channels=2, sample_rate=16000)
    return OobleckNetwork(tiny_oobleck(ratios=(2, 4) if kind == "oobleck" else (2, 2, 4)))


@pytest.fixture(scope="module", params=NETWORKS)
def network(request) -> nn.Module:
    return build(request.param).requires_grad_(False)


def clips(network: nn.Module, frames: int = FRAMES, seed: int = 0) -> torch.Tensor:
    return 0.5 * torch.randn(2, 2, frames * network.hop, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk_frames", [1, 7, 40, 119, 120, 500])
def test_chunks_give_what_the_whole_clip_gives(network, chunk_frames: int):
    media, chunked = clips(network), ChunkedNetwork(network, chunk_frames)
    whole = network.moments(media)
    for part, expected in zip(chunked.moments(media), whole, strict=True):
        assert part.shape == expected.shape
        torch.testing.assert_close(part, expected, atol=1e-4, rtol=1e-4)
    decoded = chunked.decode(whole[0])
    assert decoded.shape == media.shape
    torch.testing.assert_close(decoded, network.decode(whole[0]), atol=1e-4, rtol=1e-4)


def test_without_context_the_seams_are_heard(network):
    """The comparison above can fail: the context is what makes chunks exact."""
    media = clips(network)
    whole = network.moments(media)[0]
    bare = ChunkedNetwork(network, 40, context_frames=0)
    assert (bare.moments(media)[0] - whole).abs().max() > 1e-2
    assert (bare.decode(whole) - network.decode(whole)).abs().max() > 1e-2


def test_the_context_covers_the_receptive_field_and_little_more(network):
    """Which inputs have a gradient, in float64: what a frame depends on, measured and not computed."""
    middle = FRAMES // 2
    exact = copy.deepcopy(network).double()
    media = clips(network).double().requires_grad_()
    exact.moments(media)[0][..., middle].sum().backward()
    encoder = reached_frames(media.grad.unflatten(-1, (FRAMES, -1)).flatten(2, 2).abs().amax((0, 1, 3)), middle)
    latents = torch.randn(1, network.latent_channels, FRAMES, generator=torch.Generator().manual_seed(0)).double()
    latents.requires_grad_()
    exact.decode(latents)[..., middle * network.hop : (middle + 1) * network.hop].sum().backward()
    decoder = reached_frames(latents.grad.abs().amax((0, 1)), middle)
    assert max(encoder, decoder) <= network.context_frames <= max(encoder, decoder) + 2


def reached_frames(gradient: torch.Tensor, middle: int) -> int:
    """Furthest frame from the middle with a gradient (T,)."""
    return (gradient.nonzero() - middle).abs().max().item()


def test_the_protocol_is_the_networks(network):
    chunked = ChunkedNetwork(network, 10)
    for name in ("hop", "sample_rate", "in_channels", "latent_channels", "context_frames"):
        assert getattr(chunked, name) == getattr(network, name)
    assert chunked.latent_shape((2, 5 * network.hop)) == network.latent_shape((2, 5 * network.hop))
    with pytest.raises(ValueError, match="whole frames"):
        chunked.moments(torch.zeros(1, 2, 5 * network.hop + 1))


def test_no_more_than_a_chunk_and_its_context_is_coded_at_once(network):
    longest = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.hop, self.sample_rate, self.in_channels = network.hop, None, 2
            self.latent_channels, self.latent_shape = network.latent_channels, network.latent_shape

        def moments(self, media):
            longest.append(media.shape[-1] // self.hop)
            return network.moments(media)

    ChunkedNetwork(Watched(), chunk_frames=10, context_frames=3).moments(clips(network))
    assert max(longest) == 16 and len(longest) == 12


def test_bad_chunks_are_refused(network):
    for chunk_frames, context_frames in ((0, 1), (1, -1)):
        with pytest.raises(ValueError, match=f"chunks of {chunk_frames} frames with a context of {context_frames}"):
            ChunkedNetwork(network, chunk_frames, context_frames)


def test_a_codec_that_looks_at_the_whole_clip_is_refused():
    with pytest.raises(ValueError, match="SpectralCodec has no context_frames"):
        ChunkedNetwork(SpectralCodec(SpectralConfig(), 16000, 2), 10)

"""Stable Audio Open's autoencoder, through diffusers' AutoencoderOobleck (the extra `vae`).

Strided convolutions around a normal posterior (Evans et al. 2024, arXiv 2407.14358); the published one makes 64 numbers
of 2048 stereo samples at 44.1 kHz.

Letters: B batch, C channels, L samples, Z latent channels, T latent frames.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from audio.codecs.chunked import context_frames


class OobleckNetwork(nn.Module):
    """A loaded AutoencoderOobleck as a `core.latents.tokenizer.KLNetwork`.

    hop              samples of a latent frame: the product of the model's downsampling ratios
    sample_rate      Hz, of the sound that it was trained on
    in_channels      C
    latent_channels  Z
    context_frames   latent frames on each side that a frame may depend on

    ValueError, naming tokenizer.path, for a model whose decoder gives other lengths than its encoder took.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        config = model.config
        odd = [ratio for ratio in config.downsampling_ratios if ratio % 2]
        if odd:  # a transposed convolution of stride s and padding ceil(s / 2) loses a sample when s is odd
            raise ValueError(
                f"tokenizer.path: the model has downsampling_ratios {list(config.downsampling_ratios)}; allowed: even "
                "ones, as decoded clips would be too short otherwise"
            )
        if config.decoder_input_channels * 2 != config.encoder_hidden_size:
            raise ValueError(
                f"tokenizer.path: the model has encoder_hidden_size {config.encoder_hidden_size} and "
                f"decoder_input_channels {config.decoder_input_channels}; needed: half of it, for mean and deviation"
            )
        self.model = model
        self.hop = math.prod(config.downsampling_ratios)
        self.sample_rate = config.sampling_rate
        self.in_channels, self.latent_channels = config.audio_channels, config.decoder_input_channels
        self.context_frames = context_frames(model.encoder, model.decoder, self.hop)

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, int]:
        """(C, L) -> (Z, L / hop); ValueError for other channels, or a length that is not whole frames."""
        return frames_of(media_shape, self.in_channels, self.latent_channels, self.hop)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, L) in [-1, 1] -> mean and standard deviation of the posterior, each (B, Z, T)."""
        posterior = self.model.encode(media).latent_dist
        return posterior.mean, posterior.std

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, T) -> (B, C, L), about [-1, 1] and not clamped."""
        return self.model.decode(latents).sample


def frames_of(media_shape: tuple[int, ...], in_channels: int, latent_channels: int, hop: int) -> tuple[int, int]:
    """(C, L) -> (Z, L / hop); ValueError for other channels than `in_channels`, or a length not in whole frames."""
    channels, samples = media_shape
    if channels != in_channels:
        raise ValueError(f"clips of {channels} channels (data.channels); the tokenizer takes {in_channels}")
    if samples < hop or samples % hop:
        raise ValueError(f"clips of {samples} samples; the tokenizer takes whole frames of {hop} samples")
    return latent_channels, samples // hop


def check_format(network: nn.Module, sample_rate: int, channels: int) -> None:
    """ValueError, naming the config key, for clips of a rate (Hz) or of channels that a network was not made for.

    `network.sample_rate` None takes any rate.
    """
    if network.sample_rate is not None and sample_rate != network.sample_rate:
        raise ValueError(f"data.sample_rate is {sample_rate}; the tokenizer takes {network.sample_rate} Hz")
    if channels != network.in_channels:
        raise ValueError(f"data.channels is {channels}; the tokenizer takes {network.in_channels}")

"""A small convolutional KL autoencoder of sound: clips to latent frames and back, and the files that hold one.

Built like Stable Audio's Oobleck (Evans et al. 2024, arXiv 2404.10301): strided convolutions with weight normalisation,
dilated residual units between them, Snake activations (Ziyin et al. 2020, eq. 3), a normal posterior over the latents.
Smaller, without residual units at full rate, where they cost most, and without discriminators. Trained by
`python -m audio.train_tokenizer`, used as the tokenizer `conv_oobleck`.

Letters: B batch, C channels, Z latent channels, L samples, T latent frames.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.parametrizations import weight_norm

from audio.codecs.chunked import context_frames
from audio.codecs.oobleck import frames_of
from audio.codecs.stft_loss import RESOLUTIONS, mid_side, multi_resolution_stft_loss
from core.draws import Random
from core.latents.own_files import TokenizerFiles, channels_fault
from core.latents.tokenizer import kl_divergence

KIND = "conv_oobleck"
MAKE_COMMAND = "python -m audio.train_tokenizer"
MAX_WIDTH_FACTOR = 8
DILATIONS = (1, 3, 9)
MIN_STD = 1e-4


@dataclass(frozen=True)
class AudioAutoencoderConfig:
    """Size of an `AudioAutoencoder`, and the weights of its loss.

    latent_channels  Z
    ratios           by how much each convolution of the encoder shortens; their product is the hop
    width            channels at full rate; doubled with each ratio, up to eight times
    units            residual units after each shortening and before each lengthening, 1 to 3: dilations 1, 3, 9
    waveform_weight  of the mean absolute error of samples, beside the distance of spectra
    kl_weight        of the KL divergence per latent number (nats)
    """

    latent_channels: int = 32
    ratios: tuple[int, ...] = (8, 8, 4)
    width: int = 16
    units: int = 1
    waveform_weight: float = 30.0
    kl_weight: float = 1e-3

    def __post_init__(self):
        for name in ("latent_channels", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"autoencoder.{name} is {getattr(self, name)!r}; allowed: 1 or more")
        if not 1 <= self.units <= len(DILATIONS):
            raise ValueError(f"autoencoder.units is {self.units!r}; allowed: 1 to {len(DILATIONS)}")
        if not self.ratios or any(ratio < 2 or ratio % 2 for ratio in self.ratios):
            raise ValueError(f"autoencoder.ratios is {list(self.ratios)}; allowed: one or more even numbers")
        for name in ("waveform_weight", "kl_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"autoencoder.{name} is {getattr(self, name)!r}; allowed: a finite number, 0 or more")

    @property
    def hop(self) -> int:
        """Samples of a latent frame."""
        return math.prod(self.ratios)


@dataclass(frozen=True)
class AudioLoss:
    """The training loss of a batch and its parts, all scalar tensors.

    total     spectral + waveform_weight * waveform + kl_weight * kl per latent number
    spectral  multi-resolution distance of spectra, of middle and side for stereo
    waveform  mean |error| over samples, for media in [-1, 1]
    kl        KL(posterior || standard normal) in nats, mean over clips
    """

    total: Tensor
    spectral: Tensor
    waveform: Tensor
    kl: Tensor


class AudioAutoencoder(nn.Module):
    """Oobleck's convolutions in a small size; see `AudioAutoencoderConfig`. `sample_rate` in Hz."""

    def __init__(self, config: AudioAutoencoderConfig, in_channels: int, sample_rate: int):
        super().__init__()
        self.config, self.in_channels, self.sample_rate = config, in_channels, sample_rate
        self.hop, self.latent_channels = config.hop, config.latent_channels
        self.encoder, self.decoder = _encoder(config, in_channels), _decoder(config, in_channels)
        self.context_frames = context_frames(self.encoder, self.decoder, self.hop)

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, int]:
        """(C, L) -> (Z, L / hop); ValueError for other channels, or a length not in whole frames."""
        return frames_of(media_shape, self.in_channels, self.latent_channels, self.hop)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior: (B, C, L) in [-1, 1] -> two (B, Z, T)."""
        mean, scale = self.encoder(media).chunk(2, dim=1)
        return mean, softplus(scale) + MIN_STD

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, T) -> (B, C, L), about [-1, 1] and not clamped."""
        return self.decoder(latents)

    def loss(self, media: Tensor, random: Random) -> AudioLoss:
        """The loss of (B, C, L) in [-1, 1]; the posterior is sampled with the stream "posterior" of `random`.

        ValueError for clips too short for every resolution of `audio.codecs.stft_loss`.
        """
        mean, std = self.moments(media)
        noise = random.normal("posterior", tuple(mean.shape)).to(mean)
        decoded = self.decode(mean + std * noise)
        spectral = multi_resolution_stft_loss(mid_side(decoded), mid_side(media), RESOLUTIONS)
        waveform = (decoded - media).abs().mean()
        kl = kl_divergence(mean, std).mean()
        config = self.config
        total = spectral + config.waveform_weight * waveform + config.kl_weight * kl / mean[0].numel()
        return AudioLoss(total, spectral, waveform, kl)


@dataclass(frozen=True)
class SavedAutoencoder:
    """What `config.json` says beside the weights; mean and standard deviation are of the training clips' latents.

    sample_rate              Hz
    latent_mean, latent_std  of each latent channel
    """

    kind: str
    sample_rate: int
    in_channels: int
    autoencoder: AudioAutoencoderConfig
    latent_mean: list[float]
    latent_std: list[float]

    def build(self) -> AudioAutoencoder:
        """The network, its weights to be loaded."""
        return AudioAutoencoder(self.autoencoder, self.in_channels, self.sample_rate)

    def fault(self) -> str | None:
        """What is wrong with the numbers; None: nothing."""
        if self.sample_rate < 1 or self.in_channels < 1:
            return "needed are sample_rate and in_channels of 1 or more"
        return channels_fault(self.autoencoder.latent_channels, self.latent_mean, self.latent_std)


FILES = TokenizerFiles(KIND, SavedAutoencoder, MAKE_COMMAND)


def save_autoencoder(
    directory: Path, network: AudioAutoencoder, latent_mean: list[float], latent_std: list[float]
) -> None:
    """Write `config.json` and `model.safetensors` into an existing directory."""
    own = (network.sample_rate, network.in_channels, network.config)
    FILES.write(directory, network, SavedAutoencoder(KIND, *own, list(latent_mean), list(latent_std)))


def load_autoencoder(directory: Path) -> tuple[AudioAutoencoder, SavedAutoencoder]:
    """The network that `save_autoencoder` wrote, on the CPU, and its description.

    Raises ValueError, naming the file, for one that is missing, damaged or of another kind of model.
    """
    return FILES.read(directory)


class Snake(nn.Module):
    """x + sin(a x)^2 / b with a and b of each channel, kept as logarithms: (B, width, L) -> the same shape."""

    def __init__(self, width: int):
        super().__init__()
        self.log_a, self.log_b = nn.Parameter(torch.zeros(width, 1)), nn.Parameter(torch.zeros(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Periodic on top of the identity: what a tone asks of a network."""
        return x + torch.exp(-self.log_b) * torch.sin(torch.exp(self.log_a) * x).square()


class ResidualUnit(nn.Module):
    """A dilated convolution over 7 samples and one over 1, beside the identity: (B, width, L) -> the same shape."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        wide = nn.Conv1d(width, width, kernel_size=7, dilation=dilation, padding=3 * dilation)
        self.layers = nn.Sequential(
            Snake(width), weight_norm(wide), Snake(width), weight_norm(nn.Conv1d(width, width, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """x + f(x)."""
        return x + self.layers(x)


def _widths(config: AudioAutoencoderConfig) -> list[int]:
    """Channels from full rate to the latents' rate."""
    return [config.width * min(2**level, MAX_WIDTH_FACTOR) for level in range(len(config.ratios) + 1)]


def _encoder(config: AudioAutoencoderConfig, in_channels: int) -> nn.Sequential:
    widths = _widths(config)
    layers = [_conv(in_channels, widths[0], 7)]
    for (width, wider), ratio in zip(itertools.pairwise(widths), config.ratios, strict=True):
        shorter = nn.Conv1d(width, wider, kernel_size=2 * ratio, stride=ratio, padding=ratio // 2)
        layers += [Snake(width), weight_norm(shorter), *_units(wider, config)]
    return nn.Sequential(*layers, Snake(widths[-1]), _conv(widths[-1], 2 * config.latent_channels, 3))


def _decoder(config: AudioAutoencoderConfig, out_channels: int) -> nn.Sequential:
    widths = _widths(config)[::-1]
    layers = [_conv(config.latent_channels, widths[0], 7)]
    for (wider, width), ratio in zip(itertools.pairwise(widths), config.ratios[::-1], strict=True):
        longer = nn.ConvTranspose1d(wider, width, kernel_size=2 * ratio, stride=ratio, padding=ratio // 2)
        layers += [*_units(wider, config), Snake(wider), weight_norm(longer, dim=1)]
    return nn.Sequential(*layers, Snake(widths[-1]), _conv(widths[-1], out_channels, 7))


def _units(width: int, config: AudioAutoencoderConfig) -> list[nn.Module]:
    return [ResidualUnit(width, dilation) for dilation in DILATIONS[: config.units]]


def _conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Module:
    return weight_norm(nn.Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2))

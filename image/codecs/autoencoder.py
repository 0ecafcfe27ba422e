"""A small convolutional KL autoencoder: images to a grid of latents and back, and the files that hold one.

The encoder gives mean and standard deviation of a normal posterior over the latents; the decoder turns a latent into an
image. Trained by `python -m image.train_tokenizer`, used as the tokenizer `conv_kl`.

Letters: B batch, C image channels, Z latent channels, H height, W width, f downsampling factor.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from core.draws import Random
from core.latents.autoencoder_kl import latent_grid
from core.latents.fitting import PixelLoss, pixel_loss
from core.latents.own_files import TokenizerFiles

KIND = "conv_kl"
MAKE_COMMAND = "python -m image.train_tokenizer"
MAX_WIDTH_FACTOR = 4
MAX_GROUPS = 8
LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class AutoencoderConfig:
    """Size of a `ConvKL` and the weight of its KL term.

    latent_channels  Z, channels of the latent grid
    downsample       f, image side over latent side; a power of two
    width            channels at full resolution; doubled at each halving of the side, up to four times
    blocks           residual blocks at each resolution of the encoder, and as many of the decoder
    kl_weight        weight of the KL divergence per latent number (nats) beside the error per pixel
    """

    latent_channels: int = 4
    downsample: int = 2
    width: int = 32
    blocks: int = 1
    kl_weight: float = 1e-2

    def __post_init__(self):
        for name in ("latent_channels", "downsample", "width", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"autoencoder.{name} is {getattr(self, name)!r}; allowed: 1 or more")
        if self.downsample & (self.downsample - 1):
            raise ValueError(f"autoencoder.downsample is {self.downsample}; allowed: a power of two (1, 2, 4, 8, ...)")
        if not (math.isfinite(self.kl_weight) and self.kl_weight >= 0):
            raise ValueError(f"autoencoder.kl_weight is {self.kl_weight!r}; allowed: a finite number, 0 or more")


class ConvKL(nn.Module):
    """Residual convolutions around a normal posterior; see `AutoencoderConfig` for the sizes."""

    def __init__(self, config: AutoencoderConfig, in_channels: int = 1):
        super().__init__()
        self.config, self.in_channels = config, in_channels
        widths = _widths(config)
        self.encoder = _encoder(in_channels, widths, config)
        self.decoder = _decoder(in_channels, widths, config)

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(C, H, W) -> (Z, H/f, W/f); ValueError for other channels or a side that f does not divide."""
        return latent_grid(media_shape, self.in_channels, self.config.latent_channels, self.config.downsample)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior: (B, C, H, W) in [-1, 1] -> two (B, Z, H/f, W/f)."""
        mean, log_variance = self.encoder(media).chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE))

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, H/f, W/f) -> (B, C, H, W), about [-1, 1] and not clamped."""
        return self.decoder(latents)

    def loss(self, media: Tensor, random: Random) -> PixelLoss:
        """The loss of (B, C, H, W) in [-1, 1]."""
        return pixel_loss(self, media, random, self.config.kl_weight)


@dataclass(frozen=True)
class SavedAutoencoder:
    """What `config.json` says beside the weights; mean and standard deviation are of the training images' latents."""

    kind: str
    in_channels: int
    autoencoder: AutoencoderConfig
    latent_mean: float
    latent_std: float

    def build(self) -> ConvKL:
        """The network, its weights to be loaded."""
        return ConvKL(self.autoencoder, self.in_channels)

    def fault(self) -> str | None:
        """What is wrong with the numbers; None: nothing."""
        if self.in_channels < 1 or not (math.isfinite(self.latent_mean) and 0 < self.latent_std < math.inf):
            return "needed are in_channels >= 1, a finite latent_mean and latent_std > 0"
        return None


FILES = TokenizerFiles(KIND, SavedAutoencoder, MAKE_COMMAND)


def save_autoencoder(directory: Path, network: ConvKL, latent_mean: float, latent_std: float) -> None:
    """Write `config.json` and `model.safetensors` into an existing directory."""
    saved = SavedAutoencoder(KIND, network.in_channels, network.config, latent_mean, latent_std)
    FILES.write(directory, network, saved)


def load_autoencoder(directory: Path) -> tuple[ConvKL, SavedAutoencoder]:
    """The network that `save_autoencoder` wrote, on the CPU, and its description.

    Raises ValueError, naming the file, for one that is missing, damaged or of another kind of model.
    """
    return FILES.read(directory)


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside the identity: (B, width, H, W) -> the same shape."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(*_activated(width), _conv(width, width), *_activated(width), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x + f(x)."""
        return x + self.layers(x)


def _widths(config: AutoencoderConfig) -> list[int]:
    """Channels at each resolution, from the image's to the latents'."""
    levels = config.downsample.bit_length()
    return [config.width * min(2**level, MAX_WIDTH_FACTOR) for level in range(levels)]


def _encoder(in_channels: int, widths: list[int], config: AutoencoderConfig) -> nn.Sequential:
    layers = [_conv(in_channels, widths[0]), *_blocks(widths[0], config)]
    for wide, wider in itertools.pairwise(widths):
        layers += [_conv(wide, wider, stride=2), *_blocks(wider, config)]
    return nn.Sequential(*layers, *_activated(widths[-1]), _conv(widths[-1], 2 * config.latent_channels))


def _decoder(out_channels: int, widths: list[int], config: AutoencoderConfig) -> nn.Sequential:
    widths = widths[::-1]
    layers = [_conv(config.latent_channels, widths[0]), *_blocks(widths[0], config)]
    for wider, wide in itertools.pairwise(widths):
        layers += [nn.Upsample(scale_factor=2, mode="nearest"), _conv(wider, wide), *_blocks(wide, config)]
    return nn.Sequential(*layers, *_activated(widths[-1]), _conv(widths[-1], out_channels))


def _blocks(width: int, config: AutoencoderConfig) -> list[nn.Module]:
    return [ResidualBlock(width) for _ in range(config.blocks)]


def _activated(width: int) -> list[nn.Module]:
    return [nn.GroupNorm(math.gcd(MAX_GROUPS, width), width), nn.SiLU()]


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)

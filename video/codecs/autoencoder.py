"""A small causal 3-D KL autoencoder: clips to a grid of latents and back, and the files that hold one.

Convolutions over frames, rows and columns that see no later frame (as in MAGVIT-v2, Yu et al. 2023, arXiv 2310.05737):
the first frame is coded by itself, so an image is a clip of one frame, and a clip can be coded in pieces. Trained by
`python -m video.train_tokenizer`, used as the tokenizer `conv3d_kl`.

Letters: B batch, C channels, F frames, H height, W width in pixels, Z latent channels, (T, Y, X) latent frames, rows,
columns, f downsampling factor, s frames of a latent frame.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from core.draws import Random
from core.latents.fitting import PixelLoss, pixel_loss
from core.latents.own_files import TokenizerFiles, channels_fault
from video.codecs.causal import Carry, CausalConv3d, CausalResidual, CausalStack, Enlarge, FrameNorm, Stride
from video.codecs.clip_grid import clip_grid

KIND = "conv3d_kl"
MAKE_COMMAND = "python -m video.train_tokenizer"
MAX_WIDTH_FACTOR = 4
LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class AutoencoderConfig:
    """Size of a `VideoAutoencoder` and the weight of its KL term.

    latent_channels  Z
    downsample       f, of rows and columns; a power of two
    frame_stride     s, frames of a latent frame but the first, which is one frame; a power of two
    width            channels after the first stage; doubled with each further one, up to four times
    blocks           residual blocks at each stage of the encoder, and as many of the decoder
    kl_weight        weight of the KL divergence per latent number (nats) beside the error per pixel
    """

    latent_channels: int = 8
    downsample: int = 2
    frame_stride: int = 4
    width: int = 16
    blocks: int = 1
    kl_weight: float = 1e-3

    def __post_init__(self):
        for name in ("latent_channels", "downsample", "frame_stride", "width", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"autoencoder.{name} is {getattr(self, name)!r}; allowed: 1 or more")
        for name in ("downsample", "frame_stride"):
            if getattr(self, name) & (getattr(self, name) - 1):
                raise ValueError(f"autoencoder.{name} is {getattr(self, name)}; allowed: a power of two (1, 2, 4, ...)")
        if not (math.isfinite(self.kl_weight) and self.kl_weight >= 0):
            raise ValueError(f"autoencoder.kl_weight is {self.kl_weight!r}; allowed: a finite number, 0 or more")

    def stages(self) -> list[Stride]:
        """By how much each stage of the encoder shrinks frames, rows and columns: sides first, frames last."""
        sides, frames = (factor.bit_length() - 1 for factor in (self.downsample, self.frame_stride))
        count = max(sides, frames, 1)
        return [(1 + (stage >= count - frames), *(1 + (stage < sides),) * 2) for stage in range(count)]


class VideoAutoencoder(nn.Module):
    """Causal residual convolutions around a normal posterior; see `AutoencoderConfig` for the sizes."""

    def __init__(self, config: AutoencoderConfig, in_channels: int):
        super().__init__()
        self.config, self.in_channels = config, in_channels
        self.latent_channels, self.downsample = config.latent_channels, config.downsample
        self.frame_stride = config.frame_stride
        self.encoder, self.decoder = _encoder(config, in_channels), _decoder(config, in_channels)

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """(C, F, H, W) -> (Z, T, Y, X); ValueError for clips that do not fit."""
        return clip_grid(media_shape, self)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, F, H, W) in [-1, 1] -> mean and standard deviation of the posterior, each (B, Z, T, Y, X)."""
        return self.encode_piece(media, None)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, T, Y, X) -> (B, C, F, H, W), about [-1, 1] and not clamped."""
        return self.decode_piece(latents, None)

    def encode_piece(self, media: Tensor, carry: Carry | None) -> tuple[Tensor, Tensor]:
        """The moments of the next piece of a clip: one frame and groups of s where it is the first, else groups of s.

        `carry` is what the pieces before it left, and is replaced by what the next one needs.
        """
        mean, log_variance = self.encoder(media, carry).chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE))

    def decode_piece(self, latents: Tensor, carry: Carry | None) -> Tensor:
        """The frames of the next latent frames of a clip; `carry` as for `encode_piece`, and another one."""
        return self.decoder(latents, carry)

    def loss(self, media: Tensor, random: Random) -> PixelLoss:
        """The loss of (B, C, F, H, W) in [-1, 1]."""
        return pixel_loss(self, media, random, self.config.kl_weight)


@dataclass(frozen=True)
class SavedAutoencoder:
    """What `config.json` says beside the weights; mean and standard deviation are of the training clips' latents.

    latent_mean, latent_std  of each latent channel
    """

    kind: str
    in_channels: int
    autoencoder: AutoencoderConfig
    latent_mean: list[float]
    latent_std: list[float]

    def build(self) -> VideoAutoencoder:
        """The network, its weights to be loaded."""
        return VideoAutoencoder(self.autoencoder, self.in_channels)

    def fault(self) -> str | None:
        """What is wrong with the numbers; None: nothing."""
        if self.in_channels < 1:
            return "needed are in_channels of 1 or more"
        return channels_fault(self.autoencoder.latent_channels, self.latent_mean, self.latent_std)


FILES = TokenizerFiles(KIND, SavedAutoencoder, MAKE_COMMAND)


def save_autoencoder(
    directory: Path, network: VideoAutoencoder, latent_mean: list[float], latent_std: list[float]
) -> None:
    """Write `config.json` and `model.safetensors` into an existing directory."""
    own = (network.in_channels, network.config)
    FILES.write(directory, network, SavedAutoencoder(KIND, *own, list(latent_mean), list(latent_std)))


def load_autoencoder(directory: Path) -> tuple[VideoAutoencoder, SavedAutoencoder]:
    """The network that `save_autoencoder` wrote, on the CPU, and its description.

    Raises ValueError, naming the file, for one that is missing, damaged or of another kind of model.
    """
    return FILES.read(directory)


def _widths(config: AutoencoderConfig) -> list[int]:
    """Channels after each stage of the encoder."""
    return [config.width * min(2**stage, MAX_WIDTH_FACTOR) for stage in range(len(config.stages()))]


def _encoder(config: AutoencoderConfig, in_channels: int) -> CausalStack:
    widths, layers = [in_channels, *_widths(config)], []
    for (width, wide), stride in zip(itertools.pairwise(widths), config.stages(), strict=True):
        layers += [CausalConv3d(width, wide, stride), *_blocks(wide, config)]
    return CausalStack(*layers, FrameNorm(widths[-1]), CausalConv3d(widths[-1], 2 * config.latent_channels))


def _decoder(config: AutoencoderConfig, out_channels: int) -> CausalStack:
    widths = [out_channels, *_widths(config)][::-1]
    layers: list[nn.Module] = [CausalConv3d(config.latent_channels, widths[0])]
    for (wide, width), stride in zip(itertools.pairwise(widths), config.stages()[::-1], strict=True):
        layers += [*_blocks(wide, config), FrameNorm(wide), Enlarge(wide, width, stride)]
    return CausalStack(*layers)


def _blocks(width: int, config: AutoencoderConfig) -> list[nn.Module]:
    return [CausalResidual(width) for _ in range(config.blocks)]

"""A small convolutional KL autoencoder of motion: rows of numbers to fewer latent frames and back, and its files.

Convolutions over time with residual blocks, each stage halving the frames, a normal posterior over the latents: the
motion VAE that latent models of motion use (MLD, Chen et al. 2023, arXiv 2212.04048, has a transformer; T2M-GPT, Zhang
et al. 2023, arXiv 2301.06052, these convolutions). Trained by `python -m motion.train_tokenizer`, used as the tokenizer
`conv_vae`.

Clips are padded behind their end with the mean of each number (`motion.data`). What is there does not reach the latents
of real frames, nor the frames decoded from them: a clip has the same latents however long its padding is.

Letters: B batch, C numbers of a frame, F frames, Z latent channels, T latent frames.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from core.draws import Random
from core.latents.own_files import TokenizerFiles, channels_fault
from core.latents.tokenizer import kl_divergence

KIND = "conv_vae"
MAKE_COMMAND = "python -m motion.train_tokenizer"
DILATIONS = (1, 3)
LOG_VARIANCE_RANGE = (-30.0, 20.0)
FIRST_LOG_VARIANCE = -6.0  # of an untrained posterior: with 0 its noise would hide its means for hundreds of steps
ROOT_NUMBERS = 4  # turn, two velocities, height: the first of every representation but absolute joints


@dataclass(frozen=True)
class MotionAutoencoderConfig:
    """Size of a `MotionAutoencoder` and the weights of its loss.

    latent_channels  Z
    stride           frames of a latent frame; a power of two
    width            channels of the convolutions
    blocks           residual blocks after each halving, and before each doubling: dilations 1, 3, 1, 3 ...
    velocity_weight  of the error of the steps from frame to frame, beside that of the frames
    root_weight      of the root's four numbers beside the others, where the representation has them: their errors add
                     up along a clip
    kl_weight        of the KL divergence per latent number (nats)
    """

    latent_channels: int = 32
    stride: int = 4
    width: int = 128
    blocks: int = 2
    velocity_weight: float = 1.0
    root_weight: float = 10.0
    kl_weight: float = 1e-4

    def __post_init__(self):
        for name in ("latent_channels", "stride", "width", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"autoencoder.{name} is {getattr(self, name)!r}; allowed: 1 or more")
        if self.stride & (self.stride - 1):
            raise ValueError(f"autoencoder.stride is {self.stride}; allowed: a power of two (1, 2, 4, ...)")
        for name in ("velocity_weight", "root_weight", "kl_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"autoencoder.{name} is {getattr(self, name)!r}; allowed: a finite number, 0 or more")

    @property
    def stages(self) -> int:
        """How often the frames are halved."""
        return self.stride.bit_length() - 1


@dataclass(frozen=True)
class MotionLoss:
    """The training loss of a batch and its parts, all scalar tensors; errors are of normalised numbers of real frames.

    total           reconstruction + velocity_weight * velocity + kl_weight * kl per latent number
    reconstruction  mean of |error| + error^2
    velocity        mean of |error| + error^2 of the steps from frame to frame
    kl              KL(posterior || standard normal) in nats, mean over clips
    """

    total: Tensor
    reconstruction: Tensor
    velocity: Tensor
    kl: Tensor


class MotionAutoencoder(nn.Module):
    """Residual convolutions over time around a normal posterior; see `MotionAutoencoderConfig`.

    origin      skeleton and representation of the clips, for the files
    mean, std   (C,) of the numbers of the clips
    loss_weight (C,) of each number in the loss
    padding     (Z,) buffer: the latents where a clip has no frames, the mean of all latents
    """

    def __init__(self, config: MotionAutoencoderConfig, statistics: tuple[Tensor, Tensor], origin: tuple[str, str]):
        super().__init__()
        mean, std = (values.detach().float().clone() for values in statistics)
        self.config, self.origin, self.in_channels = config, origin, len(mean)
        self.latent_channels, self.downsample = config.latent_channels, config.stride
        self.register_buffer("mean", mean[:, None])
        self.register_buffer("std", std[:, None])
        self.register_buffer("padding", torch.zeros(config.latent_channels, 1))
        weight = torch.ones(len(mean), 1)
        if origin[1] != "joints":
            weight[:ROOT_NUMBERS] = config.root_weight
        self.register_buffer("loss_weight", weight / weight.mean(), persistent=False)
        self.encoder, self.decoder = Encoder(config, len(mean)), Decoder(config, len(mean))

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, int]:
        """(C, F) -> (Z, F / stride); ValueError for other numbers of a frame, or frames that are not whole latents."""
        if len(media_shape) != 2 or media_shape[0] != self.in_channels:
            raise ValueError(
                f"the autoencoder takes clips of ({self.in_channels}, frames) numbers, got {tuple(media_shape)}"
            )
        if media_shape[1] < 1 or media_shape[1] % self.downsample:
            raise ValueError(
                f"data.frames is {media_shape[1]}; needed: a multiple of the autoencoder's stride, {self.downsample}"
            )
        return self.latent_channels, media_shape[1] // self.downsample

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior: (B, C, F), not normalised -> two (B, Z, T).

        Latent frames without a real frame have the mean `padding` and no deviation.
        """
        x = (media - self.mean) / self.std
        real = real_frames(x)
        mean, log_variance = self.encoder(x, real).chunk(2, dim=1)
        std = torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE))
        coarse = coarser(real, self.downsample)
        return torch.where(coarse, mean, self.padding), torch.where(coarse, std, 0)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, T) -> (B, C, F), not normalised; frames of latents that are `padding` up to the end are the mean."""
        real = real_frames(latents - self.padding)
        return self._decode(latents, real) * self.std + self.mean

    def loss(self, media: Tensor, random: Random) -> MotionLoss:
        """The loss of (B, C, F), not normalised; the posterior is sampled with the stream "posterior" of `random`.

        Where a clip ends within a latent frame, the frames behind it are to be as its last one.
        """
        x = (media - self.mean) / self.std
        real = real_frames(x)
        coarse = coarser(real, self.downsample)
        mean, std = self.moments(media)
        noise = random.normal("posterior", tuple(mean.shape)).to(mean)
        counted = coarse.repeat_interleave(self.downsample, dim=-1)
        error = (self._decode(mean + std * noise, coarse) - held(x, real)) * counted
        reconstruction = self._mean_error(error, counted)
        velocity = self._mean_error(error.diff(dim=-1) * counted[..., 1:], counted[..., 1:])
        kl = self._divergence(mean, std, coarse)
        config = self.config
        latent_numbers = coarse.sum(dim=(1, 2)).float().mean() * self.latent_channels
        total = reconstruction + config.velocity_weight * velocity + config.kl_weight * kl / latent_numbers
        return MotionLoss(total, reconstruction, velocity, kl)

    def _decode(self, latents: Tensor, real: Tensor) -> Tensor:
        """Normalised frames (B, C, F) of latents (B, Z, T), real where (B, 1, T) is true; zeros elsewhere."""
        return self.decoder(latents, real)

    def _mean_error(self, error: Tensor, real: Tensor) -> Tensor:
        """Mean of |error| + error^2 (B, C, F), weighted number by number, over real frames (B, 1, F)."""
        summed = (self.loss_weight * (error.abs() + error.square())).sum()
        return summed / (real.sum() * self.in_channels).clamp_min(1)

    def _divergence(self, mean: Tensor, std: Tensor, real: Tensor) -> Tensor:
        """The KL divergence in nats over real latent frames, mean over clips."""
        return kl_divergence(torch.where(real, mean, 0), torch.where(real, std, 1)).mean()


def real_frames(x: Tensor) -> Tensor:
    """(B, C, F) padded with zeros behind the end -> (B, 1, F) bool, true up to the last frame that is not all zeros."""
    given = (x != 0).any(1, keepdim=True)
    return given.flip(-1).cumsum(-1).flip(-1) > 0


def held(x: Tensor, real: Tensor) -> Tensor:
    """(B, C, F) whose frames behind the last of `real` (B, 1, F) are as that one."""
    last = (real.sum(-1, keepdim=True) - 1).clamp_min(0).expand(-1, x.shape[1], -1)
    return torch.where(real, x, x.gather(-1, last))


def coarser(real: Tensor, stride: int) -> Tensor:
    """(B, 1, F) -> (B, 1, F / stride), true where any of the frames is."""
    return real.unflatten(-1, (-1, stride)).any(-1)


class ResidualBlock(nn.Module):
    """Two convolutions over 3 frames beside the identity: (B, width, F) and real frames (B, 1, F) -> the same shape."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.first_norm, self.second_norm = FrameNorm(width), FrameNorm(width)
        self.first = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv1d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)  # begins as the identity: an untrained autoencoder is linear

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x + f(x); what is not real is zero before each convolution, as beyond the ends."""
        hidden = self.first(silu(self.first_norm(x)) * real)
        return x + self.second(silu(self.second_norm(hidden)) * real)


class FrameNorm(nn.LayerNorm):
    """Normalises the channels of each frame by itself, so that no frame depends on another: (B, width, F) -> same."""

    def forward(self, x: Tensor) -> Tensor:
        """Mean 0 and deviation 1 over the channels, then a weight and a bias of each."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Encoder(nn.Module):
    """Frames (B, C, F) -> (B, 2 Z, T)."""

    def __init__(self, config: MotionAutoencoderConfig, in_channels: int):
        super().__init__()
        width = config.width
        self.first = nn.Conv1d(in_channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(_blocks(config) for _ in range(config.stages or 1))
        self.shorter = nn.ModuleList(nn.Conv1d(width, width, 4, stride=2, padding=1) for _ in range(config.stages))
        self.last = nn.Conv1d(width, 2 * config.latent_channels, 3, padding=1)
        nn.init.constant_(self.last.bias[config.latent_channels :], FIRST_LOG_VARIANCE)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x (B, C, F) and its real frames (B, 1, F)."""
        x = self.first(x * real)
        for blocks, shorter in itertools.zip_longest(self.blocks, self.shorter):
            if shorter is not None:
                x, real = shorter(x * real), coarser(real, 2)
            x = _run(blocks, x, real)
        return self.last(x * real)


class Decoder(nn.Module):
    """Latents (B, Z, T) -> frames (B, C, F)."""

    def __init__(self, config: MotionAutoencoderConfig, out_channels: int):
        super().__init__()
        width = config.width
        self.first = nn.Conv1d(config.latent_channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(_blocks(config) for _ in range(config.stages or 1))
        self.longer = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(config.stages))
        self.last = nn.Conv1d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x (B, Z, T) and its real frames (B, 1, T); frames that are not real are zeros."""
        x = self.first(x * real)
        for blocks, longer in itertools.zip_longest(self.blocks, self.longer):
            x = _run(blocks, x, real)
            if longer is not None:
                real = real.repeat_interleave(2, dim=-1)
                x = longer(x.repeat_interleave(2, dim=-1) * real)
        return self.last(x * real) * real


def _blocks(config: MotionAutoencoderConfig) -> nn.ModuleList:
    dilations = itertools.islice(itertools.cycle(DILATIONS), config.blocks)
    return nn.ModuleList(ResidualBlock(config.width, dilation) for dilation in dilations)


def _run(blocks: Iterable[nn.Module], x: Tensor, real: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, real)
    return x


@dataclass(frozen=True)
class SavedAutoencoder:
    """What `config.json` says beside the weights; mean and standard deviation are of the training clips' latents.

    skeleton, representation  of the clips
    in_channels               C
    latent_mean, latent_std   of each latent channel
    """

    kind: str
    skeleton: str
    representation: str
    in_channels: int
    autoencoder: MotionAutoencoderConfig
    latent_mean: list[float]
    latent_std: list[float]

    def build(self) -> MotionAutoencoder:
        """The network, its weights and statistics to be loaded."""
        statistics = torch.zeros(self.in_channels), torch.ones(self.in_channels)
        return MotionAutoencoder(self.autoencoder, statistics, (self.skeleton, self.representation))

    def fault(self) -> str | None:
        """What is wrong with the numbers; None: nothing."""
        if self.in_channels < 1:
            return "needed are in_channels of 1 or more"
        return channels_fault(self.autoencoder.latent_channels, self.latent_mean, self.latent_std)


FILES = TokenizerFiles(KIND, SavedAutoencoder, MAKE_COMMAND)


def save_autoencoder(directory: Path, network: MotionAutoencoder, mean: Sequence[float], std: Sequence[float]) -> None:
    """Write `config.json` and `model.safetensors` into an existing directory.

    mean, std  of each latent channel; the mean becomes the network's `padding`
    """
    network.padding.copy_(torch.tensor(mean)[:, None])
    saved = SavedAutoencoder(KIND, *network.origin, network.in_channels, network.config, list(mean), list(std))
    FILES.write(directory, network, saved)


def load_autoencoder(directory: Path) -> tuple[MotionAutoencoder, SavedAutoencoder]:
    """The network that `save_autoencoder` wrote, on the CPU, and its description.

    Raises ValueError, naming the file, for one that is missing, damaged or of another kind of model.
    """
    return FILES.read(directory)

"""Clips to the latents a backbone sees, and back: pixels, an image VAE frame by frame, Wan's VAE, or our small one.

Coding and posterior are `core.latents.tokenizer`, the networks are in `video.codecs`. Here is which network a config
means, how its latents are normalised, and that what it is fed is in [-1, 1].

Letters: B batch, C channels, F frames, H height, W width in pixels, Z latent channels, (T, Y, X) latent frames, rows,
columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.draws import Random
from core.latents import pixels
from core.latents.autoencoder_kl import AutoencoderKLNetwork, scale_and_shift
from core.latents.diffusers_files import DiffusersModel
from core.latents.pixels import PIXELS
from core.latents.tokenizer import KLOptions, KLTokenizer, Normal, TokenizerConstants, weights_sha256
from core.schema import FREE
from video.codecs.autoencoder import KIND as CONV3D_KL
from video.codecs.autoencoder import MAKE_COMMAND, load_autoencoder
from video.codecs.chunked import ChunkedNetwork
from video.codecs.clip_grid import FIRST_FRAMES, check_range
from video.codecs.per_frame import PerFrameNetwork
from video.codecs.wan import WanNetwork

SD_VAE, WAN_VAE = "sd_vae", "wan_vae"


@dataclass(frozen=True)
class VideoConstants(TokenizerConstants):
    """`core.latents.tokenizer.TokenizerConstants`, `downsample` of rows and columns, and what stands for time.

    frame_stride  frames of a latent frame, but for the first
    tile          side in pixels of the tiles that frames are coded in, which changes latents a little; None: whole
    """

    frame_stride: int
    tile: int | None = None


class VideoTokenizer(KLTokenizer):
    """A network that codes clips, with its constants.

    frame_stride  frames of a latent frame, but for the first
    first         frames of the first latent frame
    """

    first = FIRST_FRAMES

    def __init__(self, network: nn.Module, constants: VideoConstants, options: VAEConfig):
        super().__init__(network, constants, options)
        self.frame_stride = constants.frame_stride

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Clips (B, C, F, H, W) in [-1, 1] -> mean and standard deviation, two (B, Z, T, Y, X) float32.

        ValueError for sizes that do not fit; MediaError, which tells the row, for pixels outside [-1, 1].
        """
        return super().moments(check_range(media))


class ClipPixels(pixels.Pixels):
    """The identity on clips in [-1, 1]; `frame_stride` and `first` as of `VideoTokenizer`."""

    frame_stride, first = 1, FIRST_FRAMES

    def encode(self, media: Tensor, random: Random) -> Tensor:
        """(B, C, F, H, W), as it came; MediaError, which tells the row, for pixels outside [-1, 1]."""
        return check_range(media)


@dataclass(frozen=True)
class PixelsConfig(pixels.PixelsConfig):
    """No tokenizer: the backbone sees clips (C, F, H, W)."""

    kind: ClassVar[str] = PIXELS

    def build(self, device: torch.device | str) -> ClipPixels:
        """The identity."""
        return ClipPixels()


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with what is known of it.

    path          name of its directory, or the hub id
    shift, scale  of its latents
    tile          see `VideoConstants`
    """

    network: nn.Module
    path: str
    sha256: str
    shift: Normal
    scale: Normal
    tile: int | None = None


@dataclass(frozen=True, kw_only=True)
class VAEConfig(KLOptions):
    """What all tokenizers with weights share; other keys: `core.latents.tokenizer.KLOptions`.

    kind             the name of the choice, and of the tokenizer in caches and checkpoints
    allow_untrained  take a VAE that does not reproduce the training clips: for tests with random weights
    """

    kind: ClassVar[str]
    allow_untrained: bool = False

    def load(self) -> LoadedNetwork:
        """The network, and what is known of it."""
        raise NotImplementedError

    def build(self, device: torch.device | str) -> VideoTokenizer:
        """The tokenizer.

        Raises ValueError, naming the config key, for files that are missing, damaged or of another model; ImportError
        for an extra that is not installed.
        """
        found = self.load()
        constants = VideoConstants(
            self.kind,
            path=found.path,
            scale=found.scale,
            shift=found.shift,
            downsample=found.network.downsample,
            sha256=found.sha256,
            frame_stride=found.network.frame_stride,
            tile=found.tile,
        )
        return VideoTokenizer(found.network, constants, self).to(device)


def check_chunk(chunk_frames: int | None) -> None:
    """ValueError for a number of frames that cannot be coded at once."""
    if chunk_frames is not None and chunk_frames < 1:
        raise ValueError(f"tokenizer.chunk_frames is {chunk_frames}; allowed: 1 or more, or null: all at once")


@dataclass(frozen=True, kw_only=True)
class SDVAEConfig(VAEConfig):
    """A pretrained AutoencoderKL of images, as SD has, on each frame by itself; needs the extra `vae`.

    path          directory written by `save_pretrained` (never touches the network), or the id of a hub repository
    subfolder     where the autoencoder stands below `path`: "vae" in a whole pipeline
    chunk_frames  frames coded at once, of however many clips, for memory; null: all of a batch
    """

    kind: ClassVar[str] = SD_VAE
    path: str = field(default="stabilityai/sd-vae-ft-ema", metadata=FREE)
    subfolder: str = ""
    chunk_frames: int | None = field(default=32, metadata=FREE)

    def __post_init__(self):
        super().__post_init__()
        check_chunk(self.chunk_frames)

    def load(self) -> LoadedNetwork:
        """The pretrained VAE, with the scale and shift of its config.json."""
        source = DiffusersModel("AutoencoderKL", SD_VAE, self.path, self.subfolder)
        network = AutoencoderKLNetwork(source.load())
        scale, shift = scale_and_shift(network.model.config, self.path)
        own = (source.name, weights_sha256(network.model), shift, scale)
        return LoadedNetwork(PerFrameNetwork(network, self.chunk_frames), *own)


@dataclass(frozen=True, kw_only=True)
class WanVAEConfig(VAEConfig):
    """Wan's VAE, a diffusers AutoencoderKLWan, of clips of 4n+1 frames; needs the extra `vae`.

    path       directory written by `save_pretrained` (never touches the network), or the id of a hub repository
    subfolder  where the autoencoder stands below `path`: "vae" in the whole pipeline
    tile       side in pixels of the squares that larger frames are coded in, for memory, which is an approximation;
               null: whole frames. In time, four frames are coded at once, however long the clip is
    """

    kind: ClassVar[str] = WAN_VAE
    path: str = field(default="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", metadata=FREE)
    subfolder: str = "vae"
    encode_batch: int = field(default=1, metadata=FREE)
    decode_batch: int = field(default=1, metadata=FREE)
    tile: int | None = None

    def load(self) -> LoadedNetwork:
        """The pretrained VAE, with the mean and deviation of each latent channel of its config.json."""
        source = DiffusersModel("AutoencoderKLWan", WAN_VAE, self.path, self.subfolder)
        network = WanNetwork(source.load(), self.tile)
        scale = [1 / std for std in network.std]
        return LoadedNetwork(network, source.name, weights_sha256(network.model), network.mean, scale, self.tile)


@dataclass(frozen=True, kw_only=True)
class Conv3dKLConfig(VAEConfig):
    """Our small causal VAE, made by `python -m video.train_tokenizer`.

    path          directory with `config.json` and `model.safetensors`
    chunk_frames  frames coded at once, for memory: pieces of a clip, which give what the whole clip gives; null: all
    """

    kind: ClassVar[str] = CONV3D_KL
    path: str = field(default="runs/tokenizer/digits", metadata=FREE)
    chunk_frames: int | None = field(default=None, metadata=FREE)

    def __post_init__(self):
        super().__post_init__()
        check_chunk(self.chunk_frames)

    def load(self) -> LoadedNetwork:
        """The VAE that was trained here, with the mean and deviation of each of its latent channels."""
        directory = Path(self.path).expanduser()
        if not directory.is_dir():
            raise ValueError(f"tokenizer.path is '{self.path}', which is no directory; `{MAKE_COMMAND}` makes one")
        network, saved = load_autoencoder(directory)
        scale, sha256 = [1 / std for std in saved.latent_std], weights_sha256(network)
        if self.chunk_frames is not None:
            network = ChunkedNetwork(network, self.chunk_frames)
        return LoadedNetwork(network, directory.resolve().name, sha256, saved.latent_mean, scale)


TOKENIZERS: dict[str, type] = {each.kind: each for each in (PixelsConfig, SDVAEConfig, WanVAEConfig, Conv3dKLConfig)}
TokenizerConfig = PixelsConfig | SDVAEConfig | WanVAEConfig | Conv3dKLConfig

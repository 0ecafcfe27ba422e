"""Pixels to the latents a backbone sees, and back: none, a pretrained AutoencoderKL, or our small ConvKL.

What they share, the constants and the sampling of a posterior, is `core.latents.tokenizer`.

Letters: B batch, C image channels, Z latent channels, H height, W width in pixels, f downsampling factor.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.draws import Random
from core.latents.autoencoder_kl import AutoencoderKLNetwork, scale_and_shift
from core.latents.diffusers_files import DiffusersModel
from core.latents.tokenizer import KLOptions, KLTokenizer, TokenizerConstants, weights_sha256
from core.schema import FREE
from image.codecs.autoencoder import KIND as CONV_KL
from image.codecs.autoencoder import MAKE_COMMAND, load_autoencoder

PIXELS, AUTOENCODER_KL = "pixels", "autoencoder_kl"


@dataclass(frozen=True)
class PixelsConfig:
    """No tokenizer: the backbone sees pixels."""

    def build(self, device: torch.device | str) -> Pixels:
        """The identity."""
        return Pixels()


@dataclass(frozen=True)
class AutoencoderKLConfig(KLOptions):
    """A pretrained diffusers AutoencoderKL, as SD, SDXL, SD3 and FLUX have; needs the extra `vae`.

    path       directory written by `save_pretrained` (never touches the network), or the id of a hub repository
    subfolder  where the autoencoder stands below `path`: "vae" in a whole pipeline

    Other keys: `core.latents.tokenizer.KLOptions`.
    """

    path: str = field(default="stabilityai/sd-vae-ft-ema", metadata=FREE)
    subfolder: str = ""

    def build(self, device: torch.device | str) -> KLTokenizer:
        """The tokenizer; ValueError for files of another model, ImportError without the extra `vae`."""
        source = DiffusersModel("AutoencoderKL", AUTOENCODER_KL, self.path, self.subfolder)
        network = AutoencoderKLNetwork(source.load())
        scale, shift = scale_and_shift(network.model.config, self.path)
        constants = TokenizerConstants(
            AUTOENCODER_KL,
            path=source.name,
            scale=scale,
            shift=shift,
            downsample=network.downsample,
            sha256=weights_sha256(network.model),
        )
        return KLTokenizer(network, constants, self).to(device)


@dataclass(frozen=True)
class ConvKLConfig(KLOptions):
    """Our small autoencoder, made by `python -m image.train_tokenizer`.

    path  directory with `config.json` and `model.safetensors`; the other keys: `core.latents.tokenizer.KLOptions`
    """

    path: str = field(default="runs/tokenizer/digits", metadata=FREE)

    def build(self, device: torch.device | str) -> KLTokenizer:
        """The tokenizer; ValueError, naming the config key, for files that are missing or damaged."""
        directory = Path(self.path).expanduser()
        if not directory.is_dir():
            raise ValueError(f"tokenizer.path is '{self.path}', which is no directory; `{MAKE_COMMAND}` makes one")
        network, saved = load_autoencoder(directory)
        constants = TokenizerConstants(
            CONV_KL,
            path=directory.resolve().name,
            scale=1 / saved.latent_std,
            shift=saved.latent_mean,
            downsample=saved.autoencoder.downsample,
            sha256=weights_sha256(network),
        )
        return KLTokenizer(network, constants, self).to(device)


TOKENIZERS: dict[str, type] = {PIXELS: PixelsConfig, AUTOENCODER_KL: AutoencoderKLConfig, CONV_KL: ConvKLConfig}
TokenizerConfig = PixelsConfig | AutoencoderKLConfig | ConvKLConfig


class Pixels:
    """The identity on [-1, 1]."""

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W), as it came."""
        return tuple(media_shape)

    def encode(self, media: Tensor, random: Random) -> Tensor:
        """(B, C, H, W), as it came; nothing is drawn."""
        return media

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, H, W), clamped to [-1, 1]: what a backbone generates may lie outside."""
        return latents.clamp(-1, 1)

    def constants(self) -> dict[str, Any]:
        """`TokenizerConstants` as a dict."""
        return asdict(TokenizerConstants(PIXELS, path=None, scale=1.0, shift=0.0, downsample=1, sha256=None))

    def to(self, device: torch.device | str) -> Pixels:
        """Itself: it holds no tensor."""
        return self

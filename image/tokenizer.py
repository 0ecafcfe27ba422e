"""Pixels to the latents a backbone sees, and back: none, a pretrained AutoencoderKL, or our small ConvKL.

What they share, the constants and the sampling of a posterior, is `core.latents.tokenizer`.

Letters: B batch, C image channels, Z latent channels, H height, W width in pixels, f downsampling factor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.latents.diffusers_files import DiffusersModel
from core.latents.pixels import PIXELS, PixelsConfig
from core.latents.tokenizer import KLOptions, KLTokenizer, TokenizerConstants, weights_sha256
from core.schema import FREE
from image.codecs.autoencoder import KIND as CONV_KL
from image.codecs.autoencoder import MAKE_COMMAND, latent_grid, load_autoencoder

AUTOENCODER_KL = "autoencoder_kl"


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
        network = _DiffusersKL(source.load())
        scale, shift = _scale_and_shift(network.model.config, self.path)
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


class _DiffusersKL(nn.Module):
    """A diffusers AutoencoderKL as a `KLNetwork`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.downsample = 2 ** (len(model.config.block_out_channels) - 1)

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, int, int]:
        config = self.model.config
        return latent_grid(media_shape, config.in_channels, config.latent_channels, self.downsample)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.model.encode(media).latent_dist
        return posterior.mean, posterior.std

    def decode(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents).sample


def _scale_and_shift(model_config: Any, path: str) -> tuple[float, float]:
    """Scale and shift from the model's own config.json; ValueError where it normalises its latents in another way."""
    if model_config.latents_mean is not None or model_config.latents_std is not None:
        raise ValueError(
            f"tokenizer.path '{path}': its config.json normalises each channel (latents_mean, latents_std); "
            "supported are one scaling_factor and one shift_factor for all"
        )
    if not model_config.scaling_factor:
        raise ValueError(f"tokenizer.path '{path}': its config.json has scaling_factor {model_config.scaling_factor!r}")
    return float(model_config.scaling_factor), float(model_config.shift_factor or 0.0)

"""Pixels to the latents a backbone sees, and back: none, a pretrained AutoencoderKL, or our small ConvKL.

What they share, the constants and the sampling of a posterior, is `core.latents.tokenizer`.

Letters: B batch, C image channels, Z latent channels, H height, W width in pixels, f downsampling factor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.latents.autoencoder_kl import AutoencoderKLNetwork, scale_and_shift
from core.latents.diffusers_files import DiffusersModel
from core.latents.pixels import PIXELS, PixelsConfig
from core.latents.tokenizer import KLOptions, KLTokenizer, TokenizerConstants, weights_sha256
from core.schema import FREE
from image.codecs.autoencoder import KIND as CONV_KL
from image.codecs.autoencoder import MAKE_COMMAND, load_autoencoder

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

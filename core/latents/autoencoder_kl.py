"""diffusers' AutoencoderKL, of SD, SDXL, SD3 and FLUX: pictures to a grid of latents and back.

Letters: B batch, C channels, Z latent channels, H height, W width in pixels, f downsampling factor.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class AutoencoderKLNetwork(nn.Module):
    """A loaded AutoencoderKL as a `core.latents.tokenizer.KLNetwork`.

    downsample       f
    in_channels      C
    latent_channels  Z
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.downsample = 2 ** (len(model.config.block_out_channels) - 1)
        self.in_channels, self.latent_channels = model.config.in_channels, model.config.latent_channels

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(C, H, W) -> (Z, H/f, W/f); ValueError for other channels or a side that f does not divide."""
        return latent_grid(media_shape, self.in_channels, self.latent_channels, self.downsample)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) in [-1, 1] -> mean and standard deviation of the posterior, each (B, Z, H/f, W/f)."""
        posterior = self.model.encode(media).latent_dist
        return posterior.mean, posterior.std

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, H/f, W/f) -> (B, C, H, W), about [-1, 1] and not clamped."""
        return self.model.decode(latents).sample


def latent_grid(
    media_shape: tuple[int, ...], in_channels: int, latent_channels: int, factor: int, unit: str = "images"
) -> tuple[int, int, int]:
    """(C, H, W) -> (Z, H/f, W/f); ValueError for other channels or a side that `factor` does not divide.

    `unit` is what the media are called in the error.
    """
    channels, height, width = media_shape
    if channels != in_channels:
        raise ValueError(f"{unit} of {channels} channels; the tokenizer takes {in_channels}")
    if height % factor or width % factor:
        raise ValueError(
            f"{unit} of {height}x{width} pixels; the tokenizer shrinks {factor} times, so both sides must be multiples "
            f"of {factor}"
        )
    return latent_channels, height // factor, width // factor


def scale_and_shift(model_config: Any, path: str) -> tuple[float, float]:
    """Scale and shift from the model's own config.json; ValueError where it normalises its latents in another way."""
    if model_config.latents_mean is not None or model_config.latents_std is not None:
        raise ValueError(
            f"tokenizer.path '{path}': its config.json normalises each channel (latents_mean, latents_std); "
            "supported are one scaling_factor and one shift_factor for all"
        )
    if not model_config.scaling_factor:
        raise ValueError(f"tokenizer.path '{path}': its config.json has scaling_factor {model_config.scaling_factor!r}")
    return float(model_config.scaling_factor), float(model_config.shift_factor or 0.0)

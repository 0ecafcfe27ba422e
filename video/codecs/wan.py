"""Wan's autoencoder of clips, through diffusers' AutoencoderKLWan (the extra `vae`).

A causal network: the first frame is coded by itself, then groups of four, each with the features of the frames before
it carried along. So what is in memory at once is a group, however long the clip is. Wan 2.1 makes 16 numbers of 4 x 8 x
8 pixels, Wan 2.2 (5B) 48 of 4 x 16 x 16. Latents are normalised by a mean and a deviation of each channel, which the
model's config.json has.

Letters: B batch, C channels, F frames, H height, W width in pixels, Z latent channels, (T, Y, X) latent frames, rows,
columns.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from video.codecs.clip_grid import clip_grid

GROUP = 4  # frames that diffusers codes at once after the first, whatever the config says
QUARTERS = 4  # of a tile: three are kept, the fourth is blended with the next tile


class WanNetwork(nn.Module):
    """A loaded AutoencoderKLWan as a `core.latents.tokenizer.KLNetwork`.

    tile             side in pixels of the squares that larger frames are coded in, blended over a quarter; None: whole
                     frames. Attention over a frame does not reach beyond its tile, so tiles are an approximation
    frame_stride     frames of a latent frame, but for the first
    downsample       of rows and columns
    in_channels      C
    latent_channels  Z
    mean, std        of each latent channel, from the model's config.json

    ValueError, naming tokenizer.path, for a config that contradicts itself.
    """

    def __init__(self, model: nn.Module, tile: int | None = None):
        super().__init__()
        config, patch = model.config, model.config.patch_size or 1
        self.model = model
        self.in_channels, self.latent_channels = config.in_channels // patch**2, config.z_dim
        self.frame_stride, self.downsample = config.scale_factor_temporal, config.scale_factor_spatial
        found = 2 ** sum(config.temperal_downsample), 2 ** len(config.temperal_downsample) * patch
        if (self.frame_stride, self.downsample) != found or self.frame_stride != GROUP:
            raise ValueError(
                f"tokenizer.path: its config.json has scale_factor_temporal {self.frame_stride} and "
                f"scale_factor_spatial {self.downsample}, its layers make {found[0]} and {found[1]}; needed: the same, "
                f"and {GROUP} of frames"
            )
        self.mean, self.std = _numbers(config, "latents_mean"), _numbers(config, "latents_std")
        if not all(std > 0 for std in self.std):
            raise ValueError(f"tokenizer.path: its config.json has latents_std {self.std}; needed: numbers above 0")
        if tile is not None:
            self._tile(tile, patch)

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """(C, F, H, W) -> (Z, T, Y, X); ValueError for clips that do not fit, such as frames that are not 4n+1."""
        return clip_grid(media_shape, self)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, F, H, W) in [-1, 1] -> mean and standard deviation of the posterior, each (B, Z, T, Y, X)."""
        posterior = self.model.encode(media).latent_dist
        return posterior.mean, posterior.std

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, T, Y, X) -> (B, C, F, H, W) in [-1, 1]."""
        return self.model.decode(latents).sample

    def _tile(self, tile: int, patch: int) -> None:
        unit = QUARTERS * self.downsample
        if tile < unit or tile % unit:
            raise ValueError(f"tokenizer.tile is {tile}; allowed: multiples of {unit} pixels, or null: whole frames")
        step = tile - tile // QUARTERS
        self.model.enable_tiling(tile, tile, step, step)


def _numbers(config: Any, name: str) -> list[float]:
    """A list of the config with a finite number for each latent channel."""
    values = getattr(config, name)
    if not isinstance(values, list | tuple) or len(values) != config.z_dim:
        count = len(values) if isinstance(values, list | tuple) else "no"
        raise ValueError(f"tokenizer.path: its config.json has {count} {name} for {config.z_dim} channels (z_dim)")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ValueError(f"tokenizer.path: its config.json has {name} {list(values)}; needed: finite numbers")
    return [float(value) for value in values]

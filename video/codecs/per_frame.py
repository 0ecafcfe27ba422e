"""An autoencoder of images on clips, each frame by itself.

So frames may be coded a few at a time, for memory: the latents are those of the whole batch, to the rounding of
convolutions that add up in another order (tested: 1e-5).

Letters: B batch, C channels, F frames, H height, W width in pixels, Z latent channels, (Y, X) latent rows, columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from video.codecs.clip_grid import clip_grid


class PerFrameNetwork(nn.Module):
    """A network of images, with `moments`, `decode`, `downsample` and channels, as a `KLNetwork` of clips.

    chunk_frames  frames coded at once, of however many clips; None: all of a batch
    """

    frame_stride = 1

    def __init__(self, network: nn.Module, chunk_frames: int | None = None):
        super().__init__()
        self.network, self.chunk_frames = network, chunk_frames
        self.downsample = network.downsample
        self.in_channels, self.latent_channels = network.in_channels, network.latent_channels

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """(C, F, H, W) -> (Z, F, Y, X); ValueError for clips that do not fit."""
        return clip_grid(media_shape, self)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, F, H, W) in [-1, 1] -> mean and standard deviation of the posterior, each (B, Z, F, Y, X)."""
        mean, std = self._over_frames(self.network.moments, media)
        return mean, std

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, F, Y, X) -> (B, C, F, H, W), about [-1, 1] and not clamped."""
        (media,) = self._over_frames(lambda frames: (self.network.decode(frames),), latents)
        return media

    def _over_frames(self, function: Callable[[Tensor], Sequence[Tensor]], x: Tensor) -> list[Tensor]:
        """The tensors that `function` gives for the frames of x (B, channels, F, ...), as clips again."""
        frames = rearrange(x, "b c f h w -> (b f) c h w")
        parts = [function(part) for part in frames.split(self.chunk_frames or len(frames))]
        return [
            rearrange(torch.cat(tensors), "(b f) c h w -> b c f h w", b=len(x)) for tensors in zip(*parts, strict=True)
        ]

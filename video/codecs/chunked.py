"""Long clips coded piece by piece, so that memory does not grow with their length.

A causal network carries, layer by layer, the frames that its next piece begins with, so the pieces are what the whole
clip gives, to the rounding of floating point (tested: 1e-5).

Letters: B batch, C channels, F frames, H height, W width in pixels, Z latent channels, (T, Y, X) latent frames, rows,
columns, s frames of a latent frame.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from video.codecs.causal import Carry
from video.codecs.clip_grid import FIRST_FRAMES


class ChunkedNetwork(nn.Module):
    """A network with `encode_piece` and `decode_piece` as a `KLNetwork`, `chunk_frames` frames at a time.

    Pieces are whole latent frames, one at the least, and the first is shorter, as a clip's first frame stands alone.
    """

    def __init__(self, network: nn.Module, chunk_frames: int):
        super().__init__()
        self.network, self.frame_stride, self.downsample = network, network.frame_stride, network.downsample
        self.in_channels, self.latent_channels = network.in_channels, network.latent_channels
        self.piece = max(1, chunk_frames // network.frame_stride)  # latent frames

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, F, H, W) -> (Z, T, Y, X), as the network's."""
        return self.network.latent_shape(media_shape)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, F, H, W) in [-1, 1] -> mean and standard deviation of the posterior, each (B, Z, T, Y, X)."""
        _, frames, _, _ = self.latent_shape(tuple(media.shape[1:]))
        carry: Carry = {}
        parts = []
        for first, last in self._pieces(frames):
            piece = media[:, :, self._frame(first) : self._frame(last)]
            parts.append(self.network.encode_piece(piece, carry))
        mean, std = (torch.cat(part, dim=2) for part in zip(*parts, strict=True))
        return mean, std

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, T, Y, X) -> (B, C, F, H, W), about [-1, 1] and not clamped."""
        carry: Carry = {}
        pieces = self._pieces(latents.shape[2])
        return torch.cat([self.network.decode_piece(latents[:, :, a:b], carry) for a, b in pieces], dim=2)

    def _pieces(self, frames: int) -> Iterator[tuple[int, int]]:
        """First latent frame of each piece, and the one after its last."""
        for first in range(0, frames, self.piece):
            yield first, min(first + self.piece, frames)

    def _frame(self, latent_frame: int) -> int:
        """The frame that a latent frame begins with."""
        return 0 if latent_frame == 0 else FIRST_FRAMES + (latent_frame - 1) * self.frame_stride

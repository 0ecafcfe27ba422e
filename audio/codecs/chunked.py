"""Long audio coded piece by piece, so that memory does not grow with its length.

A convolution reaches only so far. A chunk is coded together with as many frames of context on both sides as its frames
can depend on, and the context is thrown away: the kept frames are those that coding the whole clip gives, to the
rounding of floating point (tested: 1e-4). At the ends of a clip there is no context, and the network's own padding
stands where it stands for the whole clip.

Letters: B batch, C channels, L samples, Z latent channels, T latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class ChunkedNetwork(nn.Module):
    """A network of convolutions over time under the same protocol, at most `chunk_frames` new frames at a time.

    context_frames  on both sides, thrown away; None: the network's own `context_frames`, which make chunks exact
    """

    def __init__(self, network: nn.Module, chunk_frames: int, context_frames: int | None = None):
        super().__init__()
        if context_frames is None and not hasattr(network, "context_frames"):
            raise ValueError(
                f"{type(network).__name__} has no context_frames: it cannot be coded in chunks, as each of its frames "
                "depends on the whole clip"
            )
        context_frames = network.context_frames if context_frames is None else context_frames
        if chunk_frames < 1 or context_frames < 0:
            raise ValueError(
                f"chunks of {chunk_frames} frames with a context of {context_frames}; allowed: 1 or more, 0 or more"
            )
        self.network, self.chunk_frames, self.context_frames = network, chunk_frames, context_frames
        self.hop, self.sample_rate = network.hop, network.sample_rate
        self.in_channels, self.latent_channels = network.in_channels, network.latent_channels

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, L) -> (Z, T), as the network's."""
        return self.network.latent_shape(media_shape)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, L) in [-1, 1] -> mean and standard deviation, each (B, Z, T); ValueError for sizes that do not fit."""
        _, frames = self.latent_shape(tuple(media.shape[1:]))
        parts = []
        for start, end, kept in self._chunks(frames):
            moments = self.network.moments(media[..., start * self.hop : end * self.hop])
            parts.append([moment[..., kept] for moment in moments])
        mean, std = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
        return mean, std

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, T) -> (B, C, L), about [-1, 1] and not clamped."""
        parts = []
        for start, end, kept in self._chunks(latents.shape[-1]):
            media = self.network.decode(latents[..., start:end])
            parts.append(media[..., kept.start * self.hop : kept.stop * self.hop])
        return torch.cat(parts, dim=-1)

    def _chunks(self, frames: int) -> Iterator[tuple[int, int, slice]]:
        """First and last frame to code, and which of these to keep."""
        for first in range(0, frames, self.chunk_frames):
            last = min(first + self.chunk_frames, frames)
            start, end = max(0, first - self.context_frames), min(frames, last + self.context_frames)
            yield start, end, slice(first - start, last - start)


def context_frames(encoder: nn.Module, decoder: nn.Module, hop: int) -> int:
    """How many latent frames on each side an encoder's frame, or a decoder's samples, can depend on at the most.

    From the kernels, dilations and strides of all Conv1d and ConvTranspose1d in the order of their registration, as if
    each came after the last: a bound whatever the weights.
    """
    return max(math.ceil(_reach(encoder, 1.0) / hop), math.ceil(_reach(decoder, float(hop)) / hop))


def _reach(network: nn.Module, spacing: float) -> float:
    """One-sided reach in samples; `spacing` is that of the input's frames, in samples."""
    reach = 0.0
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d):
            span, padding = layer.dilation[0] * (layer.kernel_size[0] - 1), layer.padding[0]
            reach += max(padding, span - padding) * spacing
            spacing *= layer.stride[0]
        elif isinstance(layer, nn.ConvTranspose1d):
            spacing /= layer.stride[0]
            reach += layer.dilation[0] * (layer.kernel_size[0] - 1) * spacing
    return reach

"""Layers over clips in which no frame sees a later one, and which can go on where an earlier piece of a clip ended.

A layer is called with what it carries from piece to piece (`Carry`), or with None for a whole clip. Before a clip's
first frame stands that frame itself, as often as a kernel reaches back, so that a still clip stays still.

Letters: B batch, F frames, H height, W width, s by how much frames are thinned out or multiplied.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import silu

KERNEL = 3
MAX_GROUPS = 8
Carry = dict[nn.Module, Tensor]  # of each layer, the frames that the next piece begins with; empty before the first
Stride = tuple[int, int, int]  # of frames, rows and columns


class CausalStack(nn.Sequential):
    """Layers one after the other, all with the same carry."""

    def forward(self, x: Tensor, carry: Carry | None = None) -> Tensor:
        """x through all layers."""
        for layer in self:
            x = layer(x, carry)
        return x


class CausalConv3d(nn.Conv3d):
    """A 3x3x3 convolution over frames up to the present one.

    (B, width, F, H, W) -> (B, wide, 1 + (F-1)/s, H/stride, W/stride); a later piece of s k frames gives k.
    """

    def __init__(self, width: int, wide: int, stride: Stride = (1, 1, 1)):
        super().__init__(width, wide, KERNEL, stride, padding=(0, KERNEL // 2, KERNEL // 2))

    def forward(self, x: Tensor, carry: Carry | None = None) -> Tensor:
        """The convolution of x after the frames that were carried, or after its own first frame."""
        before = None if carry is None else carry.get(self)
        if before is None:
            before = x[:, :, :1].expand(-1, -1, KERNEL - 1, -1, -1)
        x = torch.cat([before, x], dim=2)
        if carry is not None:
            carry[self] = x[:, :, x.shape[2] - (KERNEL - self.stride[0]) :].clone()
        return super().forward(x)


class FrameNorm(nn.GroupNorm):
    """Group normalisation of each frame by itself, then SiLU: (B, width, F, H, W) -> the same shape."""

    def __init__(self, width: int):
        super().__init__(math.gcd(MAX_GROUPS, width), width)

    def forward(self, x: Tensor, carry: Carry | None = None) -> Tensor:
        """Nothing is carried: a frame's statistics are its own."""
        frames = super().forward(rearrange(x, "b c f h w -> (b f) c h w"))
        return silu(rearrange(frames, "(b f) c h w -> b c f h w", b=len(x)))


class CausalResidual(nn.Module):
    """Two normalised convolutions beside the identity: (B, width, F, H, W) -> the same shape."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = CausalStack(
            FrameNorm(width), CausalConv3d(width, width), FrameNorm(width), CausalConv3d(width, width)
        )

    def forward(self, x: Tensor, carry: Carry | None = None) -> Tensor:
        """x + f(x)."""
        return x + self.layers(x, carry)


class Enlarge(nn.Module):
    """A convolution whose channels become frames, rows and columns.

    (B, wide, F, H, W) -> (B, width, 1 + s (F-1), H stride, W stride): the first frame stays one; a later piece of k
    frames gives s k.
    """

    def __init__(self, wide: int, width: int, stride: Stride):
        super().__init__()
        self.stride, self.conv = stride, CausalConv3d(wide, width * math.prod(stride))

    def forward(self, x: Tensor, carry: Carry | None = None) -> Tensor:
        """The enlarged x; of the frames that a clip's first becomes, the last."""
        begins = carry is None or self.conv not in carry
        s, u, v = self.stride
        x = rearrange(self.conv(x, carry), "b (c s u v) f h w -> b c (f s) (h u) (w v)", s=s, u=u, v=v)
        return x[:, :, s - 1 :] if begins else x

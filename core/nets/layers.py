"""Building blocks of diffusion transformers, with the parameter names of the published SiT and DiT.

Letters: B batch, N tokens, D width, H heads, K width of a head, G width of the gated MLP. A conditioning vector c is
(B, D) for the sample or (B, N, D) for each token, or a pair where tokens have one of two: both vectors (B, 2, D), and
where (B, N) it is the second. Everything here takes all three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from einops import rearrange
from torch import Tensor, nn

TRAINING_FACTOR = 3  # the backward pass multiplies twice for each multiplication of the forward pass


def sincos_positions(width: int, positions: Tensor) -> Tensor:
    """Fixed sine-cosine code of scalar positions (N,): (N, width), sines then cosines, periods up to 10 000."""
    if width % 2:
        raise ValueError(f"a sine-cosine code needs an even width for each axis, got {width}")
    rates = 1.0 / 10000 ** (torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = positions.double()[:, None] * rates
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


def sincos_grid(width: int, grid: Sequence[int]) -> Tensor:
    """Sine-cosine code (N, width) float32 of a 1-, 2- or 3-D grid, its last axis fastest.

    Each axis has an equal, even share of the width. In 2-D the column comes first, as in DiT and in published weights.
    """
    axes = [torch.arange(size) for size in grid]
    coordinates = [axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")]
    if len(grid) == 2:
        coordinates.reverse()
    share = width // len(grid)
    if share * len(grid) != width or share % 2:
        raise ValueError(
            f"width {width} cannot be shared evenly by {len(grid)} axes; it must divide by {2 * len(grid)}"
        )
    return torch.cat([sincos_positions(share, each) for each in coordinates], dim=1).float()


def rotary_table(head_width: int, grid: Sequence[int]) -> Tensor:
    """Rotation angles (N, K/2) of a 1-, 2- or 3-D grid (RoPE, arXiv 2104.09864).

    Axes share the K/2 pairs evenly; of three the first, of frames, has what is left over.
    """
    pairs, axes = head_width // 2, len(grid)
    share = pairs // axes
    if head_width % 2 or share == 0 or (axes == 2 and pairs % 2):
        raise ValueError(f"head width {head_width} cannot be shared by {axes} axes of rotary positions")
    shares = [pairs - share * (axes - 1), *[share] * (axes - 1)]
    places = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) for size in grid], indexing="ij")
    rates = [1.0 / 10000 ** (torch.arange(each, dtype=torch.float64) / each) for each in shares]
    angles = [place.flatten()[:, None] * rate for place, rate in zip(places, rates, strict=True)]
    return torch.cat(angles, dim=1).float()


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs (k, k + K/2) of queries or keys x (B, H, N, K) by `angles` (N, K/2) or (B, 1, N, K/2)."""
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def visible_keys(mask: Tensor) -> Tensor:
    """Which keys a query may attend to, bool, broadcasting over (B, H, N queries, N keys).

    mask (B, N): bool, true where a token may be attended to by all; or integers, the group of each token, inside of
    which it attends. The mask of groups is dense, a byte for each pair of tokens.
    """
    if mask.dtype == torch.bool:
        return mask[:, None, None, :]
    return mask[:, None, :, None] == mask[:, None, None, :]


class Attention(nn.Module):
    """Multi-head self-attention on scaled_dot_product_attention."""

    def __init__(self, width: int, num_heads: int, qk_norm: bool = False):
        super().__init__()
        if width % num_heads:
            raise ValueError(f"hidden_size {width} does not divide by num_heads {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(width // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, N, D); angles of rotary positions, as `rotate` takes them; mask (B, N) as `visible_keys` reads it."""
        q, k, v = rearrange(self.qkv(x), "b n (three h k) -> three b h n k", three=3, h=self.num_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        keys = None if mask is None else visible_keys(mask)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        return self.proj(rearrange(out, "b h n k -> b n (h k)"))


class Mlp(nn.Module):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """Gated MLP (arXiv 2002.05202) of about an `Mlp`'s parameters: G = 2/3 hidden, rounded to a multiple of 8."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        gated = max(8, round(2 * hidden / 3 / 8) * 8)
        self.w12 = nn.Linear(width, 2 * gated)
        self.w3 = nn.Linear(gated, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


def per_token(c: Tensor) -> Tensor:
    """A conditioning (B, D) as (B, 1, D); one with axes of tokens, (B, N, D) or (B, F, N, D), as it is."""
    return c if c.ndim > 2 else c[:, None]


def modulation(make: nn.Module, c: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """What `make` computes of a conditioning, for tokens: (B, 1 or N, ...). Of a pair it does so twice a sample."""
    if not isinstance(c, tuple):
        return per_token(make(c))
    vectors, second = c
    made = [each.reshape(len(each), *[1] * (second.ndim - 1), -1) for each in make(vectors).unbind(1)]
    return torch.where(second[..., None], made[1], made[0])


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, all (B, N, D) or broadcasting."""
    return torch.addcmul(shift, x, 1 + scale)


@dataclass(frozen=True)
class BlockOptions:
    """Shape and recipe of a block; the last three are off in SiT, on in newer recipes."""

    width: int
    num_heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    swiglu: bool = False


class AdaLNZeroBlock(nn.Module):
    """Block whose norms are shifted, scaled and gated by the condition (DiT, arXiv 2212.09748, section 3.2)."""

    def __init__(self, options: BlockOptions):
        super().__init__()
        width = options.width
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, options.num_heads, options.qk_norm)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = (SwiGLU if options.swiglu else Mlp)(width, int(width * options.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self,
        x: Tensor,
        c: Tensor | tuple[Tensor, Tensor],
        angles: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """x (B, N, D), c (B, D) or (B, N, D), or a pair -> (B, N, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(self.adaLN_modulation, c).chunk(6, dim=-1)
        x = torch.addcmul(x, gate1, self.attn(modulate(self.norm1(x), shift1, scale1), angles, mask))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


class FinalLayer(nn.Module):
    """Norm, shift and scale by the condition, and the map from a token to its patch."""

    def __init__(self, width: int, out_features: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """x (B, N, D), c (B, D) or (B, N, D), or a pair -> (B, N, out_features)."""
        shift, scale = modulation(self.adaLN_modulation, c).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class TimestepEmbedder(nn.Module):
    """Flow time as a vector: cosines then sines of t itself (not scaled by 1000), then Linear-SiLU-Linear."""

    def __init__(self, width: int, num_frequencies: int = 256, max_period: float = 10000.0):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(num_frequencies, width), nn.SiLU(), nn.Linear(width, width))
        half = num_frequencies // 2
        rates = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("rates", rates, persistent=False)

    def features(self, t: Tensor) -> Tensor:
        """t (B,) or (B, N) -> (..., num_frequencies) float32."""
        angles = t.float()[..., None] * self.rates
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def forward(self, t: Tensor) -> Tensor:
        """t (B,) or (B, N) -> (B, D) or (B, N, D)."""
        return self.mlp(self.features(t).to(self.mlp[0].weight.dtype))


class LabelEmbedder(nn.Module):
    """Class labels as vectors; `null_row` adds a last row for the unconditional pass."""

    def __init__(self, num_classes: int, width: int, null_row: bool):
        super().__init__()
        self.num_classes = num_classes
        self.embedding_table = nn.Embedding(num_classes + null_row, width)

    def initialize(self) -> None:
        """DiT's initialisation: normal, 0.02."""
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        """labels (B,) int64 -> (B, D)."""
        return self.embedding_table(labels)

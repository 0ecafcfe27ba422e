"""SiT (arXiv 2401.08740) with the parameter names and numerics of the published checkpoints.

Letters: B batch, C channels, Y X latent rows and columns, P patch, N tokens (row by row), D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.layers import (
    AdaLNZeroBlock,
    BlockOptions,
    FinalLayer,
    LabelEmbedder,
    TimestepEmbedder,
    rotary_table,
    sincos_grid,
)

SIZES = {  # depth, width, heads
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}


@dataclass(frozen=True)
class SiTConfig:
    """A SiT by published size (S, B, L, XL) or, with size null, by depth, hidden_size and num_heads.

    learn_sigma doubles the output channels and throws half away, as in the published checkpoints; it adds
    patch_size^2 C (width + 1) parameters and must match the checkpoint that is loaded. null_label keeps the row of the
    unconditional pass, needed for guidance. qk_norm, swiglu and rope are newer recipes; published weights have none.
    """

    patch_size: int = 2
    size: str | None = None
    depth: int | None = None
    hidden_size: int | None = None
    num_heads: int | None = None
    mlp_ratio: float = 4.0
    learn_sigma: bool = False
    null_label: bool = True
    qk_norm: bool = False
    swiglu: bool = False
    rope: bool = False

    def __post_init__(self) -> None:
        free = (self.depth, self.hidden_size, self.num_heads)
        if self.patch_size < 1:
            raise ValueError(f"backbone.patch_size is {self.patch_size}; it must be at least 1")
        if self.size is None and None in free:
            raise ValueError("backbone.size is null: give backbone.depth, backbone.hidden_size and backbone.num_heads")
        if self.size is not None and self.size not in SIZES:
            raise ValueError(f"backbone.size is {self.size!r}; allowed: {list(SIZES)} or null")
        if self.size is not None and free != (None, None, None):
            raise ValueError(f"backbone.size is {self.size!r}; depth, hidden_size and num_heads must then be null")
        if self.size is None and min(free) < 1:
            raise ValueError(f"backbone.depth, hidden_size and num_heads are {free}; each must be at least 1")

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Depth, width and number of heads."""
        return (self.depth, self.hidden_size, self.num_heads) if self.size is None else SIZES[self.size]

    def num_classes_in(self, state: dict[str, Tensor], source: str) -> int:
        """Number of classes of saved weights, from their label table; ValueError where there is none."""
        table = state.get("y_embedder.embedding_table.weight")
        if table is None:
            raise ValueError(f"{source} is of another architecture than the configured backbone: it has no label table")
        return len(table) - self.null_label

    def build(self, latent_shape: tuple[int, ...], num_classes: int) -> SiT:
        """The network for latents (C, Y, X)."""
        depth, width, heads = self.dimensions
        channels, *grid = latent_shape
        return SiT(
            input_size=tuple(grid),
            patch_size=self.patch_size,
            in_channels=channels,
            hidden_size=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=self.mlp_ratio,
            num_classes=num_classes,
            class_dropout_prob=0.1 if self.null_label else 0.0,
            learn_sigma=self.learn_sigma,
            qk_norm=self.qk_norm,
            swiglu=self.swiglu,
            rope=self.rope,
        )


BACKBONES = {"sit": SiTConfig}


class SiT(nn.Module):
    """Scalable interpolant transformer: patches, adaLN-zero blocks, patches back.

    input_size            latent rows and columns (Y, X), or one number for a square
    class_dropout_prob    above 0 adds the null row of the label table; labels are dropped by the conditioning, not here
    learn_sigma           2 C output channels of which the first C are returned (published checkpoints)
    """

    def __init__(  # noqa: PLR0913, the published model's own options
        self,
        *,
        input_size: int | tuple[int, int] = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        class_dropout_prob: float = 0.1,
        learn_sigma: bool = True,
        qk_norm: bool = False,
        swiglu: bool = False,
        rope: bool = False,
    ):
        super().__init__()
        size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
        if any(side % patch_size for side in size):
            raise ValueError(f"latent size {size} does not divide by backbone.patch_size {patch_size}")
        self.input_size, self.patch_size, self.in_channels = size, patch_size, in_channels
        self.grid = (size[0] // patch_size, size[1] // patch_size)
        self.num_tokens = self.grid[0] * self.grid[1]
        self.out_channels = in_channels * (2 if learn_sigma else 1)
        self.x_embedder = PatchEmbed(in_channels, hidden_size, patch_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size, null_row=class_dropout_prob > 0)
        self.register_buffer("pos_embed", sincos_grid(hidden_size, self.grid)[None])
        angles = rotary_table(hidden_size // num_heads, self.grid) if rope else None
        self.register_buffer("angles", angles, persistent=False)
        options = BlockOptions(hidden_size, num_heads, mlp_ratio, qk_norm, swiglu)
        self.blocks = nn.ModuleList(AdaLNZeroBlock(options) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * self.out_channels)
        self.checkpoint_blocks = False
        self.initialize()

    def initialize(self) -> None:
        """DiT's initialisation: Xavier for linear maps, 0.02 for embeddings, zero for every gate and for the output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        zeroed = [block.adaLN_modulation[1] for block in self.blocks]
        for layer in [*zeroed, self.final_layer.adaLN_modulation[1], self.final_layer.linear]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def expand(self, values: Tensor, x: Tensor) -> Tensor:
        """Values (B,) as (B, 1, 1, 1); values (B, N) on the pixels of their patches, (B, 1, Y, X)."""
        if values.ndim == 1:
            return values[:, None, None, None]
        rows, columns = self.grid
        p = self.patch_size
        return repeat(values, "b (y x) -> b 1 (y p) (x q)", y=rows, x=columns, p=p, q=p)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, Y, X), t (B,) or (B, N), condition (B,) int64 labels, mask (B, N) -> (B, C, Y, X)."""
        return self.all_channels(x, t, condition, mask)[:, : self.in_channels]

    def all_channels(self, x: Tensor, t: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """The output of the last layer (B, C or 2 C, Y, X), before `learn_sigma`'s second half is dropped."""
        if tuple(x.shape[1:]) != (self.in_channels, *self.input_size):
            wanted = (self.in_channels, *self.input_size)
            raise ValueError(f"the backbone was built for latents {wanted}, got {tuple(x.shape[1:])}")
        tokens = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t)
        label = self.y_embedder(condition)
        c = c + (label if c.ndim == 2 else label[:, None])
        for block in self.blocks:
            tokens = self._run(block, tokens, c, mask)
        patches = self.final_layer(tokens, c)
        rows, columns = self.grid
        p = self.patch_size
        return rearrange(patches, "b (y x) (p q c) -> b c (y p) (x q)", y=rows, x=columns, p=p, q=p)

    def _run(self, block: nn.Module, tokens: Tensor, c: Tensor, mask: Tensor | None) -> Tensor:
        run: Callable[..., Tensor] = block
        if self.checkpoint_blocks and torch.is_grad_enabled():
            run = partial(checkpoint, block, use_reentrant=False)
        return run(tokens, c, self.angles, mask)


class PatchEmbed(nn.Module):
    """Patches of P x P as tokens, a strided convolution."""

    def __init__(self, in_channels: int, width: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Y, X) -> (B, N, D)."""
        return rearrange(self.proj(x), "b d y x -> b (y x) d")

"""Latte (arXiv 2401.03048): a SiT whose blocks attend in turn over the places of a frame and the frames of a place.

Even blocks, counted from 0, attend over space, odd ones over time; all else works token by token. Names and numerics
are those of the published weights, whose latents (F, C, Y, X) are ours (C, F, Y, X) transposed. The code of frames is
added behind the first block.

Every block takes and returns (B, F, N, D), so that whoever listens to the blocks sees one layout; only attention folds.

Letters: B batch, C channels, F frames, Y X rows and columns of latents, N tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from core.nets.layers import AdaLNZeroBlock, Attention, BlockOptions, rotary_table
from core.nets.sit import MakeEmbedder, PatchEmbed, Recipe, SiT

SPACE, TIME = "(b f) n", "(b n) f"  # what attention takes for its batch, and for its tokens


def frame_patch(patch_size: int | Sequence[int]) -> tuple[int, int, int]:
    """The patch (1, P, P) of a number, or of three that begin with 1; ValueError, naming the config key, for others."""
    if isinstance(patch_size, int):
        return 1, patch_size, patch_size
    if len(patch_size) != 3 or patch_size[0] != 1:
        raise ValueError(f"backbone.patch_size is {patch_size}; a patch of latte is a number P or [1, rows, columns]")
    return tuple(patch_size)


class FoldedAttention(Attention):
    """Attention of tokens (B, F, N, D) inside each frame, or along the frames at each place, as `fold` says."""

    def __init__(self, options: BlockOptions, fold: str):
        super().__init__(options.width, options.num_heads, options.qk_norm)
        self.fold = fold

    def forward(self, x: Tensor, angles: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, F, N, D), mask (B, F, N) as `visible_keys` reads it; a row without a real token attends to itself."""
        sides = {"f": x.shape[1], "n": x.shape[2]}
        keys = None
        if mask is not None:
            keys = rearrange(mask, f"b f n -> {self.fold}")
            if keys.dtype == torch.bool:  # a group has its own tokens
                keys = keys | ~keys.any(1, keepdim=True)  # the softmax of no key is NaN
        out = super().forward(rearrange(x, f"b f n d -> {self.fold} d"), angles, keys)
        return rearrange(out, f"{self.fold} d -> b f n d", **sides)


class LatteBlock(AdaLNZeroBlock):
    """A block of SiT on (B, F, N, D) whose attention is folded."""

    def __init__(self, options: BlockOptions, fold: str):
        super().__init__(options)
        self.attn = FoldedAttention(options, fold)


class Latte(SiT):
    """Latte over latents (C, F, Y, X), with patches (1, P, P) as `frame_patch` gives them.

    x may have fewer frames than `latent_shape` says: they are the first ones. `token_dim` are the axes of the blocks'
    output that count tokens.
    """

    token_dim = (1, 2)

    def __init__(self, latent_shape: tuple[int, ...], recipe: Recipe, embedder: MakeEmbedder):
        super().__init__(latent_shape, recipe, embedder)
        self.register_buffer("frame_angles", None, persistent=False)
        if recipe.rope:
            head = recipe.block.width // recipe.block.num_heads
            self.angles = rotary_table(head, self.grid[1:])
            self.frame_angles = rotary_table(head, self.grid[:1])

    def make_patch_embed(self, recipe: Recipe) -> PatchEmbed:
        """Patches of a frame (C, Y, X)."""
        return PatchEmbed(self.in_channels, self.width, self.patch[1:])

    def make_block(self, number: int, options: BlockOptions) -> LatteBlock:
        """Even numbers attend over space, odd ones over time."""
        return LatteBlock(options, TIME if number % 2 else SPACE)

    def all_channels(self, x: Tensor, t: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, F, Y, X), t (B,) or (B, F N), mask (B, F N) -> (B, C or 2 C, F, Y, X)."""
        self._check(tuple(x.shape[1:]))
        frames = x.shape[2]
        tokens = self.x_embedder(rearrange(x, "b c f y x -> (b f) c y x")) + self.pos_embed
        tokens = tokens.unflatten(0, (len(x), frames))
        c = self.embed_condition(t, condition)
        if isinstance(c, tuple):
            c = c[0], c[1].unflatten(1, (frames, -1))
        else:
            c = c[:, None, None] if c.ndim == 2 else c.unflatten(1, (frames, -1))
        mask = None if mask is None else mask.unflatten(1, (frames, -1))
        along = None if self.frame_angles is None else self.frame_angles[:frames]
        for number, block in enumerate(self.blocks):
            if number == 1:
                tokens = tokens + self.temp_embed[:, :frames, None]
            tokens = self._run(block, tokens, c, along if number % 2 else self.angles, mask)
        return rearrange(self.final_layer(tokens, c).flatten(1, 2), self._layout.unpatch, **self._sizes(x))

"""SiT (arXiv 2401.08740) over a grid of one, two or three axes, with the names and numerics of the published weights.

The condition is a component: an `embedder` that makes a vector of it. Audio and motion have a grid of frames, images of
rows and columns, video of frames, rows and columns. Over three axes the positions of a frame are those of an image
model, and each frame adds a code of its number.

Letters: B batch, C channels, *grid latent axes, P patch, N tokens (last axis fastest), F frames of tokens, D width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.nets.layers import AdaLNZeroBlock, BlockOptions, FinalLayer, TimestepEmbedder, rotary_table, sincos_grid
from core.nets.routing import put_tokens, take_tokens

if TYPE_CHECKING:
    from core.conditioning.contract import EmbeddedConditioning

log = logging.getLogger(__name__)
SIZES = {  # depth, width, heads
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
MAX_DEPTH = 10_000  # blocks; 28 are many
MAX_RATIO = 100  # of the width inside an MLP to that outside; 4 is usual
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
MakeEmbedder = Callable[[int], nn.Module]  # width -> condition (B, ...) to (B, width); has `initialize()`


@dataclass(frozen=True)
class SiTConfig:
    """A SiT by published size (S, B, L, XL) or, with size null, by depth, hidden_size and num_heads.

    patch_size is that of every axis, or a list of each. learn_sigma doubles the output channels and throws half
    away, as in the published checkpoints; it adds (numbers of a patch) C (width + 1) parameters and must match the
    checkpoint that is loaded. null_label keeps the row of
    the unconditional pass, needed for guidance. qk_norm, swiglu and rope are newer recipes, which
    published weights do not have.
    """

    token_routing: ClassVar[bool] = True  # whether tokens may skip blocks
    patch_size: int | list[int] = 2
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
        if min([self.patch_size] if isinstance(self.patch_size, int) else [*self.patch_size, len(self.patch_size)]) < 1:
            raise ValueError(f"backbone.patch_size is {self.patch_size}; it must be at least 1")
        if self.size is None and None in free:
            raise ValueError("backbone.size is null: give backbone.depth, backbone.hidden_size and backbone.num_heads")
        if self.size is not None and self.size not in SIZES:
            raise ValueError(f"backbone.size is {self.size!r}; allowed: {list(SIZES)} or null")
        if self.size is not None and free != (None, None, None):
            raise ValueError(f"backbone.size is {self.size!r}; depth, hidden_size and num_heads must then be null")
        if self.size is None and min(free) < 1:
            raise ValueError(f"backbone.depth, hidden_size and num_heads are {free}; each must be at least 1")
        if self.size is None and self.depth > MAX_DEPTH:
            raise ValueError(f"backbone.depth is {self.depth}; it must be {MAX_DEPTH} at most")
        if self.size is None and self.hidden_size % self.num_heads:
            heads = f"backbone.num_heads {self.num_heads}"
            raise ValueError(f"backbone.hidden_size {self.hidden_size} does not divide by {heads}")
        if not 0 < self.mlp_ratio <= MAX_RATIO:
            raise ValueError(f"backbone.mlp_ratio is {self.mlp_ratio}; it must be above 0, and {MAX_RATIO} at most")

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Depth, width and number of heads."""
        return (self.depth, self.hidden_size, self.num_heads) if self.size is None else SIZES[self.size]

    @property
    def num_blocks(self) -> int:
        """Blocks that an alignment can name, from 1."""
        return self.dimensions[0]

    @property
    def recipe(self) -> Recipe:
        """What a network is built from."""
        depth, width, heads = self.dimensions
        block = BlockOptions(width, heads, self.mlp_ratio, self.qk_norm, self.swiglu)
        return Recipe(depth, self.patch_size, block, self.learn_sigma, self.rope)

    def build(self, latent_shape: tuple[int, ...], conditioning: EmbeddedConditioning) -> SiT:
        """The network for latents (C, ...) under a conditioning.

        It takes shorter grids too, and samples of which some tokens are padding, by a mask (B, N).
        """
        return SiT(latent_shape, self.recipe, lambda width: conditioning.embedder(width, self.null_label))


@dataclass(frozen=True)
class Recipe:
    """Everything about a SiT but the latents and the condition.

    learned_frames: over three axes, the code of frames is trained and begins at zero: frames are alike at first.
    """

    depth: int
    patch_size: int | Sequence[int]
    block: BlockOptions
    learn_sigma: bool = False
    rope: bool = False
    learned_frames: bool = False


class SiT(nn.Module):
    """Scalable interpolant transformer: patches, adaLN-zero blocks, patches back.

    latent_shape  (C, *grid), each axis a multiple of the patch
    recipe        `SiTConfig.recipe`; learn_sigma: 2 C output channels of which the first C are returned
    embedder      makes the module that turns conditions into vectors

    The axis of frames is the only axis, or the first of three. Along it x may be shorter than `latent_shape` says: its
    tokens have the first positions. `frame_tokens` is the number of tokens of a frame, None on a grid of two axes.
    """

    def __init__(self, latent_shape: tuple[int, ...], recipe: Recipe, embedder: MakeEmbedder):
        super().__init__()
        channels, *size = latent_shape
        width, patch = recipe.block.width, patch_of(recipe.patch_size, tuple(size))
        self.input_size, self.patch, self.in_channels = tuple(size), patch, channels
        self.grid = tuple(side // of_patch for side, of_patch in zip(size, patch, strict=True))
        self.num_tokens, self.width = math.prod(self.grid), width
        self.frame_tokens = None if len(size) == 2 else math.prod(self.grid[1:])
        self.token_size = channels * math.prod(patch)
        self.out_channels = channels * (2 if recipe.learn_sigma else 1)
        self.x_embedder = self.make_patch_embed(recipe)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = embedder(width)
        self._place(recipe)
        self.blocks = nn.ModuleList(self.make_block(number, recipe.block) for number in range(recipe.depth))
        self.final_layer = FinalLayer(width, math.prod(patch) * self.out_channels)
        self.checkpoint_blocks = self.two_times = False
        self.routed: tuple[int, int] | None = None  # first and last block, from 1, that see the tokens `kept` alone
        self._layout = _Layout.of(len(size))
        self.initialize()

    def make_patch_embed(self, recipe: Recipe) -> nn.Module:
        """What makes tokens (B, N, D) of latents."""
        return PatchEmbed(self.in_channels, self.width, self.patch)

    def make_block(self, number: int, options: BlockOptions) -> nn.Module:
        """The block that is `number`, from 0."""
        return AdaLNZeroBlock(options)

    def _place(self, recipe: Recipe) -> None:
        """The codes of positions: `pos_embed`, and over three axes `temp_embed` (1, F, D); the angles of `rope`."""
        inside = self.grid[1:] if len(self.grid) == 3 else self.grid
        self.register_buffer("pos_embed", sincos_grid(self.width, inside)[None])
        if inside != self.grid:
            code = sincos_grid(self.width, self.grid[:1])[None]
            if recipe.learned_frames:
                self.temp_embed = nn.Parameter(torch.zeros_like(code))
            else:
                self.register_buffer("temp_embed", code)
        angles = rotary_table(self.width // recipe.block.num_heads, self.grid) if recipe.rope else None
        self.register_buffer("angles", angles, persistent=False)

    def initialize(self) -> None:
        """DiT's initialisation: Xavier for linear maps, 0.02 for embeddings, zero for every gate and for the output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        self.y_embedder.initialize()
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        zeroed = [block.adaLN_modulation[1] for block in self.blocks]
        for layer in [*zeroed, self.final_layer.adaLN_modulation[1], self.final_layer.linear]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def fitted_state(self, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
        """Saved weights in which a fixed code of another number of frames is this network's own, which is told."""
        own, theirs = getattr(self, "temp_embed", None), state.get("temp_embed")
        if own is None or theirs is None or own.shape == theirs.shape or isinstance(own, nn.Parameter):
            return state
        count = min(own.shape[1], theirs.shape[1])
        heads = [each[:, :count].detach().cpu().float() for each in (own, theirs)]
        if heads[0].shape != heads[1].shape or not torch.allclose(*heads, atol=0.01):  # it was trained
            return state
        log.warning(
            "%s is of %d frames, the backbone of %d: their code is made anew", source, theirs.shape[1], own.shape[1]
        )
        return {**state, "temp_embed": own}

    def expand(self, values: Tensor, x: Tensor) -> Tensor:
        """Values (B,) as (B, 1, ...); values (B, N) on the latent numbers of their patches, (B, 1, *grid)."""
        if values.ndim == 1:
            return values.reshape(-1, *[1] * (x.ndim - 1))
        return repeat(values, self._layout.expand, **self._sizes(x))

    def parts(self) -> list[nn.Module]:
        """The blocks and the final layer."""
        return [*self.blocks, self.final_layer]

    def patches(self, x: Tensor) -> Tensor:
        """x (B, C, *grid) -> the numbers of each token's patch (B, N, P ... P C), as the last layer orders them."""
        return rearrange(
            x, self._layout.patch, **{name: side for name, side in self._sizes(x).items() if name[0] == "p"}
        )

    @property
    def output_layer(self) -> FinalLayer:
        """What makes the numbers of their patches of the last block's tokens."""
        return self.final_layer

    def as_latents(self, values: Tensor, x: Tensor) -> Tensor:
        """What `output_layer` made, (B, ..., numbers) for the tokens of x (B, C, *grid) -> a prediction as x."""
        return rearrange(values.flatten(1, -2), self._layout.unpatch, **self._sizes(x))[:, : self.in_channels]

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, mask: Tensor | None = None, *kept: Tensor) -> Tensor:
        """x (B, C, *grid), t (B,) or (B, N), condition (B, ...), mask (B, N), kept (B, K) -> (B, C, *grid).

        kept: the tokens that blocks `routed` see; the others skip them.
        """
        return self.all_channels(x, t, condition, mask, *kept)[:, : self.in_channels]

    def all_channels(
        self, x: Tensor, t: Tensor, condition: Tensor, mask: Tensor | None = None, kept: Tensor | None = None
    ) -> Tensor:
        """The output of the last layer (B, C or 2 C, *grid), before `learn_sigma`'s second half is dropped."""
        self._check(tuple(x.shape[1:]))
        tokens = self.x_embedder(x)
        count = tokens.shape[1]
        tokens = tokens + self._positions(count)
        angles = None if self.angles is None else self.angles[:count]
        c = self.embed_condition(t, condition)
        first, last = (len(self.blocks) + 1, 0) if kept is None else self.routed
        seen = whole = c, angles, mask
        skipped = tokens
        for number, block in enumerate(self.blocks, start=1):
            if number == first:
                skipped, tokens, seen = tokens, take_tokens(tokens, kept), _taken(kept, *whole)
            tokens = self._run(block, tokens, *seen)
            if number == last:
                tokens, seen = put_tokens(tokens, kept, skipped), whole
        return rearrange(self.final_layer(tokens, c), self._layout.unpatch, **self._sizes(x))

    def embed_condition(self, t: Tensor, condition: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Time and condition as one vector (B, D), or one for each token (B, N, D) where t is (B, N).

        With `two_times`, where a row of t (B, N) has at most two values: both vectors (B, 2, D), and where it is the
        later one (B, N). Tokens are then not modulated one by one.
        """
        if t.ndim == 2 and self.two_times:
            both = torch.stack([t.amin(1), t.amax(1)], dim=1)
            return self.t_embedder(both) + self.y_embedder(condition)[:, None], t == both[:, 1:]
        c, label = self.t_embedder(t), self.y_embedder(condition)
        return c + (label if c.ndim == 2 else label[:, None])

    def _positions(self, count: int) -> Tensor:
        """The code (1, count, D) of the first tokens."""
        if len(self.grid) < 3:
            return self.pos_embed[:, :count]
        frames = self.temp_embed[:, : count // self.frame_tokens]
        return (frames[:, :, None] + self.pos_embed[:, None]).flatten(1, 2)

    def _check(self, found: tuple[int, ...]) -> None:
        wanted = (self.in_channels, *self.input_size)
        same = len(wanted) == len(found) and (found[0], *found[2:]) == (wanted[0], *wanted[2:])
        shorter = same and self.frame_tokens is not None and 0 < found[1] < wanted[1]
        if found != wanted and not (shorter and found[1] % self.patch[0] == 0):
            raise ValueError(f"the backbone was built for latents {wanted}, got {found}")

    def _sizes(self, x: Tensor) -> dict[str, int]:
        """Patches and numbers of a patch along each axis of x, by the layout's names."""
        sides = {f"g{axis}": x.shape[2 + axis] // patch for axis, patch in enumerate(self.patch)}
        return sides | {f"p{axis}": patch for axis, patch in enumerate(self.patch)}

    def _run(
        self,
        block: nn.Module,
        tokens: Tensor,
        c: Tensor | tuple[Tensor, Tensor],
        angles: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        run: Callable[..., Tensor] = block
        if self.checkpoint_blocks and torch.is_grad_enabled():
            run = partial(checkpoint, block, use_reentrant=False)
        return run(tokens, c, angles, mask)


def _taken(
    kept: Tensor, c: Tensor | tuple[Tensor, Tensor], angles: Tensor | None, mask: Tensor | None
) -> tuple[Tensor | tuple[Tensor, Tensor], Tensor | None, Tensor | None]:
    """What a block is given beside its tokens, for the tokens `kept` (B, K): angles become (B, 1, K, K/2)."""
    if isinstance(c, tuple):
        c = c[0], take_tokens(c[1], kept)
    elif c.ndim == 3:
        c = take_tokens(c, kept)
    angles = None if angles is None else angles[kept][:, None]
    return c, angles, None if mask is None else take_tokens(mask, kept)


@dataclass(frozen=True)
class _Layout:
    """einops patterns of a number of axes: g patches along an axis, p numbers of a patch."""

    expand: str
    unpatch: str
    patch: str

    @classmethod
    def of(cls, axes: int) -> _Layout:
        grid, patch = (" ".join(f"{letter}{axis}" for axis in range(axes)) for letter in "gp")
        sides = " ".join(f"(g{axis} p{axis})" for axis in range(axes))
        tokens, latents = f"b ({grid}) ({patch} c)", f"b c {sides}"
        return cls(f"b ({grid}) -> b 1 {sides}", f"{tokens} -> {latents}", f"{latents} -> {tokens}")


def patch_of(patch_size: int | Sequence[int], size: tuple[int, ...]) -> tuple[int, ...]:
    """The patch along each axis of latents of `size`, which it divides; raises ValueError, naming the config key."""
    patch = (patch_size,) * len(size) if isinstance(patch_size, int) else tuple(patch_size)
    if len(patch) != len(size):
        raise ValueError(
            f"backbone.patch_size is {patch_size}; needed: a number, or {len(size)}, one an axis of latents {size}"
        )
    if any(side % each for side, each in zip(size, patch, strict=True)):
        raise ValueError(f"latent size {size} does not divide by backbone.patch_size {patch_size}")
    return patch


class PatchEmbed(nn.Module):
    """Patches as tokens, a strided convolution; `patch` is their size along each axis."""

    def __init__(self, in_channels: int, width: int, patch: tuple[int, ...]):
        super().__init__()
        self.proj = CONVOLUTIONS[len(patch)](in_channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *grid) -> (B, N, D)."""
        return self.proj(x).flatten(2).transpose(1, 2)

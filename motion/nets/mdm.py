"""MDM (arXiv 2209.14916): a transformer encoder over the frames of a motion, behind one token of time and condition.

Names and numerics are those of the published weights. Every frame is a token; the first token is an embedding of the
noise level to which that of a text or an action is added; all have fixed sines as positions. Blocks normalise behind
their residual. What they return has the first token too, which `prefix_tokens` tells whoever listens to them.

Letters: B batch, C numbers of a frame, F frames, N tokens = 1 + F, D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.draws import Random
from core.nets.dropout import draw_seeds, drop, seeds_of_part

TABLES = ("sequence_pos_encoder.pe", "embed_timestep.sequence_pos_encoder.pe")  # of positions, made here
TEXT_ENCODER = "clip_model."  # frozen, in some published files


@dataclass(frozen=True)
class Recipe:
    """Everything about an MDM but the motion and the condition.

    mask_frames: padded frames are hidden from the others; the published default shows them
    """

    depth: int = 8
    width: int = 512
    num_heads: int = 4
    feedforward: int = 1024
    dropout: float = 0.1
    mask_frames: bool = False


class MDM(nn.Module):
    """MDM over latents (C, F); x may have fewer frames.

    texts    numbers of a text's embedding, 0 without texts: its linear map is added to the time; no text is a row of
             zeros, of which the map's bias remains
    actions  number of classes, 0 without: a learned vector is added; the class `actions` is none, and adds nothing
    """

    prefix_tokens = 1
    frame_tokens = 1

    def __init__(self, latent_shape: tuple[int, ...], recipe: Recipe, *, texts: int = 0, actions: int = 0):
        super().__init__()
        channels, frames = latent_shape
        self.latent_shape, self.grid, self.num_tokens = (channels, frames), (frames,), frames
        self.width, self.token_size, self.recipe = recipe.width, channels, recipe
        self.input_process = InputProcess(channels, recipe.width)
        self.embed_timestep = EmbedTimestep(recipe.width)
        self.embed_text = nn.Linear(texts, recipe.width) if texts else None
        self.embed_action = EmbedAction(actions, recipe.width) if actions else None
        self.seqTransEncoder = Encoder(recipe)
        self.output_process = OutputProcess(recipe.width, channels)
        self.register_buffer("positions", sines(torch.arange(1 + frames), recipe.width), persistent=False)
        self.checkpoint_blocks = False
        self.seeds: Tensor | None = None

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers of the encoder."""
        return self.seqTransEncoder.layers

    def parts(self) -> list[nn.Module]:
        """The blocks and the map back to frames."""
        return [*self.blocks, self.output_process]

    def expand(self, values: Tensor, x: Tensor) -> Tensor:
        """Values (B,) as (B, 1, 1), values (B, F) as (B, 1, F)."""
        return values.reshape(len(values), 1, -1)

    def patches(self, x: Tensor) -> Tensor:
        """x (B, C, F) -> (B, F, C)."""
        return x.mT

    def draw(self, random: Random, rows: int) -> None:
        """Take what the next forward passes in training drop from the step's streams."""
        self.seeds = draw_seeds(random, rows) if self.recipe.dropout else None

    def fitted_state(self, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
        """Published weights without what is not trained: the tables of positions, and CLIP in some files."""
        return {
            name: value for name, value in state.items() if name not in TABLES and not name.startswith(TEXT_ENCODER)
        }

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, F), t (B,), condition (B, texts) or (B,), mask (B, F) -> (B, C, F)."""
        self._check(x, t)
        tokens = torch.cat([self.prefix(t, condition)[:, None], self.input_process(x.mT)], dim=1)
        seeds = self._seeds_of(x)
        tokens = drop(tokens + self.positions[: tokens.shape[1]], self.recipe.dropout, seeds, 0)
        keys = None if mask is None or not self.recipe.mask_frames else F.pad(mask.bool(), (1, 0), value=True)
        for number, block in enumerate(self.blocks, start=1):
            tokens = self._run(block, tokens, keys, seeds_of_part(seeds, number))
        return self.output_process(tokens[:, 1:]).mT

    @property
    def output_layer(self) -> OutputProcess:
        """What makes frames of the last block's tokens."""
        return self.output_process

    def as_latents(self, values: Tensor, x: Tensor) -> Tensor:
        """What `output_layer` made (B, F, C) as x (B, C, F)."""
        return values.mT

    def prefix(self, t: Tensor, condition: Tensor) -> Tensor:
        """The first token (B, D), before its position is added."""
        token = self.embed_timestep(t)
        for embed in (self.embed_text, self.embed_action):
            if embed is not None:
                token = token + embed(condition.to(token.dtype) if condition.is_floating_point() else condition)
        return token

    def _check(self, x: Tensor, t: Tensor) -> None:
        channels, frames = self.latent_shape
        if x.ndim != 3 or x.shape[1] != channels or not 0 < x.shape[2] <= frames:
            raise ValueError(f"the backbone was built for latents {self.latent_shape}, got {tuple(x.shape[1:])}")
        if t.ndim != 1:
            raise ValueError("the backbone mdm has one token of time for a sample; allowed: objective.time_per=sample")

    def _seeds_of(self, x: Tensor) -> Tensor | None:
        """Seeds (B,) of dropout, None where nothing is dropped; without `draw` they come from the global generator."""
        if not (self.training and self.recipe.dropout):
            return None
        if self.seeds is not None and len(self.seeds) == len(x):
            return self.seeds
        return torch.randint(-(2**31), 2**31, (len(x),), dtype=torch.int32, device=x.device)

    def _run(self, block: nn.Module, tokens: Tensor, keys: Tensor | None, seeds: Tensor | None) -> Tensor:
        run: Callable[..., Tensor] = block
        if self.checkpoint_blocks and torch.is_grad_enabled():
            run = partial(checkpoint, block, use_reentrant=False)
        return run(tokens, keys, seeds)


def sines(numbers: Tensor, width: int) -> Tensor:
    """Sines in the even and cosines in the odd columns, (..., D) float32, of numbers (...): positions, or times."""
    if width % 2:
        raise ValueError(f"backbone.hidden_size is {width}; it must be even, for sines and cosines")
    rates = torch.exp(torch.arange(0, width, 2, device=numbers.device).float() * (-math.log(10000.0) / width))
    angles = numbers.float()[..., None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class InputProcess(nn.Module):
    """A frame as a token."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.poseEmbedding = nn.Linear(channels, width)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, F, C) -> (B, F, D)."""
        return self.poseEmbedding(frames)


class OutputProcess(nn.Module):
    """A token as a frame."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.poseFinal = nn.Linear(width, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, F, D) -> (B, F, C)."""
        return self.poseFinal(tokens)


class EmbedTimestep(nn.Module):
    """The number of a noise level, or a flow time, as a vector: its sines, then Linear-SiLU-Linear."""

    def __init__(self, width: int):
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, D)."""
        first = self.time_embed[0]
        return self.time_embed(sines(t, first.in_features).to(first.weight.dtype))


class EmbedAction(nn.Module):
    """A learned vector for each class; the class behind the last one is none, a vector of zeros."""

    def __init__(self, actions: int, width: int):
        super().__init__()
        self.action_embedding = nn.Parameter(torch.randn(actions, width))

    def forward(self, labels: Tensor) -> Tensor:
        """(B,) int64 -> (B, D)."""
        return F.pad(self.action_embedding, (0, 0, 0, 1))[labels]


class Encoder(nn.Module):
    """The list of blocks under its published name; as there, all begin with the same weights."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.layers = nn.ModuleList(Block(recipe) for _ in range(recipe.depth))
        for block in self.layers[1:]:
            block.load_state_dict(self.layers[0].state_dict())


class Block(nn.Module):
    """Attention and a feed-forward part, each added to its input and then normalised; GELU in its exact form."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        width, hidden = recipe.width, recipe.feedforward
        self.dropout = recipe.dropout
        self.self_attn = SelfAttention(width, recipe.num_heads, recipe.dropout)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, keys: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
        """x (B, N, D); keys (B, N) bool, true where a token may be attended to; seeds (B,) of dropout -> (B, N, D)."""
        x = self.norm1(x + drop(self.self_attn(x, keys, seeds), self.dropout, seeds, 1))
        hidden = drop(F.gelu(self.linear1(x)), self.dropout, seeds, 2)
        return self.norm2(x + drop(self.linear2(hidden), self.dropout, seeds, 3))


class SelfAttention(nn.Module):
    """Attention with the names of nn.MultiheadAttention; in training some of its weights are dropped."""

    def __init__(self, width: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, keys: Tensor | None, seeds: Tensor | None) -> Tensor:
        """x (B, N, D); keys (B, N) bool, true where a token may be attended to; seeds (B,) -> (B, N, D)."""
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = rearrange(projected, "b n (three h k) -> three b h n k", three=3, h=self.num_heads)
        allowed = None if keys is None else keys[:, None, None, :]
        if seeds is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        else:
            scores = q @ k.mT / math.sqrt(q.shape[-1])
            scores = scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)
            out = drop(scores.softmax(-1), self.dropout, seeds, 0).to(v.dtype) @ v
        return self.out_proj(rearrange(out, "b h n k -> b n (h k)"))

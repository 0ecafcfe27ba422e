"""Wan's transformer with adapters as a backbone of ours: its blocks can be listened to, its time is our flow time.

The one place where conventions meet: Wan counts noise, sigma = 1 - t, is given 1000 sigma, and returns noise - data.

Letters: B batch, Z latent channels, (T, Y, X) latent frames, rows, columns, N tokens (columns fastest), L tokens of a
text, E numbers of one.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from core.schema import FREE
from video.wan.files import Expert, WanFiles
from video.wan.lora import LoRAConfig, add_adapters, fill, read_for
from video.wan.texts import WanTexts

log = logging.getLogger(__name__)

TIMESTEPS = 1000  # of pure noise


@dataclass(frozen=True)
class WanConfig:
    """A Wan transformer that is fine-tuned by LoRA.

    expert        only: Wan 2.1, and 2.2 5B; high_noise or low_noise: that expert of Wan 2.2, on its own times
    dtype         of the frozen weights; norms, modulation, the embedding of times, and adapters are float32 in both
    other_expert  of Wan 2.2, for samples: load the expert that is not trained too; else the trained one makes them all
    """

    token_groups: ClassVar[bool] = False
    output_layer: ClassVar[bool] = False
    expert: Expert = "only"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    other_expert: bool = field(default=True, metadata=FREE)
    lora: LoRAConfig = field(default_factory=LoRAConfig)

    def build(self, files: WanFiles, latent_shape: tuple[int, ...], texts: WanTexts) -> WanBackbone:
        """The network with its adapters for latents (Z, T, Y, X); ValueError for a directory that does not fit."""
        time_range = files.time_range(self.expert)
        transformer = files.transformer(self.expert, self.dtype)
        add_adapters(transformer, self.lora)
        if self.lora.start is not None:
            source = f"backbone.lora.start {self.lora.start!r}"
            fill(transformer, read_for(self.lora.start, transformer, source), self.lora, source)
        backbone = WanBackbone(transformer, latent_shape, texts.table(), time_range)
        if self.expert != "only" and self.other_expert:
            other = "low_noise" if self.expert == "high_noise" else "high_noise"
            backbone.set_other(files.transformer(other, self.dtype))
        return backbone


class WanBackbone(nn.Module):
    """A WanTransformer3DModel; fulfils `core.contracts.Backbone`.

    latent_shape  (Z, T, Y, X), whole patches
    texts         conditions (B,) -> tokens (B, L, E)
    time_range    flow times (low, high) that it is trained on
    """

    def __init__(
        self,
        transformer: nn.Module,
        latent_shape: tuple[int, ...],
        texts: nn.Module,
        time_range: tuple[float, float] = (0.0, 1.0),
    ):
        super().__init__()
        config = transformer.config
        channels, *sides = latent_shape
        self.patch_size = tuple(config.patch_size)
        if channels != config.in_channels or any(
            side % patch for side, patch in zip(sides, self.patch_size, strict=True)
        ):
            raise ValueError(
                f"latents {tuple(latent_shape)} (channels, frames, rows, columns) do not fit Wan's transformer: it "
                f"takes {config.in_channels} channels in patches of {self.patch_size} (data.size)"
            )
        self.grid = tuple(side // patch for side, patch in zip(sides, self.patch_size, strict=True))
        self.num_tokens, self.width = math.prod(self.grid), config.num_attention_heads * config.attention_head_dim
        self.token_size, self.time_range = channels * math.prod(self.patch_size), time_range
        self.frame_tokens = math.prod(self.grid[1:])
        self.transformer, self.texts = with_full_times(transformer), texts
        self._other: list[nn.Module] = []  # no module of this one: neither listened to nor saved

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks."""
        return self.transformer.blocks

    @property
    def checkpoint_blocks(self) -> bool:
        """Whether each block is computed again in backward."""
        return self.transformer.gradient_checkpointing

    @checkpoint_blocks.setter
    def checkpoint_blocks(self, wanted: bool) -> None:
        if wanted:
            self.transformer.enable_gradient_checkpointing()
        else:
            self.transformer.disable_gradient_checkpointing()

    def set_other(self, transformer: nn.Module) -> None:
        """The expert that takes the times outside of the range, in samples."""
        self._other = [with_full_times(transformer)]

    def parts(self) -> list[nn.Module]:
        """The blocks."""
        return list(self.blocks)

    def expand(self, values: Tensor, x: Tensor) -> Tensor:
        """Values (B,) as (B, 1, 1, 1, 1); values (B, N) on the latent numbers of their patches, (B, 1, T, Y, X)."""
        if values.ndim == 1:
            return values.reshape(-1, *[1] * (x.ndim - 1))
        sizes = dict(zip(("t", "y", "x", "p", "q", "r"), (*self.grid, *self.patch_size), strict=True))
        return repeat(values, "b (t y x) -> b 1 (t p) (y q) (x r)", **sizes)

    def patches(self, x: Tensor) -> Tensor:
        """x (B, Z, T, Y, X) -> the numbers of each token's patch (B, N, token_size), as the last layer orders them."""
        sizes = dict(zip("pqr", self.patch_size, strict=True))
        return rearrange(x, "b z (t p) (y q) (x r) -> b (t y x) (p q r z)", **sizes)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, Z, T, Y, X), t (B,) or (B, N), condition (B,) -> velocity data - noise (B, Z, T, Y, X), float32."""
        if mask is not None:
            raise ValueError("Wan attends to every token of a clip; needed: data.short=drop, no clip is padded")
        text = self.texts(condition)
        if self.training or not self._other:
            return velocity(self.transformer, x, t, text)
        return self._by_expert(x, t, text)

    def _by_expert(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Each row (B,) by the expert of its time: at the boundary itself that of high noise, as in diffusers."""
        low, high = self.time_range
        own = t <= high if low == 0 else t > low
        own = own if own.ndim == 1 else own.all(1)
        out = torch.empty_like(x, dtype=torch.float32)
        for network, rows in ((self.transformer, own), (self._other[0].to(x.device), ~own)):
            if rows.any():
                out[rows] = velocity(network, x[rows], t[rows], text[rows])
        return out


def velocity(transformer: nn.Module, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """Our velocity, data - noise, at flow time t: x (B, Z, T, Y, X), t (B,) or (B, N), text (B, L, E)."""
    dtype = transformer.patch_embedding.weight.dtype
    noise_minus_data = transformer(x.to(dtype), TIMESTEPS * (1 - t), text.to(dtype), return_dict=False)[0]
    return -noise_minus_data.float()


class FullPrecision(nn.Module):
    """A module whose arithmetic autocast does not reach."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """The module's output, in the type of its weights."""
        if not torch.amp.is_autocast_available(x.device.type):  # the meta device
            return self.module(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.module(x)


def with_full_times(transformer: nn.Module) -> nn.Module:
    """The transformer, whose embedding of times stays float32 under autocast, as in diffusers' pipeline."""
    embedder = transformer.condition_embedder
    if not isinstance(embedder.time_embedder, FullPrecision):
        embedder.time_embedder = FullPrecision(embedder.time_embedder)
    return transformer

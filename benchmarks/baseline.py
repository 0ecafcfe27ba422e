"""A plain SiT training loop, as one writes it first: the yardstick of our own step.

It does the arithmetic of ours, over the same parameters, without our devices: each operation of the block on its own
(no fused multiply-add, time frequencies computed anew), AdamW as PyTorch makes it by default (parameter by parameter on
a CPU, with foreach on a GPU), an EMA that walks over the named parameters with mul_ and add_, no torch.compile.
Attention is scaled_dot_product_attention, as in ours. Not in it: LayerSync, and, where nothing is clipped, the gradient
norm that our step takes and checks.

Letters: B batch, C channels, Y X latent rows and columns, P patch, N tokens, D width, H heads, K width of a head.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor, nn

from benchmarks.models import Work, build_backbone, build_batch
from core.nets.layers import AdaLNZeroBlock, Attention
from core.precision import autocast
from image.backbone import SiT


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, D), shift and scale (B, D)."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def time_features(t: Tensor, size: int = 256, max_period: float = 10000.0) -> Tensor:
    """t (B,) -> (B, size), cosines then sines."""
    half = size // 2
    rates = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * rates[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def attend(attention: Attention, x: Tensor) -> Tensor:
    """Self-attention of x (B, N, D)."""
    B, N, D = x.shape
    heads = attention.num_heads
    q, k, v = attention.qkv(x).reshape(B, N, 3, heads, D // heads).permute(2, 0, 3, 1, 4).unbind(0)
    out = F.scaled_dot_product_attention(q, k, v)
    return attention.proj(out.transpose(1, 2).reshape(B, N, D))


def run_block(block: AdaLNZeroBlock, x: Tensor, c: Tensor) -> Tensor:
    """x (B, N, D), c (B, D) -> (B, N, D)."""
    shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(c).chunk(6, dim=1)
    x = x + gate1.unsqueeze(1) * attend(block.attn, modulate(block.norm1(x), shift1, scale1))
    return x + gate2.unsqueeze(1) * block.mlp(modulate(block.norm2(x), shift2, scale2))


class PlainSiT(nn.Module):
    """The forward pass of `SiT` written plainly, over the modules of one; no masks, no options of newer recipes."""

    def __init__(self, sit: SiT):
        super().__init__()
        self.sit = sit

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x (B, C, Y, X), t (B,), labels y (B,) -> (B, C, Y, X)."""
        sit = self.sit
        tokens = sit.x_embedder.proj(x).flatten(2).transpose(1, 2) + sit.pos_embed
        c = sit.t_embedder.mlp(time_features(t)) + sit.y_embedder.embedding_table(y)
        for block in sit.blocks:
            tokens = run_block(block, tokens, c)
        last = sit.final_layer
        shift, scale = last.adaLN_modulation(c).chunk(2, dim=1)
        patches = last.linear(modulate(last.norm_final(tokens), shift, scale))
        return self.unpatchify(patches)[:, : sit.in_channels]

    def unpatchify(self, patches: Tensor) -> Tensor:
        """(B, N, P P C) -> (B, C, Y, X)."""
        rows, columns = self.sit.grid
        p, channels = self.sit.patch[0], self.sit.out_channels
        grid = patches.reshape(len(patches), rows, columns, p, p, channels)
        return torch.einsum("nyxpqc->ncypxq", grid).reshape(len(patches), channels, rows * p, columns * p)


class BaselineStep:
    """One optimizer step of the plain loop; `mark` is called after forward, backward and update."""

    segments = ("forward", "backward", "update")

    def __init__(self, work: Work, device: torch.device):
        self.preset, self.precision = work.preset, work.precision
        self.model = PlainSiT(build_backbone(work.preset, work.seed, device)).train()
        self.average = deepcopy(self.model).requires_grad_(False).eval()
        self.batch = build_batch(work, device)
        self.running_loss = 0.0
        config = self.preset.optimizer
        options = {"betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay}
        self.adamw = torch.optim.AdamW(self.model.parameters(), lr=config.lr, **options)

    def __call__(self, mark: Callable[[], None]) -> None:
        """One step."""
        loss = self.loss()
        mark()
        self.adamw.zero_grad()
        loss.backward()
        mark()
        if self.preset.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.preset.optimizer.clip_norm)
        self.adamw.step()
        self.update_average()
        self.running_loss += loss.item()  # for the log, in every step, as such loops have it
        mark()

    def loss(self) -> Tensor:
        """Flow matching with a linear path and velocity prediction, labels dropped with probability 0.1."""
        data, labels = self.batch.media, self.batch.condition
        dropped = torch.rand(len(labels), device=labels.device) < 0.1
        labels = torch.where(dropped, self.preset.num_classes, labels)
        noise, t = torch.randn_like(data), torch.rand(len(data), device=data.device)
        along = t.view(-1, 1, 1, 1)
        x_t, target = along * data + (1 - along) * noise, data - noise
        with autocast(data.device, self.precision):
            prediction = self.model(x_t, t, labels)
        return ((prediction.float() - target) ** 2).flatten(1).mean(1).mean()

    @torch.no_grad()
    def update_average(self) -> None:
        """average <- decay average + (1 - decay) weights, a parameter at a time."""
        averages = OrderedDict(self.average.named_parameters())
        for name, parameter in OrderedDict(self.model.named_parameters()).items():
            averages[name].mul_(self.preset.ema_decay).add_(parameter, alpha=1 - self.preset.ema_decay)

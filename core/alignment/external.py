"""Tokens of a frozen encoder of clean media as the target: REPA (arXiv 2410.06940) and iREPA (arXiv 2512.10794).

A block's tokens, through a head, learn the encoder's tokens of the same sample: minus the mean cosine. REPA's head
works token by token; iREPA's is one convolution over the grid of tokens, and its targets are normalised over space.

Letters: B batch, N tokens, D width, E features of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor, nn

from core.alignment.contract import Alignment, AlignmentTerms, Forward, Needs, check_weight, config_keys, listen
from core.alignment.teacher import Teacher
from core.contracts import FeatureEncoder
from core.flow.path import check_choice, check_used
from core.nets.layers import TRAINING_FACTOR
from layersync.blocks import Layer
from layersync.schedule import WeightSchedule
from layersync.tokens import hide_padding, masked_mean, token_cosine

HeadKind = Literal["mlp", "conv"]
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class ExternalConfig:
    """Options of REPA and iREPA.

    layer      block number from 1, or module name; REPA: 4 of 12 blocks, 8 of 24 and 28
    encoder    kind:folder of weights; the kinds are the domain's, such as dinov2; of a cache, the one that it has
    head       mlp: three linear maps with SiLU, `width` inside; conv: one convolution of 3 along each axis of the grid
    normalise  null: targets as they are; a number a: (y - a mean) / deviation over a sample's tokens, of each feature
    weight     of minus the mean cosine; REPA 0.5, iREPA 1.0
    """

    layers_key: ClassVar[str] = "alignment.layer"
    layer: int | str
    encoder: str
    head: HeadKind = "mlp"
    normalise: float | None = None
    width: int = 2048
    weight: float = 0.5
    schedule: WeightSchedule = field(default_factory=WeightSchedule)

    def __post_init__(self) -> None:
        check_weight(self.weight)
        check_choice("alignment.head", self.head, HeadKind)
        kind, _, folder = self.encoder.partition(":")
        if not kind or not folder:
            raise ValueError(f"alignment.encoder is {self.encoder!r}; needed: kind:folder, such as dinov2:weights")
        check_used(self, "alignment", ("width",), None if self.head == "mlp" else f"alignment.head is {self.head!r}")
        if self.width < 1:
            raise ValueError(f"alignment.width is {self.width}; it must be at least 1")
        if self.normalise is not None and not math.isfinite(self.normalise):
            raise ValueError(f"alignment.normalise is {self.normalise}; needed: a finite number, or null")

    @property
    def layers(self) -> list[Layer]:
        """The one layer."""
        return [self.layer]

    @property
    def needs(self) -> Needs:
        """The encoder."""
        return Needs(features=(self.encoder,))

    def build(self, model: nn.Module, encoders: Callable[[str], FeatureEncoder]) -> External:
        """The method installed on `model`; `encoders` makes an encoder of its name, ValueError for a wrong folder."""
        with config_keys():
            encoder = encoders(self.encoder)
        return External(model, self, encoder)


class ConvolutionHead(nn.Module):
    """One convolution of 3 along each axis of the grid, with zeros around it."""

    def __init__(self, width: int, features: int, axes: int):
        super().__init__()
        self.projection = CONVOLUTIONS[axes](width, features, 3, padding=1)

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """(B, N, D) of tokens on a grid, the last axis fastest -> (B, N, E)."""
        return self.projection(tokens.mT.unflatten(-1, grid)).flatten(2).mT


class MLPHead(nn.Sequential):
    """Linear-SiLU-Linear-SiLU-Linear."""

    def __init__(self, width: int, features: int, hidden: int):
        maps = nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, features)
        super().__init__(*maps)

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """(B, N, D) -> (B, N, E), each token by itself."""
        return super().forward(tokens)


class External(Alignment):
    """One layer's tokens, a head, and the encoder, which no gradient reaches."""

    def __init__(self, model: nn.Module, config: ExternalConfig, encoder: FeatureEncoder):
        self.grid = tuple(getattr(model, "grid", (model.num_tokens,)))
        if config.head == "conv":
            head: nn.Module = ConvolutionHead(model.width, encoder.width, len(self.grid))
        else:
            head = MLPHead(model.width, encoder.width, config.width)
        super().__init__(listen(model, [config.layer]), {"features": head})
        self.config, self.encoder = config, encoder

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """Minus the mean cosine of real tokens with the encoder's of the clean media, on the backbone's grid."""
        (tokens,) = self.hooks.take().values()
        mask, grid = forward.batch.mask, (tokens.shape[1] // math.prod(self.grid[1:]), *self.grid[1:])
        projected = self.heads["features"](hide_padding(tokens, mask).float(), grid)
        target = tokens_on_grid(self.encoder(forward.batch), grid)
        if self.config.normalise is not None:
            target = normalise_tokens(target, self.config.normalise, mask)
        cosine = masked_mean(token_cosine(hide_padding(projected, mask), hide_padding(target, mask)), mask)
        weight = self.config.weight * self.config.schedule.factor(forward.step)
        name = f"{self.config.layer}->{self.config.encoder.partition(':')[0]}"
        return AlignmentTerms(-weight * cosine, {name: cosine.detach().clamp(-1, 1)})

    def extra_flops(self, forward: int, num_tokens: int) -> int:
        """The head, and a pass of the encoder."""
        weights = sum(each.numel() for each in self.heads["features"].parameters() if each.ndim > 1)
        return TRAINING_FACTOR * 2 * num_tokens * weights + self.encoder.flops


def tokens_on_grid(features: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Features (B, E, *any grid) as tokens (B, N, E) float32 of `grid`.

    Where the grids differ a token gets the mean of all cells of the other grid that it overlaps (adaptive pooling).
    Raises ValueError for another number of axes.
    """
    if features.ndim != 2 + len(grid):
        raise ValueError(
            f"alignment.encoder gives features on {features.ndim - 2} axes, the backbone's tokens have {len(grid)}"
        )
    features = features.float()
    if tuple(features.shape[2:]) != grid:
        features = F.interpolate(features, size=grid, mode="area")
    return features.flatten(2).mT


def normalise_tokens(tokens: Tensor, share: float, mask: Tensor | None = None) -> Tensor:
    """(y - share mean) / (deviation + 1e-6) of y (B, N, E) over the real tokens of a sample; deviation with n - 1."""
    real = torch.ones_like(tokens[..., :1]) if mask is None else mask[..., None].to(tokens.dtype)
    count = real.sum(1, keepdim=True)
    mean = (tokens * real).sum(1, keepdim=True) / count.clamp(min=1)
    squares = ((tokens - mean).square() * real).sum(1, keepdim=True)
    return (tokens - share * mean) / ((squares / (count - 1).clamp(min=1)).sqrt() + 1e-6)

"""What the default run measures: FVD and class accuracy of moving digits, by a small classifier of digit and direction.

A stand-in for FVD by I3D on clips that need no download; its numbers compare runs on moving digits and nothing else.

Letters: B batch, C channels, F frames, H height, W width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from core.schema import plain
from core.storage.provenance import json_sha256
from eval.measure.stand_in import (
    Classifier,
    ClassifierOptions,
    NoEvaluationConfig,
    StandInEvaluator,
    StandInExtractor,
)
from video.datasets.digits import CLASSES, DigitsConfig

FEATURES = 64
WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class DigitsEvaluationConfig(ClassifierOptions):
    """The default's evaluation, with as many steps as its classifier needs."""

    classifier_steps: int = 600

    def build(self, cache: Path, device: torch.device, data: DigitsConfig) -> StandInEvaluator:
        """The evaluator for clips as those of `data`, with its classifier from the cache or trained now."""
        return StandInEvaluator(DigitFeatures(self, data, cache, device))


EVALUATIONS = {"digits": DigitsEvaluationConfig, "none": NoEvaluationConfig}


class MotionClassifier(Classifier):
    """Three convolutions over frames, rows and columns, and two linear layers that see where and when."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        layers, before, grid = [], shape[0], list(shape[1:])
        for width, stride in zip(WIDTHS, ((1, 2, 2), (2, 2, 2), (2, 2, 2)), strict=True):
            layers += [nn.Conv3d(before, width, 3, stride=stride, padding=1), nn.GroupNorm(4, width), nn.GELU()]
            before, grid = width, [-(-side // step) for side, step in zip(grid, stride, strict=True)]
        self.layers = nn.Sequential(*layers)
        self.hidden = nn.Linear(before * grid[0] * grid[1] * grid[2], FEATURES)
        self.head = nn.Linear(FEATURES, len(CLASSES))

    def features(self, media: Tensor) -> Tensor:
        """Clips (B, C, F, H, W) in [-1, 1] -> (B, 64)."""
        return nn.functional.gelu(self.hidden(self.layers(media).flatten(1)))


class DigitFeatures(StandInExtractor):
    """The classifier of moving digits: hidden (B, 64), and logits (B, 40) for class accuracy."""

    name, title, plural = "digits", "digit motion classifier", "clips"
    preprocessing = "grey clips of the run's size in [-1, 1]; uint8 as x / 127.5 - 1"
    fit_rows = 64

    def __init__(self, options: ClassifierOptions, data: DigitsConfig, cache: Path, device: torch.device):
        self.data, self.shape = data, data.media_shape
        super().__init__(options, cache, device)

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """Clips (n, C, F, H, W) and their classes."""
        clips = replace(self.data, split=name).build()
        return clips.all(), clips.labels

    def network(self) -> MotionClassifier:
        """An untrained classifier."""
        return MotionClassifier(self.shape)

    def variant(self) -> str:
        """A hash of what clips are made by."""
        return f"-{json_sha256(plain(replace(self.data, split='train')))[:12]}"

    def prepare(self, rows: Tensor) -> Tensor:
        """Floats (B, C, F, H, W) as they are, uint8 frames (B, F, H, W, C) in [-1, 1]; ValueError for colours."""
        if rows.is_floating_point():
            return rows
        if (rows != rows[..., :1]).any():
            raise ValueError("the clips have colours; features=digits takes grey ones")
        return rearrange(rows[..., :1], "b f h w c -> b c f h w").float() / 127.5 - 1

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
from torch.nn.functional import gelu

from core.draws import numpy_rng
from core.schema import plain
from core.storage.provenance import json_sha256
from eval.measure.stand_in import (
    Classifier,
    ClassifierOptions,
    NoEvaluationConfig,
    StandInEvaluator,
    StandInExtractor,
)
from video.datasets.digits import CLASSES, DIRECTIONS, DigitsConfig

FEATURES, FRAME_FEATURES = 64, 32
CONVOLUTIONS = ((24, 5), (48, 3))  # channels and side of the kernels
ASPECTS = {
    "digit": [number // len(DIRECTIONS) for number in range(len(CLASSES))],
    "direction": [number % len(DIRECTIONS) for number in range(len(CLASSES))],
}


@dataclass(frozen=True)
class DigitsEvaluationConfig(ClassifierOptions):
    """The default's evaluation, with as many steps as its classifier needs."""

    classifier_steps: int = 600

    def build(self, cache: Path, device: torch.device, data: DigitsConfig) -> StandInEvaluator:
        """The evaluator for clips as those of `data`, with its classifier from the cache or trained now."""
        return StandInEvaluator(DigitFeatures(self, data, cache, device))


EVALUATIONS = {"digits": DigitsEvaluationConfig, "none": NoEvaluationConfig}


class MotionClassifier(Classifier):
    """Two convolutions over each frame by itself, and two linear layers that see all frames in their order.

    Beside where and when, they see what there is in any place and any frame.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        channels, frames, height, width = shape
        layers = []
        for wider, side in CONVOLUTIONS:
            layers += [nn.Conv2d(channels, wider, side, stride=2, padding=side // 2), nn.GELU()]
            channels, height, width = wider, -(-height // 2), -(-width // 2)
        self.layers = nn.Sequential(*layers)
        self.frame = nn.Linear(channels * height * width, FRAME_FEATURES)
        self.hidden = nn.Linear(frames * FRAME_FEATURES + channels, FEATURES)
        self.head = nn.Linear(FEATURES, len(CLASSES))

    def features(self, media: Tensor) -> Tensor:
        """Clips (B, C, F, H, W) in [-1, 1] -> (B, 64)."""
        maps = self.layers(rearrange(media, "b c f h w -> (b f) c h w"))
        ordered = rearrange(gelu(self.frame(maps.flatten(1))), "(b f) d -> b (f d)", b=len(media))
        anywhere = rearrange(maps.amax((2, 3)), "(b f) c -> b f c", b=len(media)).mean(1)
        return gelu(self.hidden(torch.cat([ordered, anywhere], dim=1)))


class DigitFeatures(StandInExtractor):
    """The classifier of moving digits: hidden (B, 64), and logits (B, 40) for class accuracy."""

    name, title, plural = "digits", "digit motion classifier", "clips"
    preprocessing = "grey clips of the run's size in [-1, 1]; uint8 as x / 127.5 - 1"
    fit_rows, learning_rate, aspects = 64, 4e-3, ASPECTS

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

    def controls(self, media: Tensor) -> dict[str, Tensor]:
        """Clips (n, C, F, H, W) whose frames are in another order, each in its own."""
        orders = (numpy_rng("shuffled frames", row).permutation(media.shape[2]) for row in range(len(media)))
        return {"shuffled": torch.stack([clip[:, order] for clip, order in zip(media, orders, strict=True)])}

    def prepare(self, rows: Tensor) -> Tensor:
        """Floats (B, C, F, H, W) as they are, uint8 frames (B, F, H, W, C) in [-1, 1]; ValueError for colours."""
        if rows.is_floating_point():
            return rows
        if (rows != rows[..., :1]).any():
            raise ValueError("the clips have colours; features=digits takes grey ones")
        return rearrange(rows[..., :1], "b f h w c -> b c f h w").float() / 127.5 - 1

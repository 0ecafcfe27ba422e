"""What the default run measures: Fréchet distance and class accuracy by a small classifier of handwritten digits.

A stand-in for ImageNet's protocol on images that need no download; its numbers compare runs on digits and nothing else.

Letters: B batch, n images of a split, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor, nn

from core.data.pixels import from_uint8
from core.draws import StepRandom
from eval.measure.inception import as_channels_first
from eval.measure.stand_in import (
    Classifier,
    ClassifierOptions,
    NoEvaluationConfig,
    StandInEvaluator,
    StandInExtractor,
)
from image.datasets.digits import DigitsConfig
from image.metrics import ImagesEvaluationConfig
from image.scenes.features import ScenesEvaluationConfig


@dataclass(frozen=True)
class DigitsEvaluationConfig(ClassifierOptions):
    """The default's evaluation, with as many steps as its classifier needs."""

    classifier_steps: int = 600

    def build(self, cache: Path, device: torch.device, *of_the_run: object) -> StandInEvaluator:
        """The evaluator with its classifier, from the cache or trained now (seconds)."""
        return StandInEvaluator(DigitFeatures(self, cache, device))


EVALUATIONS = {
    "digits": DigitsEvaluationConfig,
    "scenes": ScenesEvaluationConfig,
    "images": ImagesEvaluationConfig,
    "none": NoEvaluationConfig,
}


class DigitClassifier(Classifier):
    """Two convolutions and two linear layers for images (1, 8, 8); the 64 numbers before the last are features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, stride=2)
        self.hidden = nn.Linear(64 * 4 * 4, 64)
        self.head = nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 1, 8, 8) in [-1, 1] -> (B, 64)."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(images))))
        return F.gelu(self.hidden(x.flatten(1)))


class DigitFeatures(StandInExtractor):
    """The classifier of digits: hidden (B, 64), and logits (B, 10), of uint8 images or of floats in [-1, 1]."""

    name, title, plural, shape = "digits", "digit classifier", "images", (1, 8, 8)
    preprocessing = "grey 8 x 8 in [-1, 1]; uint8 as x / 127.5 - 1"
    evaluate_rows = None  # 1797 tiny images

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """Digits (n, 1, 8, 8) of scikit-learn and their labels."""
        digits = DigitsConfig(split=name).build()
        return digits.images, digits.labels

    def network(self) -> DigitClassifier:
        """An untrained classifier."""
        return DigitClassifier()

    def augment(self, media: Tensor, random: StepRandom) -> Tensor:
        """Images (B, 1, 8, 8) moved by the same -1, 0 or 1 pixels along each axis, black where nothing was."""
        down, right = ((random.uniform(axis, (1,)) * 3).long().item() for axis in ("down", "right"))
        return F.pad(media, (1, 1, 1, 1), value=-1.0)[:, :, down : down + 8, right : right + 8]

    def prepare(self, rows: Tensor) -> Tensor:
        """Floats as they are, uint8 images in [-1, 1]; ValueError for colours."""
        return rows if rows.is_floating_point() else from_uint8(as_grey(rows))


def as_grey(images: Tensor) -> Tensor:
    """uint8 images -> (B, 1, H, W); ValueError for colours."""
    images = as_channels_first(images)
    if (images != images[:, :1]).any():
        raise ValueError("the images have colours; features=digits takes grey ones")
    return images[:, :1]

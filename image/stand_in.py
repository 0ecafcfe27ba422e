"""What the default run measures: Fréchet distance and class accuracy in the eyes of a small digit classifier.

A stand-in for ImageNet's protocol on images that need no download; its numbers compare runs on digits and nothing else.

Letters: B batch, n images of a split, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor, nn

from core.draws import StepRandom
from eval.measure.stand_in import (
    Classifier,
    ClassifierEvaluator,
    ClassifierOptions,
    Fit,
    NoEvaluationConfig,
    StandIn,
    fit_classifier,
)
from image.data import build_dataset
from image.datasets.digits import DigitsConfig


@dataclass(frozen=True)
class DigitsEvaluationConfig(ClassifierOptions):
    """The default's evaluation, with as many steps as its classifier needs."""

    classifier_steps: int = 600

    def build(self, cache: Path, device: torch.device) -> DigitsEvaluator:
        """The evaluator with its classifier, from the cache or trained now (seconds)."""
        return DigitsEvaluator(self, cache, device)


EVALUATIONS = {"digits": DigitsEvaluationConfig, "none": NoEvaluationConfig}


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


def train_classifier(images: Tensor, labels: Tensor, steps: int, seed: int) -> DigitClassifier:
    """Train on images (n, 1, 8, 8) and labels (n,) with shifts of up to one pixel; the same for the same seed."""
    return fit_classifier(DigitClassifier, images, labels, Fit("digit classifier", steps, seed), shifted)


def shifted(images: Tensor, random: StepRandom) -> Tensor:
    """Images (B, 1, 8, 8) moved by the same -1, 0 or 1 pixels along each axis, black where nothing was."""
    down, right = ((random.uniform(axis, (1,)) * 3).long().item() for axis in ("down", "right"))
    return F.pad(images, (1, 1, 1, 1), value=-1.0)[:, :, down : down + 8, right : right + 8]


class DigitsEvaluator(ClassifierEvaluator):
    """Fréchet distance to the training split, beside that of the held-out split (the floor), and class accuracy."""

    def __init__(self, config: DigitsEvaluationConfig, cache: Path, device: torch.device):
        steps, seed = config.classifier_steps, config.classifier_seed
        splits = [build_dataset(DigitsConfig(split=split)) for split in ("train", "heldout")]
        train, heldout = ((split.images, split.labels) for split in splits)
        about = StandIn(
            name="digits",
            media="images",
            title="digit classifier",
            train=train,
            heldout=heldout,
            make=DigitClassifier,
            fit=lambda images, labels: train_classifier(images, labels, steps, seed),
            file=cache / f"digit_classifier-steps{steps}-seed{seed}.safetensors",
            batch_size=None,  # 1797 tiny images
        )
        super().__init__(about, config.num_samples, device)

"""A classifier of rendered scenes for features: Fréchet distance and class accuracy where ImageNet's networks are not.

Pictures of every size are seen at 32 pixels: numbers say nothing of finer detail.

Letters: B batch, n pictures of a split, D features, S pixels of a side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor, nn

from core.data.pixels import from_uint8
from core.draws import StepRandom
from core.schema import plain
from core.storage.provenance import json_sha256
from eval.measure.inception import as_rgb
from eval.measure.stand_in import Classifier, ClassifierOptions, StandInEvaluator, StandInExtractor
from image.datasets.scenes import ScenesConfig
from image.media import REFERENCE_SCENES
from image.scenes.classes import ATTRIBUTES, CLASS_NAMES

SIDE = 32  # pixels that the classifier sees
WIDTHS = (32, 48, 64, 96)  # channels of its convolutions
TRAIN_IMAGES = 24_000  # at most, of the train split, to train on
SHIFT = 2  # pixels that pictures are moved by at most in its training


@dataclass(frozen=True)
class ScenesEvaluationConfig(ClassifierOptions):
    """The evaluation of runs on scenes, with as many steps as its classifier needs."""

    classifier_steps: int = 300

    def build(self, cache: Path, device: torch.device, data: ScenesConfig) -> StandInEvaluator:
        """The evaluator for scenes as those of `data`, with its classifier from the cache or trained now (minutes)."""
        return StandInEvaluator(SceneFeatures(self, data, cache, device))


class SceneClassifier(Classifier):
    """Four convolutions and two linear layers for pictures (3, 32, 32); 128 numbers before the last are features."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = [], 3
        for place, width in enumerate(WIDTHS):
            layers += [nn.Conv2d(channels, width, 3, stride=1 if place == 1 else 2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.GELU()]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.hidden = nn.Linear(channels * (SIDE // 8) ** 2, 128)
        self.head = nn.Linear(128, len(CLASS_NAMES))

    def features(self, media: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in [-1, 1] -> (B, 128)."""
        if media.shape[-1] != SIDE:
            media = F.interpolate(media, (SIDE, SIDE), mode="area")
        return F.gelu(self.hidden(self.layers(media).flatten(1)))


class SceneFeatures(StandInExtractor):
    """The classifier of scenes: hidden (B, 128), and logits (B, 120)."""

    name, title, plural, aspects = "scenes", "scene classifier", "images", ATTRIBUTES
    preprocessing = "RGB, averaged to 32 x 32, in [-1, 1]; uint8 as x / 127.5 - 1"

    def __init__(self, options: ClassifierOptions, data: ScenesConfig, cache: Path, device: torch.device):
        self.data, self.shape = replace(data, split="train"), data.media_shape
        super().__init__(options, cache, device)

    @property
    def training_data(self) -> ScenesConfig:
        """What the classifier is trained on: the same scenes at 32 pixels."""
        return replace(self.data, size=SIDE)

    def variant(self) -> str:
        """A hash of what the pictures are made by."""
        return f"-{json_sha256(plain(self.training_data))[:12]}"

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """Pictures (n, 3, S, S) uint8 and labels, of the train split the first ones only."""
        data = replace(self.data, split=name).build()
        return _first(data, REFERENCE_SCENES if name == "train" else len(data))

    def network(self) -> SceneClassifier:
        """An untrained classifier."""
        return SceneClassifier()

    def take(self, media: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, S, S), uint8 or floats in [-1, 1] -> hidden and logits."""
        return super().take(self.prepare(media))

    def prepare(self, rows: Tensor) -> Tensor:
        """Floats as they are, uint8 images in [-1, 1]."""
        return rows if rows.is_floating_point() else from_uint8(as_rgb(rows))

    def training_loss(self) -> Callable[[Classifier, StepRandom], Tensor]:
        """Cross-entropy on random pictures of the train split, moved by up to two pixels."""
        pictures, labels = _first(self.training_data.build(), TRAIN_IMAGES)

        def loss(network: Classifier, random: StepRandom) -> Tensor:
            rows = (random.uniform("rows", (self.fit_rows,)) * len(pictures)).long()
            return F.cross_entropy(network(self.augment(from_uint8(pictures[rows]), random)), labels[rows])

        return loss

    def augment(self, media: Tensor, random: StepRandom) -> Tensor:
        """Pictures (B, 3, 32, 32) moved by the same few pixels along each axis, their edges drawn out."""
        down, right = ((random.uniform(axis, (1,)) * (2 * SHIFT + 1)).long().item() for axis in ("down", "right"))
        return F.pad(media, (SHIFT,) * 4, mode="replicate")[:, :, down : down + SIDE, right : right + SIDE]


def _first(data: object, count: int) -> tuple[Tensor, Tensor]:
    count = min(count, len(data))
    return data.bytes_at(range(count)), data.labels[:count]

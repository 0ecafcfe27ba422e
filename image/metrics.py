"""What the default run measures: Fréchet distance and class accuracy in the eyes of a small digit classifier.

A stand-in for ImageNet's protocol on images that need no download; its numbers compare runs on digits and nothing else.

Letters: B batch, n images of a split, D features.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from core.checkpoint import write_atomic
from core.draws import StepRandom, fold_seed
from eval.statistics import frechet_distance, moments
from image.data import DigitsConfig, build_dataset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DigitsEvaluationConfig:
    """Options of the default's evaluation.

    num_samples: generated images; null takes as many as the held-out split has, so that the distance and its floor
    carry the same bias of small samples. classifier_steps, classifier_seed: training of the classifier, cached in
    <runs_dir>/cache.
    """

    num_samples: int | None = None
    classifier_steps: int = 600
    classifier_seed: int = 0

    def __post_init__(self) -> None:
        if self.num_samples is not None and self.num_samples < 2:
            raise ValueError(f"evaluation.num_samples is {self.num_samples}; it must be at least 2, or null")
        if self.classifier_steps < 1:
            raise ValueError(f"evaluation.classifier_steps is {self.classifier_steps}; it must be at least 1")

    def build(self, cache: Path, device: torch.device) -> DigitsEvaluator:
        """The evaluator with its classifier, from the cache or trained now (seconds)."""
        return DigitsEvaluator(self, cache, device)


@dataclass(frozen=True)
class NoEvaluationConfig:
    """Nothing is measured at the end of the run."""

    def build(self, cache: Path, device: torch.device) -> None:
        """No evaluator."""
        return None


EVALUATIONS = {"digits": DigitsEvaluationConfig, "none": NoEvaluationConfig}


class DigitClassifier(nn.Module):
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

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, 8, 8) in [-1, 1] -> logits (B, 10)."""
        return self.head(self.features(images))


def train_classifier(images: Tensor, labels: Tensor, steps: int, seed: int) -> DigitClassifier:
    """Train on images (n, 1, 8, 8) and labels (n,) with shifts of up to one pixel; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(seed, "digit classifier"))
        network = DigitClassifier()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    for step in range(steps):
        random = StepRandom(seed, step)
        rows = (random.uniform("rows", (128,)) * len(images)).long()
        down, right = ((random.uniform(axis, (1,)) * 3).long().item() for axis in ("down", "right"))
        padded = F.pad(images[rows], (1, 1, 1, 1), value=-1.0)
        loss = F.cross_entropy(network(padded[:, :, down : down + 8, right : right + 8]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


class DigitsEvaluator:
    """Fréchet distance to the training split, beside that of the held-out split (the floor), and class accuracy."""

    def __init__(self, config: DigitsEvaluationConfig, cache: Path, device: torch.device):
        self.device = device
        train, heldout = (build_dataset(DigitsConfig(split=split)) for split in ("train", "heldout"))
        self.classifier = self._classifier(config, cache, train.images, train.labels).to(device)
        self.reference = moments(self._features(train.images))
        self.floor = frechet_distance(moments(self._features(heldout.images)), self.reference)
        self.classifier_accuracy = self._accuracy(heldout.images, heldout.labels)
        self.num_samples = len(heldout) if config.num_samples is None else config.num_samples
        log.info("digit classifier: %.1f %% of held-out digits right", 100 * self.classifier_accuracy)

    def evaluate(self, media: Tensor, condition: Tensor) -> dict[str, float]:
        """Images (B, 1, 8, 8) in [-1, 1] and the digits (B,) they were asked to be."""
        if tuple(media.shape[1:]) != (1, 8, 8):
            raise ValueError(f"evaluation=digits measures images (1, 8, 8), got {tuple(media.shape[1:])}")
        return {
            "frechet_distance": frechet_distance(moments(self._features(media)), self.reference),
            "frechet_floor": self.floor,
            "class_accuracy": self._accuracy(media, condition),
            "classifier_accuracy": self.classifier_accuracy,
            "num_samples": len(media),
        }

    @torch.no_grad()
    def _features(self, images: Tensor):
        return self.classifier.features(images.to(self.device)).double().cpu().numpy()

    @torch.no_grad()
    def _accuracy(self, images: Tensor, labels: Tensor) -> float:
        return (self.classifier(images.to(self.device)).argmax(1).cpu() == labels).double().mean().item()

    @staticmethod
    def _classifier(config: DigitsEvaluationConfig, cache: Path, images: Tensor, labels: Tensor) -> DigitClassifier:
        file = cache / f"digit_classifier-steps{config.classifier_steps}-seed{config.classifier_seed}.safetensors"
        if file.exists():
            network = DigitClassifier().eval()
            try:
                network.load_state_dict(load_file(file))
            except (SafetensorError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise ValueError(f"the cached classifier {file} is damaged, delete it: {reason}") from error
            return network
        network = train_classifier(images, labels, config.classifier_steps, config.classifier_seed)
        write_atomic(file, save(network.state_dict()))
        return network

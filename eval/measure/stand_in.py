"""An evaluator for a stand-in data set: distances and accuracy in the eyes of a small classifier that it trains itself.

A data set that comes with the code needs no published network to look at its samples: a classifier of its classes is
trained in seconds, and what its last layer reads are the features. Such numbers compare runs on that data set and
nothing else.

Letters: B batch, n pieces of media of a split, D features, K classes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from core.draws import StepRandom, fold_seed
from core.storage.atomic import write_atomic
from eval.statistics.frechet import frechet_distance, moments

log = logging.getLogger(__name__)
Augment = Callable[[Tensor, StepRandom], Tensor]


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """Options of a stand-in's evaluation; a domain says how many steps its classifier needs.

    num_samples: to be generated; null takes as many as the held-out split has, so that the distance and its floor carry
    the same bias of small samples. classifier_steps, classifier_seed: training of the classifier, cached in
    <runs_dir>/cache.
    """

    num_samples: int | None = None
    classifier_steps: int
    classifier_seed: int = 0

    def __post_init__(self) -> None:
        if self.num_samples is not None and self.num_samples < 2:
            raise ValueError(f"evaluation.num_samples is {self.num_samples}; it must be at least 2, or null")
        if self.classifier_steps < 1:
            raise ValueError(f"evaluation.classifier_steps is {self.classifier_steps}; it must be at least 1")


@dataclass(frozen=True)
class NoEvaluationConfig:
    """Nothing is measured at the end of the run."""

    def build(self, cache: Path, device: torch.device) -> None:
        """No evaluator."""
        return None


class Classifier(nn.Module):
    """A domain's network: features, and a last layer `head` (B, D) -> (B, K) that reads them."""

    head: nn.Module

    def features(self, media: Tensor) -> Tensor:
        """Media (B, *media) in [-1, 1] -> (B, D), what the last layer reads."""
        raise NotImplementedError

    def forward(self, media: Tensor) -> Tensor:
        """Media (B, *media) in [-1, 1] -> logits (B, K)."""
        return self.head(self.features(media))


@dataclass(frozen=True)
class Fit:
    """How a classifier is trained: AdamW and cross-entropy on random rows.

    name   of the stream that the first weights are drawn from, with the seed
    steps  of the optimizer, each on `batch` rows drawn with replacement
    """

    name: str
    steps: int
    seed: int
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2


def fit_classifier(
    make: Callable[[], nn.Module],
    media: Tensor,
    labels: Tensor,
    fit: Fit,
    augment: Augment = lambda rows, random: rows,
) -> nn.Module:
    """The network that `make` builds, trained on media (n, *media) and labels (n,); the same for the same `fit`.

    `augment(rows, random)` changes a batch (B, *media) with the step's streams other than "rows".
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(fit.seed, fit.name))
        network = make()
    optimizer = torch.optim.AdamW(network.parameters(), lr=fit.learning_rate, weight_decay=fit.weight_decay)
    for step in range(fit.steps):
        random = StepRandom(fit.seed, step)
        rows = (random.uniform("rows", (fit.batch,)) * len(media)).long()
        loss = F.cross_entropy(network(augment(media[rows], random)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@dataclass(frozen=True)
class StandIn:
    """A data set with a classifier of its own.

    name        of the evaluation, as the config key `evaluation` has it
    media       what its pieces are called in the plural
    title       of the classifier, for a person
    train       media (n, *media) float32 in [-1, 1] and labels (n,): the classifier's data, and the reference
    heldout     the same of the split that the distance's floor and the classifier's accuracy are taken of
    make        an untrained network, a `Classifier`
    fit         the trained one from media and labels: `fit_classifier` with the domain's own settings
    file        where the trained one is kept; the name holds all that `fit` depends on
    batch_size  media that the network is shown at once; null: all
    """

    name: str
    media: str
    title: str
    train: tuple[Tensor, Tensor]
    heldout: tuple[Tensor, Tensor]
    make: Callable[[], nn.Module]
    fit: Callable[[Tensor, Tensor], nn.Module]
    file: Path
    batch_size: int | None = 256


class ClassifierEvaluator:
    """Fréchet distance to the training split, beside that of the held-out split (the floor), and class accuracy.

    num_samples: to be generated; null takes as many as the held-out split has. Raises ValueError for a damaged cache.
    """

    def __init__(self, about: StandIn, num_samples: int | None, device: torch.device):
        self.about, self.device = about, device
        self.classifier = cached_classifier(about).to(device)
        self.reference = moments(self._look(about.train[0])[0])
        features, logits = self._look(about.heldout[0])
        self.floor = frechet_distance(moments(features), self.reference)
        self.classifier_accuracy = _accuracy(logits, about.heldout[1])
        self.num_samples = len(about.heldout[0]) if num_samples is None else num_samples
        log.info("%s: %.1f %% of held-out %s right", about.title, 100 * self.classifier_accuracy, about.name)

    @property
    def weights_sha256(self) -> str:
        """Hex, of the classifier's file."""
        state = {name: value.cpu() for name, value in self.classifier.state_dict().items()}
        return hashlib.sha256(save(state)).hexdigest()

    def evaluate(self, media: Tensor, condition: Tensor) -> dict[str, float]:
        """Media (B, *media) in [-1, 1] and the classes (B,) they were asked to be.

        Raises ValueError for media of another shape than the data set's, and for features that are not finite.
        """
        self.check_shape(media)
        features, logits = self._look(media)
        return {
            "frechet_distance": frechet_distance(moments(features), self.reference),
            "frechet_floor": self.floor,
            "class_accuracy": _accuracy(logits, condition),
            "classifier_accuracy": self.classifier_accuracy,
            "num_samples": len(media),
        }

    def check_shape(self, media: Tensor) -> None:
        """Raises ValueError for media (B, ...) of another shape than the data set's."""
        about, needed = self.about, tuple(self.about.train[0].shape[1:])
        if tuple(media.shape[1:]) != needed:
            raise ValueError(f"evaluation={about.name} measures {about.media} {needed}, got {tuple(media.shape[1:])}")

    @torch.no_grad()
    def _look(self, media: Tensor) -> tuple[np.ndarray, Tensor]:
        """Features (n, D) float64 and logits (n, K), on the CPU."""
        features, logits = [], []
        for rows in media.split(self.about.batch_size or max(len(media), 1)):
            shown = rows.to(self.device)
            features.append(self.classifier.features(shown))
            logits.append(self.classifier.head(features[-1]).cpu())
        return torch.cat(features).cpu().double().numpy(), torch.cat(logits)


def cached_classifier(about: StandIn) -> nn.Module:
    """The classifier from its file, or trained now and written there; ValueError for a file that is damaged."""
    if not about.file.exists():
        network = about.fit(*about.train)
        write_atomic(about.file, save(network.state_dict()))
        return network
    network = about.make().eval()
    try:
        network.load_state_dict(load_file(about.file))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the cached classifier {about.file} is damaged, delete it: {reason}") from error
    return network


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels.cpu()).double().mean().item()

"""Numbers for a stand-in data set: distances and accuracy by a small classifier that is trained on the data set itself.

A data set that comes with the code needs no published network: a classifier of its classes is trained in seconds, and
what its last layer reads are the features. The same extractor measures at the end of a training run
(`StandInEvaluator`) and in the command that measures. Such numbers compare runs on that data set and nothing else.

Letters: B batch, n pieces of media of a split, D features, K classes.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from safetensors.torch import save
from torch import Tensor, nn

from core.data.pixels import from_uint8
from core.draws import StepRandom, fold_seed
from core.storage.atomic import write_atomic
from core.storage.weights import check_finite_weights, load_safetensors
from eval.measure.extractor import ExtractedFeatures, Extractor
from eval.measure.media import ArrayMedia, MediaRows
from eval.measure.metrics import ClassAccuracy, FrechetDistance, ReferenceStatistics
from eval.statistics.frechet import moments

log = logging.getLogger(__name__)
HIDDEN, LOGITS = "hidden", "logits"


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

    def build(self, *of_the_run: object) -> None:
        """Build no evaluator."""


class Classifier(nn.Module):
    """A domain's network: features, and a last layer `head` (B, D) -> (B, K) that reads them."""

    head: nn.Module

    def features(self, media: Tensor) -> Tensor:
        """Media (B, *media) in [-1, 1] -> (B, D), what the last layer reads."""
        raise NotImplementedError

    def forward(self, media: Tensor) -> Tensor:
        """Media (B, *media) in [-1, 1] -> logits (B, K)."""
        return self.head(self.features(media))


class TrainedExtractor(Extractor, ABC):
    """A small network that is trained on a stand-in's data as an extractor; trained once and kept in a file.

    The training is AdamW, the same for the same options.

    title          of the network, for a person; the first weights are drawn by it and the seed
    noun           what kind of network it is, for an error
    learning_rate, weight_decay   of the training

    Raises ValueError for a damaged cache.
    """

    takes_floats = True
    title: ClassVar[str]
    noun: ClassVar[str] = "network"
    learning_rate: ClassVar[float] = 2e-3
    weight_decay: ClassVar[float] = 1e-2

    def __init__(self, steps: int, seed: int, cache: Path, device: torch.device):
        self.steps, self.seed, self.device = steps, seed, device
        name = f"{self.title.replace(' ', '_')}{self.variant()}"
        self.file = cache / f"{name}-steps{steps}-seed{seed}.safetensors"
        self.trained = self.cached_network().to(device)

    # What a domain says

    @abstractmethod
    def network(self) -> nn.Module:
        """An untrained network."""

    @abstractmethod
    def training_loss(self) -> Callable[[nn.Module, StepRandom], Tensor]:
        """The loss of a step, a function of the network and the step's streams; its data is read here, once."""

    def variant(self) -> str:
        """What else the training depends on, for the file's name."""
        return ""

    # What follows

    @property
    def weights_sha256(self) -> str:
        """The SHA-256, hex, of the network's file."""
        state = {name: value.cpu() for name, value in self.trained.state_dict().items()}
        return hashlib.sha256(save(state)).hexdigest()

    def cached_network(self) -> nn.Module:
        """The network from its file, or trained now and written there; ValueError for a file that is damaged."""
        if not self.file.exists():
            network = self.fit()
            write_atomic(self.file, save(network.state_dict()))
            return network
        network = self.network().eval()
        try:
            network.load_state_dict(load_safetensors(self.file))
            check_finite_weights(network, str(self.file))
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"the cached {self.noun} {self.file} is damaged, delete it: {reason}") from error
        return network

    def fit(self) -> nn.Module:
        """The network, trained."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold_seed(self.seed, self.title))
            network = self.network()
        loss_of = self.training_loss()
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        for step in range(self.steps):
            loss = loss_of(network, StepRandom(self.seed, step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network.eval()


class StandInExtractor(TrainedExtractor):
    """The classifier of a data set as an extractor: hidden (B, D), and logits (B, K), trained by cross-entropy.

    plural         what pieces of media are called
    shape          of a piece, (*media)
    fit_rows       rows of a step, drawn with replacement
    evaluate_rows  pieces that the network is given at once at the end of a training run; None: all
    aspects        what classes have in common, by name: for each of the K classes the number of its group
    """

    main, noun = HIDDEN, "classifier"
    plural: ClassVar[str]
    shape: tuple[int, ...]
    fit_rows: ClassVar[int] = 128
    evaluate_rows: ClassVar[int | None] = 256
    aspects: ClassVar[Mapping[str, Sequence[int]]] = MappingProxyType({})

    def __init__(self, options: ClassifierOptions, cache: Path, device: torch.device):
        self.options = options
        super().__init__(options.classifier_steps, options.classifier_seed, cache, device)

    # What a domain says

    @abstractmethod
    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """Media (n, *media) in [-1, 1], or as bytes, and labels (n,) of the split "train" or "heldout"."""

    @abstractmethod
    def network(self) -> Classifier:
        """An untrained classifier."""

    def augment(self, media: Tensor, random: StepRandom) -> Tensor:
        """A batch (B, *media) changed by the step's streams other than "rows", to train on."""
        return media

    def controls(self, media: Tensor) -> dict[str, Tensor]:
        """Held-out media (n, *media) without something that should count, by the name of what is done to them."""
        return {}

    def prepare(self, rows: MediaRows) -> Tensor:
        """Media as the command has them -> (B, *media) float32 in [-1, 1]."""
        return rows

    # What follows

    @property
    def classifier(self) -> Classifier:
        """The trained network."""
        return self.trained

    def __call__(self, rows: MediaRows) -> dict[str, Tensor]:
        """Hidden and logits of media as the command has them."""
        return self.take(self.prepare(rows))

    @torch.no_grad()
    def take(self, media: Tensor) -> dict[str, Tensor]:
        """Media (B, *media) in [-1, 1] -> hidden (B, D) and logits (B, K) on the CPU; ValueError for another shape."""
        if tuple(media.shape[1:]) != self.shape:
            raise ValueError(f"the {self.title} takes {self.plural} {self.shape}, got {tuple(media.shape[1:])}")
        hidden = self.classifier.features(media.to(self.device))
        return {HIDDEN: hidden.cpu(), LOGITS: self.classifier.head(hidden).cpu()}

    def training_loss(self) -> Callable[[Classifier, StepRandom], Tensor]:
        """Cross-entropy on random rows of the training split."""
        media, labels = self.split("train")

        def loss(network: Classifier, random: StepRandom) -> Tensor:
            rows = (random.uniform("rows", (self.fit_rows,)) * len(media)).long()
            return F.cross_entropy(network(self.augment(media[rows], random)), labels[rows])

        return loss


def stand_in_metrics(
    extractor: str, labels_from: str, aspects: Mapping[str, Sequence[int]] = MappingProxyType({})
) -> tuple[FrechetDistance | ClassAccuracy, ...]:
    """The metrics that a stand-in's extractor of that name is for, for the domain's table as well.

    labels_from: where the command can know the samples' classes from, in words; aspects: as the extractor has them.
    """
    of = (extractor,)
    accuracy = ClassAccuracy("class_accuracy", of, LOGITS, labels_from=labels_from)
    of_aspects = (replace(accuracy, name=f"{name}_accuracy", groups=tuple(groups)) for name, groups in aspects.items())
    return FrechetDistance("frechet_distance", of), accuracy, *of_aspects


class StandInEvaluator:
    """The end of a training run on the stand-in data set, measured; fulfils `core.contracts.Evaluator`.

    The Fréchet distance to the training split, beside that of the held-out split (the floor); class accuracy, and that
    of each aspect, beside those of held-out media; and all of it for the extractor's controls.
    """

    def __init__(self, extractor: StandInExtractor):
        self.extractor = extractor
        self.metrics = stand_in_metrics(extractor.name, "the run", extractor.aspects)
        train, heldout = self.features(*extractor.split("train")), extractor.split("heldout")
        self.reference = ReferenceStatistics({HIDDEN: moments(train.arrays[HIDDEN])})
        found = self.measure(*heldout)
        self.floor, self.classifier_accuracy = found.pop("frechet_distance"), found.pop("class_accuracy")
        self.beside = {f"classifier_{name}": value for name, value in found.items()}
        for control, media in extractor.controls(heldout[0]).items():
            self.beside |= {f"{control}_{name}": value for name, value in self.measure(media, heldout[1]).items()}
        count = extractor.options.num_samples
        self.num_samples = len(heldout[0]) if count is None else count
        right = 100 * self.classifier_accuracy
        log.info("%s: %.1f %% of held-out %s right", extractor.title, right, extractor.name)

    def evaluate(self, media: Tensor, condition: Tensor) -> dict[str, float]:
        """Media (B, *media) in [-1, 1] and the classes (B,) they were asked to be.

        Raises ValueError for media of another shape, and for features that are not finite.
        """
        found = self.measure(media, condition)
        return {
            "frechet_distance": found.pop("frechet_distance"),
            "frechet_floor": self.floor,
            "class_accuracy": found.pop("class_accuracy"),
            "classifier_accuracy": self.classifier_accuracy,
            **found,
            **self.beside,
            "num_samples": len(media),
        }

    def measure_heldout(self, num: int, change: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The metrics of the first `num` held-out pieces of media, changed; of all where there are fewer."""
        media, labels = (each[:num] for each in self.extractor.split("heldout"))
        media = media if media.is_floating_point() else from_uint8(media)
        return {**self.measure(change(media), labels), "num_samples": len(labels)}

    def measure(self, media: Tensor, labels: Tensor) -> dict[str, float]:
        """The metrics of media (n, *media) of classes (n,)."""
        features = self.features(media, labels)
        return {metric.name: metric.compute(features, self.reference).value for metric in self.metrics}

    def features(self, media: Tensor, labels: Tensor) -> ExtractedFeatures:
        """The features of media (n, *media), so many at a time as the extractor says."""
        extractor = self.extractor
        parts = [extractor.take(rows) for rows in media.split(extractor.evaluate_rows or max(len(media), 1))]
        arrays = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        return ExtractedFeatures(extractor, ArrayMedia(extractor.plural, "sample", media, labels.cpu()), arrays)

"""From images to numbers: features of all images on all processes, then the metrics of a protocol.

Letters: n images, B batch, D features, K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.distributed import World
from core.generate import StoppedError
from eval.estimate import Estimate
from eval.inception_score import ADM, TORCH_FIDELITY, Splits, inception_score
from eval.kernel import kernel_distance
from eval.neighbours import Blocks, precision_recall
from eval.statistics import Moments, frechet_distance, moments
from image.collection import Images
from image.features import Extractor

log = logging.getLogger(__name__)
KID_SUBSETS, KID_SIZE = 100, 1000  # as torch-fidelity
NEIGHBOURS = 3
INCEPTION = ("inception_adm", "inception_torch_fidelity")


@dataclass(frozen=True)
class Metric:
    """What a metric asks for.

    features   extractors that it is defined for, by name
    of         which of their features; "main" is the extractor's own choice
    needs      of the reference: its moments, the features of its images, or nothing
    at_least   samples
    """

    features: tuple[str, ...]
    of: str = "main"
    needs: str = "moments"
    at_least: int = 2


ANY = (*INCEPTION, "dinov2", "digits")
METRICS: dict[str, Metric] = {
    "fid": Metric(INCEPTION),
    "sfid": Metric(("inception_adm",), of="spatial"),
    "is": Metric(INCEPTION, of="logits", needs="nothing"),
    "precision": Metric(ANY, needs="features", at_least=NEIGHBOURS + 1),
    "recall": Metric(ANY, needs="features", at_least=NEIGHBOURS + 1),
    "kid": Metric(ANY, needs="features", at_least=KID_SIZE),
    "fd_dinov2": Metric(("dinov2",)),
    "frechet_distance": Metric(("digits",)),
    "class_accuracy": Metric(("digits",), of="logits", needs="nothing", at_least=1),
}
DEFAULTS: dict[str, tuple[str, ...]] = {
    "inception_adm": ("fid", "sfid", "is", "precision", "recall"),
    "inception_torch_fidelity": ("fid", "is", "kid", "precision", "recall"),
    "dinov2": ("fd_dinov2",),
    "digits": ("frechet_distance", "class_accuracy"),
}


def extractor_name(metric: str, features: str) -> str:
    """Which extractor a metric is taken with; ValueError for one that is not defined for `features`."""
    if metric not in METRICS:
        raise ValueError(f"config key 'metrics' has {metric!r}; allowed: {', '.join(METRICS)}")
    if metric == "fd_dinov2":  # beside the others of an evaluation
        return "dinov2"
    if features not in METRICS[metric].features:
        raise ValueError(
            f"config key 'metrics' has {metric!r} but features is {features!r}; allowed for it: "
            f"{', '.join(METRICS[metric].features)}"
        )
    return features


def check_count(metrics: Sequence[str], extractor: str, samples: int, reference: int | None) -> None:
    """Raises ValueError when the samples, or the images of the reference, are fewer than a metric needs.

    reference: None where nothing is to be taken from its images.
    """
    for name in metrics:
        splits = splits_of(extractor)
        least = (splits.size or splits.count) if name == "is" else METRICS[name].at_least
        compared = reference is not None and METRICS[name].needs != "nothing"
        for count, what in ((samples, "samples"), *[(reference, "images of the reference")] * compared):
            if count < least:
                raise ValueError(f"{name} with features={extractor} needs at least {least} {what}, there are {count}")


@torch.no_grad()
def extract(
    images: Images,
    extractor: Extractor,
    batch_size: int,
    world: World,
    on_batch: Callable[[int], None] = lambda count: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, np.ndarray] | None:
    """Features (n, D) float32 of all images by name, in the main process; None in the others.

    The processes take turns at the batches, so what is in a batch does not depend on their number. Raises ValueError
    for images that are all equal, StoppedError when `stop()` says so in any process.
    """
    parts: dict[str, list[Tensor]] = {}
    first_image, differ = images.rows(0, 1), False
    for start in range(0, len(images), batch_size * world.size):
        if world.any(stop())[0]:
            raise StoppedError
        own = start + world.rank * batch_size
        found, count = {}, 0
        if own < len(images):
            rows = images.rows(own, min(own + batch_size, len(images)))
            differ = differ or bool((rows != first_image).any())
            found, count = extractor(rows), len(rows)
        for made in world.gather((found, count)) or ():
            for name, values in made[0].items():
                parts.setdefault(name, []).append(values)
            on_batch(made[1])
    if not world.any(differ)[0]:
        raise ValueError(f"all {len(images)} images of {images.name} are equal; nothing can be measured of them")
    if not world.is_main:
        return None
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def check_finite(features: Mapping[str, np.ndarray], extractor: str, images: str) -> None:
    """Raises ValueError for features that are NaN or infinite."""
    for name, values in features.items():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise ValueError(
                f"features '{name}' ({extractor}) of {len(bad)} images of {images} are NaN or infinite, "
                f"first at image {bad[0]}; are the weights damaged?"
            )


@dataclass(frozen=True)
class Against:
    """What a reference has for one extractor: moments and features (m, D) by the features' names."""

    moments: Mapping[str, Moments]
    features: Mapping[str, np.ndarray]


def measure(
    metrics: Sequence[str],
    extractor: Extractor,
    features: Mapping[str, np.ndarray],
    against: Against,
    labels: Tensor | None,
    device: torch.device,
) -> dict[str, Estimate]:
    """The numbers of one extractor's metrics; `features` (n, D) by name, labels (n,) for class accuracy."""
    found: dict[str, Estimate] = {}
    for name in metrics:
        metric = METRICS[name]
        of = extractor.main if metric.of == "main" else metric.of
        own = features[of]
        if name in ("precision", "recall"):
            if name not in found:
                blocks = _blocks(extractor.name, device)
                both = precision_recall(own, against.features[of], k=NEIGHBOURS, blocks=blocks)
                found |= {"precision": both.precision, "recall": both.recall}
        elif name == "kid":
            found[name] = kernel_distance(own, against.features[of], subsets=KID_SUBSETS, subset_size=KID_SIZE)
        elif name == "is":
            found[name] = inception_score(own, splits_of(extractor.name))
        elif name == "class_accuracy":
            found[name] = _accuracy(own, labels)
        else:
            found[name] = _frechet(name, own, against.moments[of])
    return {name: found[name] for name in metrics}


def splits_of(features: str) -> Splits:
    """How the Inception Score cuts the samples: ADM's parts of 5000 in order, torch-fidelity's 10 shuffled ones."""
    return ADM if features == "inception_adm" else TORCH_FIDELITY


def _blocks(features: str, device: torch.device) -> Blocks:
    """ADM takes distances in float16 and blocks of 10,000."""
    where = str(device)
    return Blocks("adm_float16", 10_000, where) if features == "inception_adm" else Blocks(device=where)


def _frechet(name: str, features: np.ndarray, reference: Moments) -> Estimate:
    count, width = features.shape
    if count <= width:
        log.warning("%s of %d samples with %d features: its bias is large below %d", name, count, width, width + 1)
    return Estimate(frechet_distance(moments(features), reference), count)


def _accuracy(logits: np.ndarray, labels: Tensor) -> Estimate:
    right = torch.from_numpy(logits).argmax(1) == labels[: len(logits)]
    return Estimate(right.double().mean().item(), len(logits))

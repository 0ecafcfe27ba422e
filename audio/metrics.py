"""The metrics of clips: what each is taken with, what it needs, and how it is computed.

Letters: n clips, n' windows of them, m clips of the reference, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from audio.encoders.protocols import FADTK, clap_score, kl_of_classes, kl_of_mean_classes
from audio.extractors import CLAPS
from audio.media import UNIT
from eval.measure.media import Media
from eval.measure.table import (
    Metric,
    Operands,
    Table,
    class_accuracy,
    frechet,
    kernel,
    labels_missing,
    precision_recall_metrics,
    unbiased_frechet,
)
from eval.statistics.estimate import Estimate

POINTS, SMALLEST = 25, 500  # of FAD-infinity, as fadtk
KID_SUBSETS, KID_SIZE = 100, 1000
NEIGHBOURS = 3
EMBEDDINGS = (*CLAPS, "vggish")
ANY = (*EMBEDDINGS, "notes")
CLASSES = ("classifier", "notes")
PAIRED = ("kl",)  # clip i with clip i of the reference
OF_SAMPLES_ALONE = ("fad_infinity",)  # their least number is asked of the samples, not of the reference


@dataclass(frozen=True)
class ClipTable(Table):
    """A table with metrics that pair clips, and one that needs many samples but not a large reference."""

    def check_count(self, names: Sequence[str], extractor: str, samples: int, reference: int | None) -> None:
        """As that of `Table`; ValueError too where clips are paired and there are not as many of both."""
        alone = [name for name in names if name in OF_SAMPLES_ALONE]
        super().check_count(alone, extractor, samples, None)
        super().check_count([name for name in names if name not in alone], extractor, samples, reference)
        paired = [name for name in names if name in PAIRED]
        if paired and reference is not None and samples != reference:
            raise ValueError(
                f"{paired[0]} pairs each sample with a clip of the reference; there are {samples} samples and "
                f"{reference} clips. num=... makes or takes fewer samples, metrics=[kl_mean] pairs nothing"
            )


class PlannedSamples(Media):
    """What is known of samples before they are made: how many, and whether their classes and texts will be."""

    name, kind, unit = "samples", "samples", UNIT

    def __init__(self, count: int, labelled: bool, texts: list[str] | None):
        self.count, self.texts, self.labels = count, texts, range(count) if labelled else None

    def __len__(self) -> int:
        return self.count


def fad_infinity(operands: Operands) -> Estimate:
    """FAD without its bias of small samples (Gui et al. 2024); drawn with replacement under fadtk's protocol only."""
    as_fadtk = operands.extractor.protocol.name == FADTK.name
    return unbiased_frechet(points=POINTS, smallest=SMALLEST, replace=as_fadtk)(operands)


def few_for_infinity(media: Media) -> str | None:
    """For `Metric.missing`."""
    few = len(media) <= SMALLEST
    return f"needs at least {SMALLEST + 1} samples, there are {len(media)}" if few else None


def paired_rows(operands: Operands) -> tuple[np.ndarray, str]:
    """The reference's rows (n, K) in the order of the samples, and by what they are paired.

    By the files' names where both sets have the same ones, otherwise by place; ValueError where only some are the same.
    """
    own, media = operands.samples.names, operands.against.media
    theirs, rows = None if media is None else media.names, operands.reference
    common = set(own or ()) & set(theirs or ())
    if not common:
        return rows, "place"
    if set(own) != set(theirs):
        odd = sorted(set(own) ^ set(theirs))
        raise ValueError(
            f"{operands.metric} pairs files by name, but {len(odd)} have no partner, such as {odd[0]}; needed: all the "
            "same names, or none, where files are paired in their order"
        )
    places = {name: place for place, name in enumerate(theirs)}
    return rows[[places[name] for name in own]], "file name"


def paired_kl(operands: Operands) -> Estimate:
    """Mean over pairs of KL(reference || sample) of class probabilities, from logits (n, K)."""
    operands.check_aligned()
    rows, by = paired_rows(operands)
    estimate = kl_of_classes(operands.own, rows)
    return replace(estimate, parameters={**estimate.parameters, "paired_by": by})


def mean_kl(operands: Operands) -> Estimate:
    """KL of the mean class probabilities, from logits (n, K) and (m, K)."""
    estimate = kl_of_mean_classes(operands.own, operands.reference)
    return replace(estimate, parameters={**estimate.parameters, "num_reference": len(operands.reference)})


def texts_scored(operands: Operands) -> Estimate:
    """Mean cosine of each clip's embedding with that of the text it was asked to be."""
    operands.check_aligned()
    texts = operands.samples.texts
    different = list(dict.fromkeys(texts))
    embedded = dict(zip(different, operands.extractor.text_embedding(different), strict=True))
    return clap_score(operands.own, np.stack([embedded[text].numpy() for text in texts]))


def texts_missing(media: Media) -> str | None:
    """For `Metric.missing`."""
    where = "prompts=[...], a run with conditioning=text, or conditions.json beside the files"
    return None if media.texts is not None else f"needs to know what each sample was asked to be in words: {where}"


METRICS: dict[str, Metric] = {
    "fad": Metric(frechet, EMBEDDINGS),
    "fad_infinity": Metric(fad_infinity, EMBEDDINGS, at_least=SMALLEST + 1, missing=few_for_infinity),
    **precision_recall_metrics(ANY, NEIGHBOURS),
    "kid": Metric(kernel(subsets=KID_SUBSETS, size=KID_SIZE), ANY, needs="features", at_least=KID_SIZE),
    "kl": Metric(paired_kl, CLASSES, of="logits", needs="features"),
    "kl_mean": Metric(mean_kl, CLASSES, of="logits", needs="features"),
    "clap_score": Metric(texts_scored, tuple(CLAPS), needs="nothing", missing=texts_missing),
    "frechet_distance": Metric(frechet, ("notes",)),
    "class_accuracy": Metric(
        class_accuracy,
        ("notes",),
        of="logits",
        needs="nothing",
        missing=labels_missing("a run with conditioning=labels, or what python -m audio.sample wrote"),
    ),
}
DEFAULTS: dict[str, tuple[str, ...]] = {
    **{name: ("fad", "fad_infinity") for name in CLAPS},
    "vggish": ("fad",),
    "classifier": ("kl",),
    "notes": ("frechet_distance", "class_accuracy"),
}
TABLE = ClipTable(METRICS, DEFAULTS, unit=UNIT)


def wanted(names: list[str] | None, features: str, planned: Media | None) -> dict[str, list[str]]:
    """The metrics by extractor: those named, or of the defaults those that the samples to be made allow.

    promised: what is known of samples that are to be made; None where they are given. Raises ValueError for metrics
    that are named and not possible.
    """
    plan = TABLE.plan(names, features)
    if planned is None:
        return plan
    lacking = {name: METRICS[name].missing(planned) for own in plan.values() for name in own}
    lacking = {name: what for name, what in lacking.items() if what is not None}
    if names is not None:
        for name, what in lacking.items():
            raise ValueError(f"{name} {what}")
    return {extractor: [name for name in own if name not in lacking] for extractor, own in plan.items()}

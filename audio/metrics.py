"""The metrics of clips, and what is measured by default; a metric's name carries the evaluator's: clap_music/fad.

Letters: n clips, m clips of the reference, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from audio.encoders.protocols import FADTK, clap_score, kl_of_classes, kl_of_mean_classes
from audio.extractors import CLAPS, MS_CLAP
from audio.media import UNIT
from eval.measure.extractor import ExtractedFeatures
from eval.measure.media import Media
from eval.measure.metrics import (
    FrechetDistance,
    GaussianDistance,
    KernelDistance,
    Metric,
    NeighbourPrecision,
    NeighbourRecall,
    ReferenceStatistics,
)
from eval.measure.stand_in import stand_in_metrics
from eval.measure.table import Table, of_each
from eval.statistics.estimate import Estimate
from eval.statistics.frechet import frechet_infinity

EMBEDDINGS = (*CLAPS, MS_CLAP, "vggish")
ANY = (*EMBEDDINGS, "notes")
CLASSES = ("classifier", "notes")


@dataclass(frozen=True)
class FadInfinity(Metric):
    """FAD without its bias of small samples (Gui et al. 2024), by fadtk's 25 subsets from 500 samples on."""

    points: int = 25
    smallest: int = 500
    needs = "moments"

    def least(self, extractor: str) -> int:
        """One more than the smallest subset."""
        return self.smallest + 1

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The extrapolated distance; subsets are drawn with replacement under fadtk's protocol only."""
        replace_rows = samples.extractor.protocol.name == FADTK.name
        options = {"points": self.points, "smallest": self.smallest, "replace": replace_rows}
        return frechet_infinity(self.sample_rows(samples), self.reference_moments(samples, reference), **options)

    def missing(self, samples: Media) -> str | None:
        """Samples, where there are too few."""
        few = len(samples) <= self.smallest
        return f"needs at least {self.smallest + 1} samples, there are {len(samples)}" if few else None

    def check_count(self, extractor: str, samples: int, reference: int | None, unit: str) -> None:
        """Raises ValueError for too few samples; the reference may be small."""
        super().check_count(extractor, samples, None, unit)


@dataclass(frozen=True)
class PairedDivergence(Metric):
    """The mean over pairs of KL(reference || sample) of class probabilities, from logits (n, K)."""

    needs = "features"

    def check_count(self, extractor: str, samples: int, reference: int | None, unit: str) -> None:
        """Raises ValueError too where there are not as many samples as clips of the reference."""
        super().check_count(extractor, samples, reference, unit)
        if reference is not None and samples != reference:
            raise ValueError(
                f"{self.name} pairs each sample with a clip of the reference; there are {samples} samples and "
                f"{reference} clips. num=... makes or takes fewer samples, metrics=[kl_mean] pairs nothing"
            )

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """Sample i and clip i, or files of the same name."""
        logits = self.aligned_rows(samples)
        rows, by = self.paired_rows(samples, reference)
        estimate = kl_of_classes(logits, rows)
        return replace(estimate, parameters={**estimate.parameters, "paired_by": by})

    def paired_rows(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> tuple[np.ndarray, str]:
        """The reference's rows (n, K) in the order of the samples, and by what they are paired.

        By the files' names where both sets have the same ones, otherwise by place; ValueError where only some are the
        same.
        """
        own, media = samples.media.names, reference.media
        theirs, rows = None if media is None else media.names, self.reference_rows(samples, reference)
        common = set(own or ()) & set(theirs or ())
        if not common:
            return rows, "place"
        if set(own) != set(theirs):
            odd = sorted(set(own) ^ set(theirs))
            raise ValueError(
                f"{self.name} pairs files by name, but {len(odd)} have no partner, such as {odd[0]}; needed: all the "
                "same names, or none, where files are paired in their order"
            )
        places = {name: place for place, name in enumerate(theirs)}
        return rows[[places[name] for name in own]], "file name"


@dataclass(frozen=True)
class MeanDivergence(Metric):
    """KL of the mean class probabilities, from logits (n, K) and (m, K)."""

    needs = "features"

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The divergence of the two means."""
        rows = self.reference_rows(samples, reference)
        estimate = kl_of_mean_classes(self.sample_rows(samples), rows)
        return replace(estimate, parameters={**estimate.parameters, "num_reference": len(rows)})


@dataclass(frozen=True)
class ClapScore(Metric):
    """The mean cosine of each clip's embedding with that of the text it was asked to be."""

    needs = "nothing"

    def missing(self, samples: Media) -> str | None:
        """The texts, where nobody knows them."""
        where = "prompts=[...], a run with conditioning=text, or conditions.json beside the files"
        return (
            None if samples.texts is not None else f"needs to know what each sample was asked to be in words: {where}"
        )

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The mean over the samples; each different text is embedded once."""
        embeddings, texts = self.aligned_rows(samples), samples.media.texts
        different = list(dict.fromkeys(texts))
        embedded = dict(zip(different, samples.extractor.text_embedding(different), strict=True))
        return clap_score(embeddings, np.stack([embedded[text].numpy() for text in texts]))


SEVERAL = of_each(
    FrechetDistance("fad", EMBEDDINGS),
    FadInfinity("fad_infinity", EMBEDDINGS),
    *(GaussianDistance(f"kad_bandwidth_{whose}", EMBEDDINGS, bandwidth=whose) for whose in ("reference", "evaluated")),
    NeighbourPrecision("precision", ANY),
    NeighbourRecall("recall", ANY),
    KernelDistance("kid", ANY),
    PairedDivergence("kl", CLASSES, "logits"),
    MeanDivergence("kl_mean", CLASSES, "logits"),
    ClapScore("clap_score", tuple(CLAPS)),
    beside=True,
)
TABLE = Table(
    metrics=(
        *SEVERAL,
        *stand_in_metrics("notes", labels_from="a run with conditioning=labels, or what python -m audio.sample wrote"),
    ),
    defaults={
        **{name: (f"{name}/fad", f"{name}/fad_infinity") for name in (*CLAPS, MS_CLAP)},
        "vggish": ("vggish/fad",),
        "classifier": ("classifier/kl",),
        "notes": ("frechet_distance", "class_accuracy"),
    },
    unit=UNIT,
)

"""Metrics of media that were asked for in words: do texts and media find each other, how far apart are the media.

Letters: n pieces of media with their texts, D features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from eval.measure.extractor import ExtractedFeatures, Extractor
from eval.measure.media import Media
from eval.measure.metrics import FrechetDistance, Metric, ReferenceStatistics
from eval.statistics.diversity import diversity, multimodality
from eval.statistics.estimate import Estimate
from eval.statistics.retrieval import POOL, matching_distance, r_precision


class TextExtractor(Extractor):
    """An extractor that takes texts into the space of its main features."""

    @abstractmethod
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Features (n, D) float32 on the CPU of n texts."""


@dataclass(frozen=True)
class PairMetric(Metric):
    """A number of pairs of texts and media, in pools of 32 in their order; the last pool that is not full is left out.

    texts_from: where the texts can come from, in words, for an error.
    """

    texts_from: str = "run=... with conditioning=text, or prompts=[...]"
    needs = "nothing"

    def least(self, extractor: str) -> int:
        """A pool."""
        return POOL

    def missing(self, samples: Media) -> str | None:
        """The texts, where nobody knows them."""
        needed = f"needs to know what each sample was asked to be in words: {self.texts_from}"
        return None if samples.texts is not None else needed

    def sides(self, samples: ExtractedFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Texts (n, D) and media (n, D), row by row; the texts are taken by the first metric that is asked for."""
        if "texts" not in samples.shared:
            samples.shared["texts"] = samples.extractor.text_features(samples.media.texts).numpy()
        return samples.shared["texts"], self.aligned_rows(samples)


@dataclass(frozen=True, kw_only=True)
class RPrecision(PairMetric):
    """The share of the texts whose own media are among the `top` nearest of a pool."""

    top: int

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The share, `eval.statistics.retrieval.r_precision`."""
        return r_precision(*self.sides(samples), top=self.top)[-1]


@dataclass(frozen=True)
class MatchingDistance(PairMetric):
    """The mean distance of a text and its media ("matching score")."""

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The mean, `eval.statistics.retrieval.matching_distance`."""
        return matching_distance(*self.sides(samples))


@dataclass(frozen=True)
class Diversity(Metric):
    """The mean distance of `pairs` random pairs of media, or of as many as there are media where these are fewer."""

    pairs: int = 300
    needs = "nothing"

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The mean, `eval.statistics.diversity.diversity`."""
        rows = self.sample_rows(samples)
        return diversity(rows, pairs=min(self.pairs, len(rows)))


@dataclass(frozen=True)
class Multimodality(Metric):
    """The mean distance of `pairs` random pairs of media that were made for the same text."""

    pairs: int = 10
    needs = "nothing"

    def missing(self, samples: Media) -> str | None:
        """Several samples of a text."""
        if samples.repeats is None:
            return f"needs several samples of each of some texts, {self.pairs} at least: multimodality=NUMBER of texts"
        few = samples.repeats.count < self.pairs
        return f"needs {self.pairs} samples of a text, there are {samples.repeats.count}" if few else None

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The mean, `eval.statistics.diversity.multimodality`."""
        return multimodality(samples.repeats[self.features_name(samples.extractor)], pairs=self.pairs)


@dataclass(frozen=True)
class PairCosine(PairMetric):
    """The mean cosine of a text and its media ("CLIP score"), of unit vectors."""

    def least(self, extractor: str) -> int:
        """A pair has no pool."""
        return 1

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The mean over all pairs."""
        texts, media = (side.astype(np.float64) for side in self.sides(samples))
        return Estimate(float((texts * media).sum(1).mean()), len(media))


@dataclass(frozen=True)
class MeanFeature(Metric):
    """The mean over the media of a number (n, 1) that the extractor gives of each."""

    needs = "nothing"

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The mean."""
        rows = self.aligned_rows(samples)
        return Estimate(float(rows.astype(np.float64).mean()), len(rows))


def text_media_metrics(extractor: str, features: str = "main") -> tuple[Metric, ...]:
    """The usual metrics of a text-to-media evaluator, each name with the evaluator's: "moves/fid"."""
    of = (extractor,)
    return (
        FrechetDistance(f"{extractor}/fid", of, features),
        *(RPrecision(f"{extractor}/r_precision_{top}", of, features, top=top) for top in (1, 2, 3)),
        MatchingDistance(f"{extractor}/matching_score", of, features),
        Diversity(f"{extractor}/diversity", of, features),
    )

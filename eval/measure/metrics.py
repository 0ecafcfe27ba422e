"""Metrics that domains share: what each is taken with, what it needs, and how it is computed from features.

A domain adds its own by a class of its own: `InceptionScore` in image/metrics.py.

Letters: n pieces of media, n' rows of their features, m rows of the reference's, D features, K classes.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch

from eval.measure.extractor import ExtractedFeatures, Extractor
from eval.measure.media import Media
from eval.statistics.estimate import Estimate
from eval.statistics.frechet import Moments, frechet_distance, moments
from eval.statistics.kernel import Bandwidth, gaussian_distance, kernel_distance
from eval.statistics.neighbours import PrecisionRecall, precision_recall

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceStatistics:
    """What a reference has for the metrics of one extractor.

    moments   by the features' names
    features  (m, D) by name
    media     behind the features; None where only statistics are there
    """

    moments: Mapping[str, Moments] = field(default_factory=dict)
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    media: Media | None = None


@dataclass(frozen=True)
class Metric(ABC):
    """A number of samples, and what it asks for.

    name        by which the config and the records know it
    extractors  that it is defined for, by name
    features    which of the extractor's features it is taken in; "main" is the extractor's own choice
    beside      taken with its own extractor, the first of `extractors`, whatever the config key `features` is
    needs       of the reference: its moments, the features of its media, or nothing
    """

    name: str
    extractors: tuple[str, ...]
    features: str = "main"
    beside: bool = False
    needs: ClassVar[Literal["moments", "features", "nothing"]]

    @abstractmethod
    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """Compute the number, in the main process; the estimate counts rows of features."""

    def features_name(self, extractor: Extractor) -> str:
        """The name of the features that it is taken in."""
        return extractor.main if self.features == "main" else self.features

    def sample_rows(self, samples: ExtractedFeatures) -> np.ndarray:
        """The samples' features (n', D)."""
        return samples.arrays[self.features_name(samples.extractor)]

    def reference_rows(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> np.ndarray:
        """The same features (m, D) of the reference's media."""
        return reference.features[self.features_name(samples.extractor)]

    def reference_moments(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Moments:
        """The reference's moments of the same features."""
        return reference.moments[self.features_name(samples.extractor)]

    def aligned_rows(self, samples: ExtractedFeatures) -> np.ndarray:
        """The samples' features (n, D); ValueError where they are not one row for each sample, beside its label."""
        rows, media = self.sample_rows(samples), samples.media
        if len(rows) != len(media):
            name = f"'{self.features_name(samples.extractor)}' ({samples.extractor.name})"
            raise ValueError(
                f"{self.name}: features {name} have {len(rows)} rows for {len(media)} {media.unit}s; it needs one for "
                "each, beside its label"
            )
        return rows

    def least(self, extractor: str) -> int:
        """The number of pieces of media that it needs at least, with the extractor of that name."""
        return 2

    def missing(self, samples: Media) -> str | None:
        """What samples lack for it, in words, for an error; None: nothing."""
        return None

    def check_count(self, extractor: str, samples: int, reference: int | None, unit: str) -> None:
        """Raises ValueError when the samples, or the media of the reference, are fewer than it needs.

        reference: None where nothing is to be taken from its media; unit: what a piece of media is called.
        """
        counts = {"samples": samples}
        if reference is not None and self.needs != "nothing":
            counts[f"{unit}s of the reference"] = reference
        for what, count in counts.items():
            if count < self.least(extractor):
                needed = f"needs at least {self.least(extractor)} {what}, there are {count}"
                raise ValueError(f"{self.name} with features={extractor} {needed}")


@dataclass(frozen=True)
class FrechetDistance(Metric):
    """The Fréchet distance to the reference: FID, sFID, FAD, FD-DINOv2, FVD.

    covariance  divided by n - 1 (unbiased), or by n (biased), as FVD's code has it; None: unbiased, and not written
                into the record, where the field knows nothing else
    """

    covariance: Literal["unbiased", "biased"] | None = None
    needs = "moments"

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The distance; warns of its bias where there are no more rows than features."""
        rows = self.sample_rows(samples)
        count, width = rows.shape
        if count <= width:
            log.warning(
                "%s of %d samples with %d features: its bias is large below %d", self.name, count, width, width + 1
            )
        own, other = moments(rows), self.reference_moments(samples, reference)
        value = frechet_distance(own, other, biased=self.covariance == "biased")
        return Estimate(value, count, parameters={} if self.covariance is None else {"covariance": self.covariance})


@dataclass(frozen=True)
class KernelDistance(Metric):
    """KID: the kernel distance to the reference's features, over subsets."""

    subsets: int = 100
    size: int = 1000
    needs = "features"

    def least(self, extractor: str) -> int:
        """The samples of a subset."""
        return self.size

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The mean over subsets, which are drawn as torch-fidelity draws them."""
        own, other = self.sample_rows(samples), self.reference_rows(samples, reference)
        return kernel_distance(own, other, subsets=self.subsets, subset_size=self.size)


@dataclass(frozen=True, kw_only=True)
class GaussianDistance(Metric):
    """KAD: the kernel distance to all of the reference's features; whose median distance the bandwidth is."""

    bandwidth: Bandwidth
    needs = "features"

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The distance, `eval.statistics.kernel.gaussian_distance`."""
        own, other = self.sample_rows(samples), self.reference_rows(samples, reference)
        return gaussian_distance(own, other, bandwidth=self.bandwidth)


@dataclass(frozen=True)
class NeighbourMetric(Metric):
    """Precision or recall by balls around the `k` nearest neighbours; both are computed together."""

    k: int = 3
    needs = "features"

    def least(self, extractor: str) -> int:
        """A sample and its k neighbours."""
        return self.k + 1

    def both(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> PrecisionRecall:
        """Precision and recall, computed by the first of the two that is asked for."""
        name = self.features_name(samples.extractor)
        if (name, self.k) not in samples.shared:
            own, other = self.sample_rows(samples), self.reference_rows(samples, reference)
            blocks = samples.extractor.distance_blocks(samples.device)
            samples.shared[name, self.k] = precision_recall(own, other, k=self.k, blocks=blocks)
        return samples.shared[name, self.k]


@dataclass(frozen=True)
class NeighbourPrecision(NeighbourMetric):
    """The share of the samples within the reference's balls."""

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The first of both numbers."""
        return self.both(samples, reference).precision


@dataclass(frozen=True)
class NeighbourRecall(NeighbourMetric):
    """The share of the reference within the samples' balls."""

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The second of both numbers."""
        return self.both(samples, reference).recall


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy(Metric):
    """The share of the samples whose largest logit, of (n, K), is the class that they were asked to be.

    labels_from: where the classes can come from, in words, for an error. groups: of each of the K classes, where any
    class of the same group will do; None: no other will.
    """

    labels_from: str
    groups: tuple[int, ...] | None = None
    needs = "nothing"

    def missing(self, samples: Media) -> str | None:
        """The classes, where nobody knows them."""
        needed = f"needs to know which class each sample was asked to be: {self.labels_from}"
        return None if samples.labels is not None else needed

    def compute(self, samples: ExtractedFeatures, reference: ReferenceStatistics) -> Estimate:
        """The mean over the samples."""
        logits = self.aligned_rows(samples)
        found, wanted = torch.from_numpy(logits).argmax(1), samples.media.labels
        if self.groups is not None:
            groups = torch.tensor(self.groups)
            found, wanted = groups[found], groups[wanted]
        right = found == wanted
        return Estimate(right.double().mean().item(), len(logits))

"""How latents are brought to mean 0 and deviation 1, channel by channel, and how the two are measured.

Letters: n items, B batch, Z latent channels.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.data.stream import fingerprint
from core.draws import numpy_rng
from core.latents.cache import array_facts
from core.latents.fitting import LatentStatistics
from core.latents.tokenizer import KLTokenizer, Normal, cache_constants
from core.schema import strict
from core.storage.atomic import write_atomic
from core.storage.checkpoint import CheckpointStore, DamagedError, read_checkpoint
from core.storage.json_files import read_json
from core.storage.provenance import json_sha256
from core.storage.run_folder import RunDirectory

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """How latents are brought to mean 0 and deviation 1; null: by the numbers that are known.

    latent_mean  a number, or one for each latent channel
    latent_std   the same
    """

    latent_mean: float | list[float] | None = None
    latent_std: float | list[float] | None = None

    def __post_init__(self):
        if (self.latent_mean is None) != (self.latent_std is None):
            raise ValueError(
                f"tokenizer.latent_mean is {self.latent_mean}, latent_std {self.latent_std}; give both or none"
            )
        stds = self.latent_std if isinstance(self.latent_std, list) else [self.latent_std]
        if self.latent_std is not None and not all(0 < std < float("inf") for std in stds):
            raise ValueError(f"tokenizer.latent_std is {self.latent_std}; allowed: finite numbers above 0")

    @property
    def given(self) -> Scaling | None:
        """The scaling by the numbers in the config, if they are there."""
        return None if self.latent_mean is None else Scaling.of(self.latent_mean, self.latent_std)


@dataclass(frozen=True)
class Scaling:
    """latents = (z - shift) * scale, each a number or one for each channel."""

    shift: Normal
    scale: Normal

    @classmethod
    def of(cls, mean: Normal, std: Normal) -> Scaling:
        """The scaling that brings that mean and deviation to 0 and 1; a channel that is constant stays as it is."""
        if not isinstance(std, list):
            return cls(mean, 1 / std)
        return cls(mean, [1 / each if each > 0 else 1.0 for each in std])

    @classmethod
    def kept(cls, constants: Mapping[str, Any]) -> Scaling:
        """The scaling that a cache or a checkpoint has kept among a tokenizer's constants; ValueError without one."""
        if not isinstance(constants, Mapping) or not {"shift", "scale"} <= constants.keys():
            raise ValueError(f"the constants of a tokenizer are {constants!r}; needed among them: shift, scale")
        return cls(constants["shift"], constants["scale"])


@dataclass(frozen=True)
class MeasuredLatents:
    """What the items of a data set say of a tokenizer.

    mean, std    of its latents, one for each channel
    correlation  of items before and after coding, as the domain measures it; mean over a few items
    num_items    that were measured
    """

    mean: list[float]
    std: list[float]
    correlation: float
    num_items: int

    def __post_init__(self) -> None:
        numbers = [*self.mean, *self.std, self.correlation]
        if not self.mean or len(self.mean) != len(self.std) or not all(map(math.isfinite, numbers)):
            raise ValueError(f"the tokenizer's latents have means {self.mean}, deviations {self.std}; needed: finite")


class ScalingMeasurement:
    """Measures the latents of a data set under a tokenizer; a domain says how its media are read and compared.

    The same look at the media tells whether the autoencoder is a trained one: random weights give latents too, and a
    run on them looks healthy until somebody looks at its samples.

    measured_items  at most, for mean and deviation
    decoded_items   of these, coded and decoded
    batch           read at once
    likeness        what `correlation` measures, in words
    """

    measured_items, decoded_items, batch = 256, 8, 8
    likeness = "correlation"

    def __init__(self, tokenizer: KLTokenizer, dataset: Any):
        self.tokenizer, self.dataset = tokenizer, dataset

    def media(self, index: int) -> Tensor:
        """Item `index` (*media) without chance."""
        raise NotImplementedError

    def correlation(self, media: Tensor, decoded: Tensor) -> Tensor:
        """How alike items (B, *media) are before and after coding, (B,), at most 1."""
        raise NotImplementedError

    def without_padding(self, index: int, moment: Tensor) -> Tensor:
        """The part of item `index`'s moment (1, Z, ...) that is no padding."""
        return moment

    def cached(self, cache: Path) -> MeasuredLatents:
        """The measurement: from the file that a run before has left in `cache`, or made now and kept.

        A function of the tokenizer's weights and the data set; ValueError for a file that is damaged.
        """
        constants = cache_constants(self.tokenizer.constants())
        known = {"schema_version": 2, "tokenizer": constants, "data": fingerprint(self.dataset)}
        known |= {"media": list(self.dataset.media_shape), "first": array_facts(self.media(0).numpy())}
        file = cache / f"latents-{json_sha256(known)[:16]}.json"
        if file.exists():
            try:
                found = strict(MeasuredLatents, read_json(file))
            except ValueError as error:
                raise ValueError(f"{file} is damaged, delete it: {error}") from error
        else:
            found = self.measure()
            write_atomic(file, json.dumps(vars(found)) + "\n")
        log.info(
            "latents of %d items: means %.3g to %.3g, deviations %.3g to %.3g; %s of decoded items %.3f",
            *(found.num_items, min(found.mean), max(found.mean), min(found.std), max(found.std)),
            *(self.likeness, found.correlation),
        )
        return found

    @torch.no_grad()
    def measure(self) -> MeasuredLatents:
        """Latents of at most `measured_items` items, their padding left out, and a few items decoded again."""
        statistics, correlations, count = LatentStatistics(), [], 0
        for rows, media in self._batches():
            mean, std = self.tokenizer.moments(media)
            for row, index in enumerate(rows):
                own = (self.without_padding(index, moment[row : row + 1]) for moment in (mean, std))
                statistics.add(*own)
            if count < self.decoded_items:
                correlations.append(self.correlation(media, self.tokenizer.decode(mean).cpu()))
            count += len(media)
        means, stds = statistics.of_channels()
        return MeasuredLatents(means, stds, torch.cat(correlations).mean().item(), count)

    def _batches(self) -> Iterator[tuple[list[int], Tensor]]:
        """Rows of the data set, which do not depend on a run's seed, and their media (B, *media)."""
        order = numpy_rng("latent statistics").permutation(len(self.dataset))[: self.measured_items]
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch].tolist()
            yield rows, torch.stack([self.media(index) for index in rows])


def scaling_of_run(run: RunDirectory, tokenizer: KLTokenizer) -> Scaling | None:
    """The scaling that a run began with, to the last bit; None for one without a checkpoint or with other weights.

    Measured again, on another machine or number of threads, it would differ in rounding, and the run would not be one.
    """
    newest = CheckpointStore(run.checkpoints).newest_intact(only=(), check=_check_scaling)
    if newest is None:
        return None
    kept = read_checkpoint(newest, only=()).notes["tokenizer"]
    return Scaling.kept(kept) if kept["sha256"] == tokenizer.constants()["sha256"] else None


def _check_scaling(notes: Mapping[str, Any]) -> None:
    kept = notes.get("tokenizer")
    if not isinstance(kept, dict) or not {"shift", "scale", "sha256"} <= kept.keys():
        raise DamagedError(f"notes.tokenizer is {kept!r}")

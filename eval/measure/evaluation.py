"""What a domain says to the command that measures, and the keys of its config that all domains share.

class SignalsEvaluation(Evaluation): ...
run_evaluation(config, SignalsEvaluation(config), print)      # eval.measure.command
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from core.commands.sample import Sampling, check_sampler
from core.precision import Precision
from core.processes.spread import Compile
from core.storage.yaml_files import read_yaml
from core.train.config import RunConfig
from eval.measure.extractor import Extractor
from eval.measure.generated import AS_THEY_ARE, ChunkMedia, Chunks, Form
from eval.measure.media import Media, PlannedSamples
from eval.measure.metrics import Metric
from eval.measure.record import Record, table
from eval.measure.reference import Reference, Size
from eval.measure.table import Table
from eval.statistics.estimate import Estimate, over_seeds


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The keys of every domain; a domain adds the key that names its reference, and its own.

    The keys are explained in eval/conf/base_evaluate.yaml and in the domain's conf/evaluate.yaml.
    """

    run: str | None = None
    architecture: str | None = None
    overrides: dict = field(default_factory=dict)
    samples: str | None = None
    metrics: list[str] | None = None
    features: str | None = None
    num: int | None = None
    seed: int | None = None
    seeds: list[int] | None = None
    checkpoint: str | None = None
    weights: str = "ema"
    batch_size: int | None = None
    feature_batch_size: int = 64
    device: str = "auto"
    precision: Precision = "fp32"
    compile: Compile = "none"
    tf32: bool = False
    sampler: dict = field(default_factory=dict)
    weights_dir: str | None = None
    cache_dir: str = "runs/cache"
    out: str | None = None
    keep_samples: bool = False
    overwrite: bool = False
    save_reference: str | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("run", "architecture", "samples", "save_reference")}
        if sum(value is not None for value in given.values()) > 1:
            raise ValueError(f"{', '.join(f'{key} is {value!r}' for key, value in given.items())}; give one of them")
        check_sampler(self.sampler)
        self._check_seeds()
        for key in ("num", "batch_size", "feature_batch_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} is {value}; it must be at least 1")

    def _check_seeds(self) -> None:
        seeds = self.seeds
        if seeds is None:
            return
        if self.seed is not None:
            raise ValueError(f"seed is {self.seed} and seeds are {seeds}; give one of them")
        if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"seeds are {seeds}; needed: 2 or more different whole numbers, 0 or above")
        if self.save_reference is not None:
            raise ValueError(f"seeds are {seeds} and save_reference is given; one file holds what one seed draws")

    @property
    def makes_samples(self) -> bool:
        """Whether samples are made rather than given."""
        return self.run is not None or self.architecture is not None

    def check_target(self, key: str, reference: str | None, allowed: str) -> None:
        """Raises ValueError where there is no reference, or nothing to measure.

        key: that names the reference; allowed: what it may be, in words.
        """
        if reference is None:
            raise ValueError(f"{key} is null; needed: {allowed}")
        if not self.makes_samples and self.samples is None and self.save_reference is None:
            raise ValueError(
                "run, architecture and samples are null; needed: what is to be measured, or save_reference"
            )

    def sample_values(self, num: int, model: RunConfig | None) -> dict[str, Any]:
        """The keys of the command that makes the samples; seed and batch are those of the run's config where null."""
        same = ("run", "architecture", "overrides", "checkpoint", "weights", "device", "precision", "compile", "tf32")
        seed = self.seed if self.seed is not None or model is None else model.seed
        batch = self.batch_size or (1 if model is None else model.sample_batch_size)
        values = {name: getattr(self, name) for name in (*same, "sampler")}
        return {**values, "num": num, "seed": seed or 0, "batch_size": batch}


class Evaluation(ABC):
    """What a domain measures in one call of the command: its metrics, extractors, references and samples.

    table        the domain's metrics
    key          the config key that names the reference
    form_key     the protocol's key for the form in which media are kept until they are measured
    file_form    that form, for an extractor that does not take floats: as a file would hold them
    """

    table: ClassVar[Table]
    key: ClassVar[str] = "reference"
    form_key: ClassVar[str] = "samples"
    file_form: ClassVar[Form] = AS_THEY_ARE

    def __init__(self, config: EvaluateConfig):
        self.config = config

    # What a domain has to say

    @property
    @abstractmethod
    def extractor_name(self) -> str:
        """The extractor: what the config key `features` says, or a default; ValueError for what does not fit."""

    @property
    @abstractmethod
    def num(self) -> int:
        """The number of samples to make."""

    @abstractmethod
    def sampling(self, num: int, model: RunConfig | None = None) -> Sampling:
        """The command that makes `num` samples: of `config.sample_values(num, model)`, and what the domain adds."""

    @abstractmethod
    def extractor(self, name: str, device: torch.device) -> Extractor:
        """The extractor of that name; ValueError where its weights are absent, ImportError for an extra."""

    @abstractmethod
    def open_reference(self) -> Reference:
        """What samples are compared with; ValueError for a file that is none, or damaged."""

    @abstractmethod
    def open_samples(self, path: Path) -> Media:
        """The given samples; ValueError for what is none."""

    # What it may say otherwise

    def requested_metrics(self) -> dict[str, list[Metric]]:
        """The metrics by extractor, in the order in which they are printed: as the config says, or the defaults."""
        return self.table.by_extractor(self.config.metrics, self.extractor_name)

    def planned_samples(self) -> PlannedSamples:
        """What is known of the samples that are to be made."""
        return PlannedSamples(self.num, self.table.unit, size=None)

    def generated_samples(self, chunks: Chunks, name: str) -> Media:
        """The samples that were made, in chunks that are all there."""
        return ChunkMedia(chunks, name, self.table.unit)

    def sample_entries(self, samples: Media) -> dict[str, Any]:
        """What the protocol says of samples, made or given, beside what made them."""
        return {}

    def with_config(self, config: EvaluateConfig) -> Evaluation:
        """The same evaluation with another seed in its config."""
        return type(self)(config)

    @property
    def seeds(self) -> list[int] | None:
        """The seeds that all is measured with; None: one."""
        return self.config.seeds

    def over_seeds(self, values: dict[int, float], num_samples: int, parameters: dict[str, Any]) -> Estimate:
        """What is reported of the values of several seeds."""
        return over_seeds(values, num_samples, parameters)

    def real_media(self) -> Media | None:
        """Real media that are measured in the place of samples, before any is made; None: the domain has none."""
        return None

    def real_row(self, records: list[Record]) -> str:
        """What is shown of their records; ValueError where they are not what they should be."""
        return table(records, allow_differences=True).removesuffix("\n")

    def sample_identity(self) -> dict[str, Any]:
        """What decides the samples that are made, beside their protocol; nothing of it is written into a record."""
        return {}

    def size_of(self, samples: Media) -> Size:
        """What of given samples the reference's media must agree with; None: nothing."""
        return None

    def check_size(self, size: Size, reference: Reference) -> None:
        """Raises ValueError where the samples' size and the reference's do not agree."""
        if None not in (size, reference.size) and size != reference.size:
            raise ValueError(f"samples are of size {size}, the reference {reference.name} of {reference.size}")

    # What follows

    @cached_property
    def model(self) -> RunConfig | None:
        """The training config of the model whose samples are made; None where they are given."""
        return self.sampling(1).model_config if self.config.makes_samples else None

    def form(self, extractors: Iterable[Extractor]) -> Form:
        """The form in which samples are kept until these extractors have taken their features."""
        return AS_THEY_ARE if all(extractor.takes_floats for extractor in extractors) else self.file_form


def written_protocol(config: EvaluateConfig) -> dict[str, Any]:
    """What the sampling command wrote beside the given samples; {} where it wrote nothing."""
    path = Path(config.samples or "").expanduser()
    files = [folder / "protocol.yaml" for folder in (path, path.parent)] if config.samples else []
    file = next((file for file in files if file.is_file()), None)
    damaged = f"{file} is damaged: no mapping with a protocol in it; without it, the protocol is unknown"
    try:
        content = {} if file is None else read_yaml(file)
        json.dumps(content, allow_nan=False)  # as a record holds it
    except (ValueError, TypeError) as error:
        raise ValueError(f"{damaged}: {error}") from error
    if not isinstance(content.get("protocol", {}), dict):
        raise ValueError(damaged)
    for key in ("run", "checkpoint"):
        if not isinstance(content.get(key), str | None):
            raise ValueError(f"{file} is damaged: {key} is {content[key]!r:.80}; needed: a path, or null")
    return content


def run_behind(config: EvaluateConfig) -> Path | None:
    """The folder of the run that is measured or that made the given samples; None where it is not known or gone."""
    run = config.run or written_protocol(config).get("run")
    return Path(run) if run is not None and (Path(run) / "config.yaml").is_file() else None


def output_folder(config: EvaluateConfig) -> Path:
    """The folder of records and of unfinished samples."""
    if config.out is not None:
        return Path(config.out)
    if config.samples is not None:
        path = Path(config.samples).expanduser()
        return (path if path.is_dir() else path.parent) / "evaluations"
    return Path(config.run) / "evaluations" if config.run is not None else Path("evaluations")

"""What a domain hands to the command that measures, and what is known of the samples.

def plan(config: EvaluateConfig) -> Plan: ...
COMPONENTS = Components(TABLE, plan, open_reference, open_samples, size_of, check_size, form)
run_evaluation(config, COMPONENTS, print)      # eval.measure.command
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from core.commands.sample import SampleConfig, SamplingDomain
from core.precision import Precision
from core.processes.spread import Compile
from core.processes.world import World
from core.storage.provenance import json_sha256
from core.storage.run_folder import RunDirectory
from core.train.config import RunConfig
from eval.measure.extractor import Extractor
from eval.measure.generated import ChunkMedia, Chunks, Form
from eval.measure.media import Media
from eval.measure.record import Provenance, hardware
from eval.measure.reference import Reference, Size
from eval.measure.table import Table

UNKNOWN = {"source": "unknown: samples given"}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is measured and how, the keys of every domain; a domain adds the key that names its reference, and its own.

    The keys are explained in the domain's conf/evaluate.yaml.
    """

    run: str | None = None
    architecture: str | None = None
    overrides: dict = field(default_factory=dict)
    samples: str | None = None
    metrics: list[str] | None = None
    features: str | None = None
    num: int | None = None
    seed: int | None = None
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
        for key in ("num", "batch_size", "feature_batch_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} is {value}; it must be at least 1")

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


@dataclass(frozen=True)
class SamplePlan:
    """How samples are made.

    command  the sampling command that would make them
    model    the training config that says what the model is
    domain   the domain's side of sampling
    size     of the media, to be compared with `Reference.size`; None: not known
    kept     the protocol's key that says in which form media are kept until they are measured
    media    (chunks, name, unit) -> the media in chunks that are all there
    """

    command: SampleConfig
    model: RunConfig
    domain: SamplingDomain
    size: Size
    kept: str
    media: Callable[[Chunks, str, str], Media] = ChunkMedia


@dataclass(frozen=True)
class EvaluationPlan:
    """What the command comes to, with every null filled in.

    making     how samples are made; None where they are given
    reference  what the domain's config key for it says
    metrics    by extractor, in the order in which they are told: `Table.plan`
    extractor  (name, device) -> the extractor; ValueError where its weights are absent, ImportError for an extra
    """

    sample_plan: SamplePlan | None
    reference: str
    metrics: dict[str, list[str]]
    extractor: Callable[[str, torch.device], Extractor]


@dataclass(frozen=True)
class Components:
    """What a domain hands in, once.

    table           its metrics
    plan            config -> what it comes to; ValueError for what does not fit together
    open_reference  what the plan's reference names; ValueError for what is none, and for damaged files
    open_samples    the media at a path that the config key `samples` names; ValueError
    size_of         what of given media the reference's must agree with
    check_size      (size of the samples, reference): ValueError where they do not agree
    form            extractors by name -> how samples are kept until these have looked at them
    key             the config key that names the reference
    """

    table: Table
    plan: Callable[[Any], EvaluationPlan]
    open_reference: Callable[[str], Reference]
    open_samples: Callable[[Path], Media]
    size_of: Callable[[Media], Size]
    check_size: Callable[[Size, Reference], None]
    form: Callable[[Mapping[str, Extractor]], Form]
    key: str = "reference"


def written_protocol(config: EvaluateConfig) -> dict[str, Any]:
    """What the sampling command wrote beside the given samples; {} where it wrote nothing."""
    path = Path(config.samples or "").expanduser()
    files = [folder / "protocol.yaml" for folder in (path, path.parent)] if config.samples else []
    file = next((file for file in files if file.is_file()), None)
    content = {} if file is None else yaml.safe_load(file.read_text())
    if not isinstance(content, dict) or not isinstance(content.get("protocol", {}), dict):
        raise ValueError(f"{file} is damaged: no mapping with a protocol in it; without it, the protocol is unknown")
    return content


def run_behind(config: EvaluateConfig) -> Path | None:
    """The folder of the run that is measured or that made the given samples; None where it is not known or gone."""
    run = config.run or written_protocol(config).get("run")
    return Path(run) if run is not None and (Path(run) / "config.yaml").is_file() else None


def given_provenance(config: EvaluateConfig, world: World) -> Provenance:
    """What is known of the making of given samples."""
    content = written_protocol(config)
    protocol = content.get("protocol", UNKNOWN)
    if config.num is not None and protocol is not UNKNOWN:
        protocol = {**protocol, "num": config.num}
    return provenance_of(protocol, content.get("run") or config.samples, content.get("checkpoint") or "", world)


def provenance_of(protocol: dict, run: str, checkpoint: str, world: World) -> Provenance:
    """What all records of this evaluation share."""
    step = re.search(r"step_(\d+)", checkpoint)
    folder = Path(run)
    config = json_sha256(RunDirectory(folder).config()) if (folder / "config.yaml").is_file() else None
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    machine = hardware(world.device, world.size)
    return Provenance(protocol, machine, now, config, None if step is None else int(step[1]), run)


def output_folder(config: EvaluateConfig) -> Path:
    """Where records and unfinished samples go."""
    if config.out is not None:
        return Path(config.out)
    if config.samples is not None:
        path = Path(config.samples).expanduser()
        return (path if path.is_dir() else path.parent) / "evaluations"
    return Path(config.run) / "evaluations" if config.run is not None else Path("evaluations")

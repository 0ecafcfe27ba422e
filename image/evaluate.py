"""`python -m image.evaluate run=<dir> | samples=<folder or npz> reference=<...>`: from weights or images to numbers."""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from tqdm import tqdm

from core.checkpoint import sha256_file
from core.config import Entry
from core.distributed import World, joined
from core.generate import StoppedError
from core.parallel import Compile
from core.precision import Precision
from core.provenance import json_sha256
from core.rundir import RunDirectory
from core.schema import plain
from core.signals import StopRequest
from eval.estimate import Estimate
from eval.record import Facts, Record, hardware, table, write_records
from eval.weights import weights_root
from image.chunks import ChunkImages, Chunks
from image.collection import FirstImages, Images, open_images
from image.data import DigitsConfig
from image.features import Extractor, WeightsSource, build_extractor
from image.measure import DEFAULTS, METRICS, check_count, extractor_name, measure
from image.metrics import DigitsEvaluationConfig
from image.reference import DIGITS, Extract, Reference, open_reference, save_statistics, taker
from image.sample import (
    UINT8_RULE,
    SampleConfig,
    load_generator,
    model_config,
    protocol_of,
    requested_labels,
    weights_file,
)
from image.train import ImageConfig

T = TypeVar("T")
NUM_SAMPLES = 50_000  # of a run, as ImageNet's protocol has it
UNKNOWN = {"source": "unknown: samples given"}
progress = functools.partial(tqdm, unit="image", mininterval=0.5)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is measured, against what, and how; the keys are explained in conf/evaluate.yaml."""

    run: str | None = None
    architecture: str | None = None
    overrides: dict = field(default_factory=dict)
    samples: str | None = None
    reference: str | None = None
    metrics: list[str] | None = None
    features: str | None = None
    num: int | None = None
    seed: int | None = None
    labels: int | list[int] | None = None
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
    inception: str | None = None
    dinov2: str | None = None
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


@dataclass(frozen=True)
class Plan:
    """What the command comes to, with every null filled in.

    sample   how samples are made; None where they are given
    model    what makes them
    metrics  by extractor, in the order in which they are told
    """

    sample: SampleConfig | None
    model: ImageConfig | None
    reference: str
    metrics: dict[str, list[str]]
    weights: WeightsSource


@dataclass(frozen=True)
class Job:
    """What every step of the command needs: what to do, against what, in which process, and whether to stop."""

    config: EvaluateConfig
    plan: Plan
    reference: Reference
    world: World
    stop: Callable[[], bool]

    @property
    def take(self) -> Extract:
        """How features are taken."""
        return taker(self.world, self.config.feature_batch_size, self.stop, functools.partial(bar_of, self.world))

    def eyes(self) -> dict[str, Extractor]:
        """The extractors, by name."""
        weights, device = self.plan.weights, self.world.device
        return first_in_main(
            self.world, lambda: {name: build_extractor(name, weights, device) for name in self.plan.metrics}
        )


def main(config: EvaluateConfig) -> None:
    """Measure images: those that a run or published weights make, or those in a folder or an .npz.

    Without more than run=runs/image/digits: the numbers that the default's training prints. FID, sFID, IS, precision
    and recall take features=inception_adm and reference=<ADM's .npz, images, or statistics saved before>.
    torchrun --nproc-per-node=N -m image.evaluate ... divides sampling and features among N GPUs. The same command goes
    on with an evaluation that was interrupted. save_reference=FILE writes the statistics of reference=... instead.
    """
    with joined(config.device) as world, StopRequest() as stop:
        plan = first_in_main(world, lambda: make_plan(config))
        reference = first_in_main(world, lambda: open_reference(plan.reference))
        job = Job(config, plan, reference, world, lambda: bool(stop))
        try:
            save(job) if config.save_reference is not None else evaluate(job)
        except StoppedError:
            if world.is_main:
                print("stopped; the same command goes on with it")
            raise SystemExit(stop.exit_code) from None


def first_in_main(world: World, make: Callable[[], T]) -> T:
    """What `make` gives, in every process; in the main process first, so that bad input is told once."""
    made: list[T] = []
    world.on_main(lambda: made.append(make()))
    return made[0] if made else make()


def bar_of(world: World, total: int, what: str) -> tqdm:
    """A bar in the main process."""
    return progress(total=total, desc=what, disable=not world.is_main)


def make_plan(config: EvaluateConfig) -> Plan:
    """Fill in what is null, from the run where there is one; ValueError for what does not fit together."""
    made = config.run is not None or config.architecture is not None
    model = model_config(sample_config(config, 1)) if made else None
    of_digits = model is not None and isinstance(model.data, DigitsConfig)
    reference = config.reference or ("digits" if of_digits or config.features == "digits" else None)
    if reference is None:
        raise ValueError("reference is null; needed: ADM's .npz, a folder or .npz of images, or saved statistics")
    if not made and config.samples is None and config.save_reference is None:
        raise ValueError("run, architecture and samples are null; needed: what is to be measured, or save_reference")
    features = config.features or ("digits" if reference in DIGITS else "inception_adm")
    if features not in DEFAULTS:
        raise ValueError(f"features is {features!r}; allowed: {', '.join(DEFAULTS)}")
    wanted: dict[str, list[str]] = {}
    for name in dict.fromkeys(config.metrics or DEFAULTS[features]):
        wanted.setdefault(extractor_name(name, features), []).append(name)
    digits = digit_classifier(config, model)
    sample = None if model is None else sample_config(config, default_num(config, digits[0], features), model)
    paths = (None if value is None else Path(value).expanduser() for value in (config.inception, config.dinov2))
    weights = WeightsSource(weights_root(config.weights_dir), *paths, digits)
    return Plan(sample, model, reference, wanted, weights)


def digit_classifier(config: EvaluateConfig, model: ImageConfig | None) -> tuple[DigitsEvaluationConfig, Path]:
    """How the classifier of digits is made and where it is cached: that of the run that made the samples, if known."""
    default = DigitsEvaluationConfig()
    run = config.run or told_beside(config).get("run")
    if run is None or not (Path(run) / "config.yaml").is_file():
        return default, Path(config.cache_dir)
    model = model or model_config(SampleConfig(run=run, overrides={}, sampler={}))
    own = model.evaluation if isinstance(model.evaluation, DigitsEvaluationConfig) else default
    return own, Path(run).resolve().parents[1] / "cache"


def default_num(config: EvaluateConfig, digits: DigitsEvaluationConfig, features: str) -> int:
    """How many samples are made: as asked, or as many as the training of digits measures, or 50,000."""
    if config.num is not None or features != "digits":
        return config.num or NUM_SAMPLES
    return digits.num_samples or len(open_reference("digits_heldout").images)


def sample_config(config: EvaluateConfig, num: int, model: ImageConfig | None = None) -> SampleConfig:
    """The command of `image.sample` that makes the samples; seed and batch are the run's own where null."""
    same = ("run", "architecture", "overrides", "checkpoint", "weights", "labels", "device", "precision", "compile")
    values = {name: getattr(config, name) for name in (*same, "tf32", "sampler")}
    seed = config.seed if config.seed is not None or model is None else model.seed
    batch = config.batch_size or (1 if model is None else model.sample_batch_size)
    return SampleConfig(**values, num=num, seed=seed or 0, batch_size=batch)


def save(job: Job) -> None:
    """Write the statistics of the reference in the eyes of one extractor."""
    images, names = getattr(job.reference, "images", None), ", ".join(job.plan.metrics)
    if len(job.plan.metrics) != 1 or images is None:
        raise ValueError(f"save_reference needs one extractor, got {names}, and images as reference")
    (extractor,) = job.eyes().values()
    features, path = job.take(images, extractor), Path(job.config.save_reference)
    job.world.on_main(lambda: save_statistics(path, job.reference, extractor, features))
    if job.world.is_main:
        print(f"statistics of {len(images)} images in the features of {names}: {path}")


def evaluate(job: Job) -> None:
    """Make or open the samples, measure them, write the records and print them."""
    config, plan, world = job.config, job.plan, job.world
    given = None if plan.sample is not None else first_in_main(world, lambda: given_samples(config))
    metrics = known_labels(config, plan, given)
    world.on_main(lambda: check(job, metrics, given))
    eyes, chunks = job.eyes(), None
    for name, wanted in metrics.items():
        world.on_main(functools.partial(job.reference.check_features, compared(wanted), eyes[name]))
    if given is None:
        given, facts, chunks = make_samples(job, all(extractor.takes_floats for extractor in eyes.values()))
    else:
        facts = facts_of_samples(config, world)
    records: list[Record] = []
    for name, wanted in metrics.items():
        features, extractor = job.take(given, eyes[name]), eyes[name]
        against = job.reference.against(wanted, extractor, job.take)
        note = functools.partial(records_of, wanted, extractor, job.reference, facts)
        compute = functools.partial(measure, wanted, extractor, features, against, given.labels, world.device)
        world.on_main(lambda note=note, compute=compute: records.extend(note(compute())))
    world.on_main(lambda: finish(config, records))
    if chunks is not None and not config.keep_samples:
        world.on_main(chunks.remove)


def known_labels(config: EvaluateConfig, plan: Plan, given: Images | None) -> dict[str, list[str]]:
    """The metrics; a default that needs labels is left out where samples come without."""
    if config.metrics is not None or given is None or given.labels is not None:
        return plan.metrics
    return {name: [each for each in wanted if each != "class_accuracy"] for name, wanted in plan.metrics.items()}


def compared(metrics: list[str]) -> list[str]:
    """The metrics that need a reference."""
    return [name for name in metrics if METRICS[name].needs != "nothing"]


def check(job: Job, metrics: dict[str, list[str]], given: Images | None) -> None:
    """Everything that can be refused before networks are read and samples made."""
    plan, reference = job.plan, job.reference
    size = tuple(plan.model.data.media_shape[-2:] if given is None else given.rows(0, 1).shape[-2:])
    count = plan.sample.num if given is None else len(given)
    for name, wanted in metrics.items():
        if compared(wanted):
            reference.check(compared(wanted), name)
        check_count(wanted, name, count, reference.count)
    if "class_accuracy" in metrics.get("digits", []) and given is not None and given.labels is None:
        raise ValueError("class_accuracy needs to know which class each sample was asked to be: run=..., or arr_1")
    if reference.size is not None and size != reference.size:
        shapes = [f"{width}x{height}" for height, width in (size, reference.size)]
        raise ValueError(f"samples are {shapes[0]} pixels, the reference {reference.name} {shapes[1]}; both must agree")


def make_samples(job: Job, floats: bool) -> tuple[ChunkImages, Facts, Chunks]:
    """Samples of a run or of published weights, those that are there from a session before included.

    floats: media as they are, not rounded to uint8.
    """
    config, sample, model, world = job.config, job.plan.sample, job.plan.model, job.world
    source = world.on_main(lambda: weights_file(sample))
    generator = load_generator(sample, model, source, world)
    pixels = "float32 in [-1, 1], not rounded" if floats else UINT8_RULE
    protocol = protocol_of(sample, model, generator.tokenizer, pixels)
    identity = {key: value for key, value in protocol.items() if key != "num"}
    identity |= {"objective": plain(model.objective), "device": world.device.type, "compile": sample.compile}
    identity["weights_sha256"] = world.on_main(
        lambda: sha256_file(source / f"{sample.weights}.safetensors" if source.is_dir() else source)
    )
    labels = requested_labels(sample, generator.conditioning)
    chunks = Chunks(output_folder(config), identity, labels, sample.batch_size, floats)
    missing = world.on_main(lambda: chunks.begin(config.overwrite))
    there = len(labels) - sum(last - first for first, last in map(chunks.bounds, missing))
    with bar_of(world, len(labels), "sampling") as bar:
        bar.update(there)
        for made in chunks.make(generator, sample.seed, missing, world, job.stop):
            bar.update(made)
    name = config.run or config.architecture
    return ChunkImages(chunks, name), facts_of(protocol, name, str(source), world), chunks


def given_samples(config: EvaluateConfig) -> Images:
    """The images that `samples` names: a folder, an .npz, or a folder that `image.sample` wrote."""
    path = Path(config.samples).expanduser()
    images = open_images(path / "samples.npz" if (path / "samples.npz").is_file() else path, "samples")
    return images if config.num is None else FirstImages(images, config.num)


def told_beside(config: EvaluateConfig) -> dict[str, Any]:
    """What `image.sample` wrote beside the given samples; {} where it wrote nothing."""
    path = Path(config.samples or "").expanduser()
    files = [folder / "protocol.yaml" for folder in (path, path.parent)] if config.samples else []
    file = next((file for file in files if file.is_file()), None)
    told = {} if file is None else yaml.safe_load(file.read_text())
    if not isinstance(told, dict) or not isinstance(told.get("protocol", {}), dict):
        raise ValueError(f"{file} is damaged: no mapping with a protocol in it; without it, the protocol is unknown")
    return told


def facts_of_samples(config: EvaluateConfig, world: World) -> Facts:
    """What is known of the making of given samples."""
    told = told_beside(config)
    protocol = told.get("protocol", UNKNOWN)
    if config.num is not None and protocol is not UNKNOWN:
        protocol = {**protocol, "num": config.num}
    return facts_of(protocol, told.get("run") or config.samples, told.get("checkpoint") or "", world)


def facts_of(protocol: dict, run: str, checkpoint: str, world: World) -> Facts:
    """What all records of this evaluation share."""
    step = re.search(r"step_(\d+)", checkpoint)
    folder = Path(run)
    config = json_sha256(RunDirectory(folder).config()) if (folder / "config.yaml").is_file() else None
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    machine = hardware(world.device, world.size)
    return Facts(protocol, machine, now, config, None if step is None else int(step[1]), run)


def records_of(
    wanted: list[str], extractor: Extractor, reference: Reference, facts: Facts, found: dict[str, Estimate]
) -> list[Record]:
    """The records of one extractor's numbers."""
    nothing = {"name": "none", "kind": "none", "sha256": None, "num_samples": None}
    about = reference.facts() if compared(wanted) else nothing
    return [
        facts.record(name, found[name], extractor.facts(), nothing if METRICS[name].needs == "nothing" else about)
        for name in wanted
    ]


def finish(config: EvaluateConfig, records: list[Record]) -> None:
    """Write the records and tell the numbers."""
    file = write_records(output_folder(config), records)
    print(table(records, allow_differences=True), end="")
    print(f"record            {RunDirectory(file).shown()}")


def output_folder(config: EvaluateConfig) -> Path:
    """Where records and unfinished samples go."""
    if config.out is not None:
        return Path(config.out)
    if config.samples is not None:
        path = Path(config.samples).expanduser()
        return (path if path.is_dir() else path.parent) / "evaluations"
    return Path(config.run) / "evaluations" if config.run is not None else Path("evaluations")


ENTRY = Entry(main, "image.conf", "evaluate", EvaluateConfig)

if __name__ == "__main__":
    ENTRY.run()

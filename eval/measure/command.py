"""The command that measures, for every domain: samples made or given, their features, numbers, records.

A domain hands in `Components`, and for each command a `Plan`; see `eval.measure.evaluation` for both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from core.generate import StoppedError
from core.processes.signals import StopRequest
from core.processes.world import World, joined
from core.schema import plain
from core.storage.atomic import sha256_file
from core.storage.run_folder import RunDirectory
from eval.measure.evaluation import Components, EvaluateConfig, Plan, facts_of, facts_of_given, output_folder
from eval.measure.extractor import Extractor, Take, taker
from eval.measure.generated import Chunks
from eval.measure.media import FirstMedia, Media
from eval.measure.record import Facts, Record, table, write_records
from eval.measure.reference import Reference, save_statistics
from eval.statistics.estimate import Estimate

NOTHING = {"name": "none", "kind": "none", "sha256": None, "num_samples": None}  # a record's reference


@dataclass(frozen=True)
class Job:
    """What every step of the command needs: what to do, against what, in which process, and whether to stop."""

    config: EvaluateConfig
    components: Components
    plan: Plan
    reference: Reference
    world: World
    stop: Callable[[], bool]

    def bar(self, total: int, what: str) -> tqdm:
        """A bar in the main process."""
        unit, silent = self.components.table.unit, not self.world.is_main
        return tqdm(total=total, desc=what, unit=unit, mininterval=0.5, disable=silent)

    @property
    def take(self) -> Take:
        """How features are taken."""
        return taker(self.world, self.config.feature_batch_size, self.stop, self.bar)

    def eyes(self) -> dict[str, Extractor]:
        """The extractors, by name."""
        plan, device = self.plan, self.world.device
        return self.world.first_on_main(lambda: {name: plan.extractor(name, device) for name in plan.metrics})


def run_evaluation(config: EvaluateConfig, components: Components, tell: Callable[[str], None]) -> None:
    """Measure samples, or save the statistics of a reference; `tell` takes what a person is to read.

    The processes of the job share sampling and features; the same command goes on with an evaluation that was stopped
    or interrupted. Raises ValueError for bad input, before anything is written.
    """
    with joined(config.device) as world, StopRequest() as stop:
        plan = world.first_on_main(lambda: components.plan(config))
        reference = world.first_on_main(lambda: components.open_reference(plan.reference))
        job = Job(config, components, plan, reference, world, lambda: bool(stop))
        try:
            save(job, tell) if config.save_reference is not None else evaluate(job, tell)
        except StoppedError:
            if world.is_main:
                tell("stopped; the same command goes on with it")
            raise SystemExit(stop.exit_code) from None


def save(job: Job, tell: Callable[[str], None]) -> None:
    """Write the statistics of the reference in the eyes of one extractor."""
    media, names = job.reference.media, ", ".join(job.plan.metrics)
    units, key = f"{job.components.table.unit}s", job.components.key
    if len(job.plan.metrics) != 1 or media is None:
        raise ValueError(f"save_reference needs one extractor, got {names}, and {units} as {key}")
    (extractor,) = job.eyes().values()
    features, path = job.take(job.reference.seen_by(extractor), extractor), Path(job.config.save_reference)
    job.world.on_main(lambda: save_statistics(path, job.reference, extractor, features))
    if job.world.is_main:
        tell(f"statistics of {len(media)} {units} in the features of {names}: {path}")


def evaluate(job: Job, tell: Callable[[str], None]) -> None:
    """Make or open the samples, measure them, write the records and tell them."""
    config, plan, world, measures = job.config, job.plan, job.world, job.components.table
    given = None if plan.making is not None else world.first_on_main(lambda: open_given(job))
    metrics = those_possible(job, given)
    world.on_main(lambda: check(job, metrics, given))
    eyes, chunks = job.eyes(), None
    for name, wanted in metrics.items():
        world.on_main(functools.partial(job.reference.check_features, measures.compared(wanted), eyes[name]))
    if given is None:
        samples, facts, chunks = make_samples(job, eyes)
    else:
        samples, facts = given, facts_of_given(config, world)
    records: list[Record] = []
    for name, wanted in metrics.items():
        extractor = eyes[name]
        features = job.take(samples, extractor)
        against = job.reference.against(measures.of(wanted), extractor, job.take)
        compute = functools.partial(measures.measure, wanted, extractor, features, against, samples, world.device)
        note = functools.partial(records_of, job, extractor, facts)
        world.on_main(lambda note=note, compute=compute: records.extend(note(compute())))
    world.on_main(lambda: finish(config, records, tell))
    if chunks is not None and not config.keep_samples:
        world.on_main(chunks.remove)


def open_given(job: Job) -> Media:
    """The media that the config key `samples` names, all of them or the first `num`."""
    media = job.components.open_samples(Path(job.config.samples).expanduser())
    return media if job.config.num is None else FirstMedia(media, job.config.num)


def those_possible(job: Job, given: Media | None) -> dict[str, list[str]]:
    """The metrics by extractor; a default that needs more than is known of given samples is left out."""
    metrics, entries = job.plan.metrics, job.components.table.metrics
    if job.config.metrics is not None or given is None:
        return metrics
    return {name: [each for each in wanted if entries[each].missing(given) is None] for name, wanted in metrics.items()}


def check(job: Job, metrics: dict[str, list[str]], given: Media | None) -> None:
    """Everything that can be refused before networks are read and samples made."""
    making, reference, components = job.plan.making, job.reference, job.components
    size = making.size if given is None else components.size_of(given)
    count = making.sampling.config.num if given is None else len(given)
    for name, wanted in metrics.items():
        compared = components.table.compared(wanted)
        if compared:
            reference.check(compared, name)
        components.table.check_count(wanted, name, count, reference.count)
    for wanted in metrics.values() if given is not None else ():
        for name, entry in components.table.of(wanted).items():
            missing = entry.missing(given)
            if missing is not None:
                raise ValueError(f"{name} {missing}")
    components.check_size(size, reference)


def make_samples(job: Job, eyes: dict[str, Extractor]) -> tuple[Media, Facts, Chunks]:
    """Samples of a run or of published weights, those that are there from a session before included."""
    config, making, world = job.config, job.plan.making, job.world
    sampling = making.sampling
    command, model = sampling.config, sampling.model_config
    source = world.on_main(sampling.weights_file)
    generator = sampling.load_generator(source, world)
    form = job.components.form(eyes)
    protocol = sampling.protocol(generator.tokenizer) | {making.kept: form.rule}
    identity = {key: value for key, value in protocol.items() if key != "num"}
    identity |= {"objective": plain(model.objective), "device": world.device.type, "compile": command.compile}
    identity["weights_sha256"] = world.on_main(
        lambda: sha256_file(source / f"{command.weights}.safetensors" if source.is_dir() else source)
    )
    conditions = sampling.requests(generator.conditioning)
    chunks = Chunks(output_folder(config), identity, conditions, command.batch_size, form)
    missing = world.on_main(lambda: chunks.begin(config.overwrite))
    there = len(chunks) - sum(last - first for first, last in map(chunks.bounds, missing))
    with job.bar(len(chunks), "sampling") as bar:
        bar.update(there)
        for made in chunks.make(generator, command.seed, missing, world, job.stop):
            bar.update(made)
    name = command.run or command.architecture
    media = making.media(chunks, name, job.components.table.unit)
    return media, facts_of(protocol, name, str(source), world), chunks


def records_of(job: Job, extractor: Extractor, facts: Facts, found: dict[str, Estimate]) -> list[Record]:
    """The records of one extractor's numbers."""
    measures = job.components.table
    compared = measures.compared(list(found))
    about = job.reference.facts() if compared else NOTHING
    return [
        facts.record(name, estimate, extractor.facts(), about if name in compared else NOTHING)
        for name, estimate in found.items()
    ]


def finish(config: EvaluateConfig, records: list[Record], tell: Callable[[str], None]) -> None:
    """Write the records and tell the numbers."""
    file = write_records(output_folder(config), records)
    tell(table(records, allow_differences=True).removesuffix("\n"))
    tell(f"record            {RunDirectory(file).shown()}")

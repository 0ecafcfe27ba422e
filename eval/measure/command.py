"""The command that measures, for every domain: samples made or given, their features, numbers, records.

A domain hands in `Components`, and for each command a `Plan`; see `eval.measure.evaluation` for both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from core.commands.sample import load_generator, protocol_of, weights_file
from core.generate import StoppedError
from core.processes.signals import StopRequest
from core.processes.world import World, joined
from core.schema import plain
from core.storage.atomic import sha256_file
from core.storage.run_folder import RunDirectory
from eval.measure.evaluation import (
    Components,
    EvaluateConfig,
    EvaluationPlan,
    given_provenance,
    output_folder,
    provenance_of,
)
from eval.measure.extractor import Extractor, Take, taker
from eval.measure.generated import Chunks
from eval.measure.media import FirstMedia, Media
from eval.measure.record import Provenance, Record, table, write_records
from eval.measure.reference import Reference, save_statistics
from eval.statistics.estimate import Estimate

NOTHING = {"name": "none", "kind": "none", "sha256": None, "num_samples": None}  # a record's reference


@dataclass(frozen=True)
class Measurement:
    """What every step of the command needs: what to do, against what, in which process, and whether to stop."""

    config: EvaluateConfig
    components: Components
    plan: EvaluationPlan
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

    def extractors(self) -> dict[str, Extractor]:
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
        measurement = Measurement(config, components, plan, reference, world, lambda: bool(stop))
        try:
            save(measurement, tell) if config.save_reference is not None else evaluate(measurement, tell)
        except StoppedError:
            if world.is_main:
                tell("stopped; the same command goes on with it")
            raise SystemExit(stop.exit_code) from None


def save(measurement: Measurement, tell: Callable[[str], None]) -> None:
    """Write the statistics of the reference in the eyes of one extractor."""
    media, names = measurement.reference.media, ", ".join(measurement.plan.metrics)
    units, key = f"{measurement.components.table.unit}s", measurement.components.key
    if len(measurement.plan.metrics) != 1 or media is None:
        raise ValueError(f"save_reference needs one extractor, got {names}, and {units} as {key}")
    (extractor,) = measurement.extractors().values()
    features, path = (
        measurement.take(measurement.reference.seen_by(extractor), extractor),
        Path(measurement.config.save_reference),
    )
    measurement.world.on_main(lambda: save_statistics(path, measurement.reference, extractor, features))
    if measurement.world.is_main:
        tell(f"statistics of {len(media)} {units} in the features of {names}: {path}")


def evaluate(measurement: Measurement, tell: Callable[[str], None]) -> None:
    """Make or open the samples, measure them, write the records and tell them."""
    config, plan, world, measures = (
        measurement.config,
        measurement.plan,
        measurement.world,
        measurement.components.table,
    )
    given = None if plan.sample_plan is not None else world.first_on_main(lambda: open_given(measurement))
    metrics = available_metrics(measurement, given)
    world.on_main(lambda: check(measurement, metrics, given))
    extractors, chunks = measurement.extractors(), None
    for name, wanted in metrics.items():
        world.on_main(
            functools.partial(measurement.reference.check_features, measures.compared(wanted), extractors[name])
        )
    if given is None:
        samples, facts, chunks = make_samples(measurement, extractors)
    else:
        samples, facts = given, given_provenance(config, world)
    records: list[Record] = []
    for name, wanted in metrics.items():
        extractor = extractors[name]
        features = measurement.take(samples, extractor)
        against = measurement.reference.against(measures.of(wanted), extractor, measurement.take)
        compute = functools.partial(measures.measure, wanted, extractor, features, against, samples, world.device)
        note = functools.partial(records_of, measurement, extractor, facts)
        world.on_main(lambda note=note, compute=compute: records.extend(note(compute())))
    world.on_main(lambda: finish(config, records, tell))
    if chunks is not None and not config.keep_samples:
        world.on_main(chunks.remove)


def open_given(measurement: Measurement) -> Media:
    """The media that the config key `samples` names, all of them or the first `num`."""
    media = measurement.components.open_samples(Path(measurement.config.samples).expanduser())
    return media if measurement.config.num is None else FirstMedia(media, measurement.config.num)


def available_metrics(measurement: Measurement, given: Media | None) -> dict[str, list[str]]:
    """The metrics by extractor; a default that needs more than is known of given samples is left out."""
    metrics, entries = measurement.plan.metrics, measurement.components.table.metrics
    if measurement.config.metrics is not None or given is None:
        return metrics
    return {name: [each for each in wanted if entries[each].missing(given) is None] for name, wanted in metrics.items()}


def check(measurement: Measurement, metrics: dict[str, list[str]], given: Media | None) -> None:
    """Everything that can be refused before networks are read and samples made."""
    sample_plan, reference, components = measurement.plan.sample_plan, measurement.reference, measurement.components
    size = sample_plan.size if given is None else components.size_of(given)
    count = sample_plan.command.num if given is None else len(given)
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


def make_samples(measurement: Measurement, extractors: dict[str, Extractor]) -> tuple[Media, Provenance, Chunks]:
    """Samples of a run or of published weights, those that are there from a session before included."""
    config, sample_plan, world = measurement.config, measurement.plan.sample_plan, measurement.world
    command, model, domain = sample_plan.command, sample_plan.model, sample_plan.domain
    source = world.on_main(lambda: weights_file(command))
    generator = load_generator(command, domain, model, source, world)
    form = measurement.components.form(extractors)
    protocol = protocol_of(
        command, model, generator.tokenizer, domain.told(command, model) | {sample_plan.kept: form.rule}
    )
    identity = {key: value for key, value in protocol.items() if key != "num"}
    identity |= {"objective": plain(model.objective), "device": world.device.type, "compile": command.compile}
    identity["weights_sha256"] = world.on_main(
        lambda: sha256_file(source / f"{command.weights}.safetensors" if source.is_dir() else source)
    )
    conditions = domain.request(command, generator.conditioning)
    chunks = Chunks(output_folder(config), identity, conditions, command.batch_size, form)
    missing = world.on_main(lambda: chunks.begin(config.overwrite))
    there = len(chunks) - sum(last - first for first, last in map(chunks.bounds, missing))
    with measurement.bar(len(chunks), "sampling") as bar:
        bar.update(there)
        for made in chunks.make(generator, command.seed, missing, world, measurement.stop):
            bar.update(made)
    name = command.run or command.architecture
    media = sample_plan.media(chunks, name, measurement.components.table.unit)
    return media, provenance_of(protocol, name, str(source), world), chunks


def records_of(
    measurement: Measurement, extractor: Extractor, facts: Provenance, found: dict[str, Estimate]
) -> list[Record]:
    """The records of one extractor's numbers."""
    measures = measurement.components.table
    compared = measures.compared(list(found))
    about = measurement.reference.facts() if compared else NOTHING
    return [
        facts.record(name, estimate, extractor.facts(), about if name in compared else NOTHING)
        for name, estimate in found.items()
    ]


def finish(config: EvaluateConfig, records: list[Record], tell: Callable[[str], None]) -> None:
    """Write the records and tell the numbers."""
    file = write_records(output_folder(config), records)
    tell(table(records, allow_differences=True).removesuffix("\n"))
    tell(f"record            {RunDirectory(file).shown()}")

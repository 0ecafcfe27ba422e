"""The command that measures, for every domain: samples made or given, their features, numbers, records.

What differs between domains is an `eval.measure.evaluation.Evaluation`.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.generate import Generator, StoppedError
from core.processes.signals import StopRequest
from core.processes.world import World, joined
from core.schema import plain
from core.storage.atomic import sha256_file
from core.storage.provenance import json_sha256
from core.storage.run_folder import RunDirectory
from eval.measure.evaluation import EvaluateConfig, Evaluation, output_folder, written_protocol
from eval.measure.extractor import ExtractedFeatures, Extractor, FeatureExtraction
from eval.measure.generated import Chunks
from eval.measure.media import FirstMedia, Media
from eval.measure.metrics import Metric, ReferenceStatistics
from eval.measure.record import Provenance, Record, hardware, real_name, table, write_records
from eval.measure.reference import save_statistics
from eval.measure.table import compared, compute_metrics
from eval.statistics.estimate import Estimate, over_seeds

NO_REFERENCE = {"name": "none", "kind": "none", "sha256": None, "num_samples": None}
UNKNOWN = {"source": "unknown: samples given"}  # the protocol of samples whose making nobody wrote down
Metrics = dict[str, list[Metric]]  # by extractor
Show = Callable[[str], None]
OverSeeds = Callable[[dict[int, float], int, dict[str, Any]], Estimate]


def run_evaluation(config: EvaluateConfig, evaluation: Evaluation, show: Show) -> None:
    """Measure samples, or save the statistics of a reference; `show` takes what a person is to read.

    The processes of the job share sampling and features; the same command goes on with an evaluation that was stopped
    or interrupted. Raises ValueError for bad input, before anything is written.
    """
    with joined(config.device) as world, StopRequest() as stop:
        measurement = Measurement(config, evaluation, world, lambda: bool(stop))
        try:
            measurement.run(show)
        except StoppedError:
            if world.is_main:
                show("stopped; the same command goes on with it")
            raise SystemExit(stop.exit_code) from None


class Measurement:
    """One call of the command, in one of the processes of its job; what every step needs.

    metrics           requested, by extractor
    reference         opened, before the samples are
    known_statistics  of references that were measured, by extractor and facts
    """

    def __init__(self, config: EvaluateConfig, evaluation: Evaluation, world: World, stop: Callable[[], bool]):
        self.config = config
        self.evaluation = evaluation
        self.world = world
        self.stop = stop
        self.metrics = world.first_on_main(evaluation.requested_metrics)
        self.reference = world.first_on_main(evaluation.open_reference)
        self.extraction = FeatureExtraction(world, config.feature_batch_size, evaluation.table.unit, stop)
        self.known_statistics: dict[Any, ReferenceStatistics | None] = {}

    def run(self, show: Show) -> None:
        """Save the statistics of the reference, or measure samples."""
        if self.config.save_reference is not None:
            self.save_reference(Path(self.config.save_reference), show)
        else:
            self.measure(show)

    def save_reference(self, path: Path, show: Show) -> None:
        """Write the statistics of the reference in the features of one extractor."""
        media, names, units = self.reference.media, ", ".join(self.metrics), f"{self.evaluation.table.unit}s"
        if len(self.metrics) != 1 or media is None:
            key = self.evaluation.key
            raise ValueError(f"save_reference needs one extractor, got {names}, and {units} as {key}")
        (extractor,) = self.extractors(self.metrics).values()
        features = self.extraction.extract_features(self.reference.media_for(extractor), extractor)
        self.world.on_main(lambda: save_statistics(path, self.reference, features))
        if self.world.is_main:
            show(f"statistics of {len(media)} {units} in the features of {names}: {path}")

    def measure(self, show: Show) -> None:
        """Make or open the samples, measure them, write the records and show them; with each of several seeds."""
        config, world = self.config, self.world
        samples = world.first_on_main(self.planned_samples)
        metrics = self.available_metrics(samples)
        world.on_main(lambda: self.check(metrics, samples))
        extractors = self.extractors(metrics)
        for name, extractor in extractors.items():
            world.on_main(functools.partial(self.reference.check_features, compared(metrics[name]), extractor))
        rounds = {seed: self.with_seed(seed) for seed in self.evaluation.seeds or ()} or {config.seed: self}
        real = self.real_records(rounds, metrics, extractors, show)
        records, kept = {}, []
        for seed, each in rounds.items():
            records[seed], chunks = each.measured(metrics, extractors, samples if each is self else None)
            kept += [] if chunks is None else [chunks]
        world.on_main(lambda: self.finish(self.joined(records, made=config.makes_samples), real, show))
        for chunks in () if config.keep_samples else kept:
            world.on_main(chunks.remove)

    def with_seed(self, seed: int) -> Measurement:
        """The same measurement with another seed: other samples, and other pieces of media where a seed draws them."""
        config = replace(self.config, seed=seed, seeds=None)
        other = Measurement(config, self.evaluation.with_config(config), self.world, self.stop)
        other.known_statistics = self.known_statistics
        return other

    def measured(
        self, metrics: Metrics, extractors: dict[str, Extractor], samples: Media | None
    ) -> tuple[list[Record], Chunks | None]:
        """The records of one seed, and the chunks of samples that were made for them.

        samples: given ones, where they are open.
        """
        chunks = None
        if self.config.makes_samples:
            samples, provenance, chunks = self.make_samples(extractors)
        else:
            samples = samples or self.world.first_on_main(self.planned_samples)
            provenance = self.given_provenance(samples)
        records: list[Record] = []
        for name, extractor in extractors.items():
            records += self.records(metrics[name], extractor, samples, provenance)
        return records, chunks

    def real_records(
        self, rounds: dict[int | None, Measurement], metrics: Metrics, extractors: dict[str, Extractor], show: Show
    ) -> list[Record]:
        """The records of real media in the place of samples, shown before any is made; [] where a domain has none.

        Raises ValueError where the domain finds that they are not what they should be.
        """
        found = {seed: each.measured_real(metrics, extractors) for seed, each in rounds.items()}
        if not all(found.values()):
            return []
        records = self.joined(found, made=False)
        self.world.on_main(lambda: show(self.evaluation.real_row(records)))
        return records

    def measured_real(self, metrics: Metrics, extractors: dict[str, Extractor]) -> list[Record]:
        """The same of one seed."""
        media = self.world.first_on_main(self.evaluation.real_media)
        if media is None:
            return []
        provenance = self.provenance({"source": "real"}, media.name, "")
        records: list[Record] = []
        for name, extractor in extractors.items():
            chosen = [metric for metric in metrics[name] if metric.missing(media) is None]
            records += self.records(chosen, extractor, media, provenance) if chosen else []
        return records

    def joined(self, by_seed: dict[int | None, list[Record]], made: bool) -> list[Record]:
        """One record of each metric: that of the only seed, or what the domain makes of several.

        made: whether the seeds made the samples; otherwise the samples' protocol is that of who made them.
        """
        return joined_records(by_seed, made, self.evaluation.over_seeds)

    def planned_samples(self) -> Media:
        """The given samples, all of them or the first `num`; or what is known of those that are to be made."""
        if self.config.makes_samples:
            return self.evaluation.planned_samples()
        samples = self.evaluation.open_samples(Path(self.config.samples).expanduser())
        return samples if self.config.num is None else FirstMedia(samples, self.config.num)

    def available_metrics(self, samples: Media) -> Metrics:
        """The metrics; a default that needs more than is known of the samples is left out."""
        if self.config.metrics is not None:
            return self.metrics
        return {
            name: [metric for metric in metrics if metric.missing(samples) is None]
            for name, metrics in self.metrics.items()
        }

    def check(self, metrics: Metrics, samples: Media) -> None:
        """Raises ValueError for everything that can be refused before networks are read and samples made."""
        for name, chosen in metrics.items():
            if compared(chosen):
                self.reference.check(compared(chosen), name)
            for metric in chosen:
                metric.check_count(name, len(samples), self.reference.count, samples.unit)
                missing = metric.missing(samples)
                if missing is not None:
                    raise ValueError(f"{metric.name} {missing}")
        size = samples.size if self.config.makes_samples else self.evaluation.size_of(samples)
        self.evaluation.check_size(size, self.reference)

    def extractors(self, metrics: Metrics) -> dict[str, Extractor]:
        """The extractors of the metrics, by name."""
        evaluation, device = self.evaluation, self.world.device
        return self.world.first_on_main(lambda: {name: evaluation.extractor(name, device) for name in metrics})

    def make_samples(self, extractors: dict[str, Extractor]) -> tuple[Media, Provenance, Chunks]:
        """Samples of a run or of published weights, those that are there from a session before included."""
        evaluation, world, model = self.evaluation, self.world, self.evaluation.model
        sampling = evaluation.sampling(evaluation.num, model)
        command = sampling.config
        source = world.on_main(sampling.weights_file)
        generator = sampling.load_generator(source, world)
        form = evaluation.form(extractors.values())
        protocol = sampling.protocol(generator.tokenizer) | {evaluation.form_key: form.rule}
        identity = {key: value for key, value in protocol.items() if key != "num"}
        identity |= evaluation.sample_identity()
        identity |= {"objective": plain(model.objective), "device": world.device.type, "compile": command.compile}
        identity["weights_sha256"] = world.on_main(
            lambda: sha256_file(source / f"{command.weights}.safetensors" if source.is_dir() else source)
        )
        conditions = sampling.requests(generator.conditioning)
        chunks = Chunks(output_folder(self.config), identity, conditions, command.batch_size, form)
        self.fill(chunks, generator, command.seed)
        name = command.run or command.architecture
        samples = evaluation.generated_samples(chunks, name)
        protocol |= evaluation.sample_entries(samples)
        return samples, self.provenance(protocol, name, str(source)), chunks

    def fill(self, chunks: Chunks, generator: Generator, seed: int) -> None:
        """Make the chunks that are missing, with a bar."""
        missing = self.world.on_main(lambda: chunks.begin(self.config.overwrite))
        done = len(chunks) - sum(last - first for first, last in map(chunks.bounds, missing))
        with self.extraction.bar(len(chunks), "sampling") as bar:
            bar.update(done)
            for made in chunks.make(generator, seed, missing, self.world, self.stop):
                bar.update(made)

    def given_provenance(self, samples: Media) -> Provenance:
        """What is known of the making of given samples."""
        written = written_protocol(self.config)
        protocol = written.get("protocol", UNKNOWN)
        if self.config.num is not None and protocol is not UNKNOWN:
            protocol = {**protocol, "num": self.config.num}
        protocol = {**protocol, **self.evaluation.sample_entries(samples)}
        run = written.get("run") or self.config.samples
        return self.provenance(protocol, run, written.get("checkpoint") or "")

    def provenance(self, protocol: dict[str, Any], run: str, checkpoint: str) -> Provenance:
        """What all records of this evaluation share."""
        step, folder = re.search(r"step_(\d+)", checkpoint), Path(run)
        return Provenance(
            protocol=protocol,
            hardware=hardware(self.world.device, self.world.size),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
            config_sha256=json_sha256(RunDirectory(folder).config()) if (folder / "config.yaml").is_file() else None,
            step=None if step is None else int(step[1]),
            run=run,
        )

    def records(
        self, metrics: list[Metric], extractor: Extractor, samples: Media, provenance: Provenance
    ) -> list[Record]:
        """The records of one extractor's metrics."""
        features = self.extraction.extract_features(samples, extractor)
        statistics = self.reference_statistics(metrics, extractor)
        return self.world.on_main(lambda: self.computed_records(metrics, features, statistics, provenance))

    def reference_statistics(self, metrics: list[Metric], extractor: Extractor) -> ReferenceStatistics | None:
        """What the metrics need of the reference, taken once for all seeds that draw the same of it."""
        if not compared(metrics):
            return self.reference.statistics(metrics, extractor, self.extraction)
        key = extractor.name, self.world.on_main(lambda: json_sha256(self.reference.identity()))
        if key not in self.known_statistics:
            self.known_statistics[key] = self.reference.statistics(metrics, extractor, self.extraction)
        return self.known_statistics[key]

    def computed_records(
        self,
        metrics: list[Metric],
        features: ExtractedFeatures,
        statistics: ReferenceStatistics,
        provenance: Provenance,
    ) -> list[Record]:
        """The same in the main process, once the features are taken."""
        found = compute_metrics(metrics, features, statistics)
        reference = self.reference.facts() if compared(metrics) else NO_REFERENCE
        references = {metric.name: NO_REFERENCE if metric.needs == "nothing" else reference for metric in metrics}
        about = features.extractor.facts()
        return [provenance.record(name, number, about, references[name]) for name, number in found.items()]

    def finish(self, records: list[Record], real: list[Record], show: Show) -> None:
        """Write the records, those of real media beside them, and show the numbers."""
        file = write_records(output_folder(self.config), [*records, *(beside(each, records[0]) for each in real)])
        show(table(records, allow_differences=True).removesuffix("\n"))
        for record in records:
            if self.config.seeds is not None:
                show(f"{record.metric:<17} {record.value:.6g}, {record.interval.kind}")
        show(f"record            {RunDirectory(file).shown()}")


def beside(real: Record, record: Record) -> Record:
    """A record of real media under the name and the protocol by which it stands beside that of samples."""
    names = ("protocol", "created", "config_sha256", "step", "run")
    return replace(real, metric=real_name(real.metric), **{name: getattr(record, name) for name in names})


def joined_records(by_seed: dict[int | None, list[Record]], made: bool, over: OverSeeds = over_seeds) -> list[Record]:
    """One record of each metric: that of the only seed, or `over` the values of several.

    made: whether the seeds made the samples; otherwise the samples' protocol is that of who made them.
    """
    first, *others = by_seed.values()
    if not others:
        return first
    found = []
    for place, record in enumerate(first):
        values = {seed: records[place].value for seed, records in by_seed.items()}
        estimate = over(values, record.num_samples, record.parameters)
        changed = {"value": estimate.value, "interval": estimate.interval, "parameters": dict(estimate.parameters)}
        protocol = {**record.protocol, "seed": list(by_seed)} if made else record.protocol
        found.append(replace(record, **changed, protocol=protocol))
    return found

"""What a run makes of its weights: previews, measures, snapshots of averages, and the summary at its end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from core.alignment.contract import Alignment
from core.contracts import Domain
from core.generate import Generator, make_generator
from core.processes.signals import StopRequest
from core.processes.spread import gathered
from core.processes.world import World
from core.storage.atomic import write_atomic
from core.storage.run_folder import RunDirectory
from core.train.config import RunConfig
from core.train.ema import EMA
from core.train.loss_by_time import LossByTime
from core.train.posthoc import save_snapshot
from core.train.progress import Progress
from core.train.records import RunRecords
from core.train.saved import whole_groups
from core.train.tracking import BY_TIME, BY_TIME_EMA


class RunOutputs:
    """The weights of a run, looked at; all of it happens in every process, the main one writes."""

    config: RunConfig
    domain: Domain
    run: RunDirectory
    world: World
    model: nn.Module
    ema: EMA
    head_ema: EMA | None
    alignment: Alignment
    records: RunRecords
    by_time: LossByTime
    step: int
    seconds: float
    cpu_seconds: float | None
    flops: int

    def generator(self) -> Generator:
        """What samples from the model's present weights."""
        domain = self.domain
        parts = (domain.tokenizer, domain.backbone, domain.conditioning, domain.latent_shape)
        return replace(make_generator(self.config, *parts, self.world), second=self.alignment.second_output())

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Generator]:
        """What samples from the averaged weights, which the model has inside the block."""
        heads = contextlib.nullcontext() if self.head_ema is None else self.head_ema.applied()
        with self.ema.applied(), heads, self.alignment.paused(), gathered(self.model):
            yield self.generator()

    def preview(self) -> None:
        """Write samples of the EMA weights; always the same conditions and the same noise."""
        count = self.config.trainer.num_previews
        condition = self.domain.conditioning.requests(count, self.config.seed)
        with self.averaged() as generator:
            media = generator(condition, self.config.seed, self.config.sample_batch_size)
        path = self.run.previews / f"step_{self.step:08d}"

        def save() -> None:
            path.parent.mkdir(exist_ok=True)
            self.domain.preview.save(media, condition, path)

        self.records.write(save)

    def snapshot(self) -> None:
        """Keep the widths of the average for `core.reconstruct_ema`."""
        groups = whole_groups({name: self.ema.state_dicts()[name] for name in self.ema.widths}, self.world)
        write = (self.run.snapshots, self.step, groups, self.ema.widths, self.ema.averaged)
        self.records.write(lambda: save_snapshot(*write) and None)

    def finish(self, stop: StopRequest | None = None) -> dict[str, Any]:
        """Sample with the EMA weights, measure, write the last preview and summary.json; returns the summary.

        Raises core.generate.StoppedError when `stop` was asked for: the same command goes on with it.
        """
        samples = self.step * self.config.trainer.batch_size
        summary: dict[str, Any] = {
            "steps": self.step,
            "epochs": samples / len(self.domain.dataset),
            "parameters": self.parameters,
            "flops_per_step": self.flops * self.config.trainer.batch_size,
            f"{self.domain.unit}s_per_second": samples / max(self.seconds, 1e-9),
            "train_seconds": self.seconds,
            "device": str(self.world.device),
            "processes": self.world.size,
        }
        summary |= {} if self.cpu_seconds is None else {"train_cpu_seconds": self.cpu_seconds}
        summary |= self.evaluate(stop)
        self.preview()
        summary["wall_seconds"] = self.wall_seconds
        self.records.write(lambda: write_atomic(self.run.summary_file, json.dumps(summary, indent=1) + "\n"))
        return summary

    def evaluate(self, stop: StopRequest | None = None) -> dict[str, float]:
        """The evaluator's metrics of samples made with the EMA weights, in every process; none without an evaluator.

        They are recorded in evaluations.jsonl, a line for each step that was measured.
        """
        evaluator, world = self.domain.evaluator, self.world
        count = world.on_main(lambda: evaluator.num_samples if evaluator is not None else 0)
        if not count:
            return {}
        condition = self.domain.conditioning.requests(count, self.config.seed)
        bar = Progress(count, 0, "sampling", "samples", world.is_main)
        sizes = (self.config.seed, self.config.sample_batch_size)
        try:
            with self.averaged() as generator:
                media = generator(condition, *sizes, bar.bar.update, lambda: bool(stop))
        finally:
            bar.close()
        return world.on_main(lambda: self.records.measured(self.step, dict(evaluator.evaluate(media, condition))))

    def loss_by_time(self) -> dict[str, float]:
        """The loss by noise level of the weights and of their average, where it is asked for after this step."""
        if not self.by_time.due(self.step):
            return {}
        with self.alignment.paused(), gathered(self.model):
            values = self.by_time.measure(BY_TIME)
        with self.averaged():
            return values | self.by_time.measure(BY_TIME_EMA)

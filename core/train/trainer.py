"""The loop: batches in, optimizer steps, records, previews and checkpoints out. Reads from top to bottom.

Everything random is drawn from (seed, step), so a run that stopped and one that did not are the same run. Every process
of a job runs this loop over its rows of each batch; the main one writes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.alignment.contract import Needs, NoAlignment, build_alignment, reasons, settle
from core.alignment.teacher import Teacher
from core.contracts import Batch, Domain, Requests
from core.data.stream import StepPositions, on_device, step_batches
from core.draws import StepRandom, seeded_weights
from core.latents.tokenizer import MediaError
from core.nets.layers import TRAINING_FACTOR
from core.nets.routing import Routing
from core.precision import DTYPES, allow_tf32
from core.processes.failures import NonFiniteError, is_out_of_memory
from core.processes.signals import StopRequest
from core.processes.spread import average_gradients, gradients_stay, spread
from core.processes.workers import LoaderWorkers
from core.processes.world import PeerError, World, part
from core.schema import changed_keys, plain
from core.step import Losses, TrainingLoss
from core.storage.checkpoint import Checkpoint, CheckpointStore
from core.storage.coming import give_memory, same_without_weights
from core.storage.run_folder import RunDirectory
from core.train.config import RunConfig
from core.train.diagnoses import attempt, dead_worker, out_of_memory
from core.train.ema import EMA
from core.train.flops import matmul_peak, training_flops
from core.train.loss_by_time import LossByTime
from core.train.notes import RunNotes
from core.train.optimizer import Optimizer
from core.train.pending import OVERFLOWING, PendingStep, SettledSteps
from core.train.progress import Progress
from core.train.records import RunRecords
from core.train.saved import HEADS, HeadAverages, ModelPart, Saved, StatePart
from core.train.speed import Speedometer

SMALLEST_SCALE = 2.0**-10  # a loss scale below it means that the gradient itself is not finite


class Trainer(SettledSteps):
    """One run of one domain in one process; `started` is the time.perf_counter() from which wall time counts."""

    def __init__(
        self, config: RunConfig, domain: Domain, run: RunDirectory, world: World, started: float | None = None
    ):
        self.started = time.perf_counter() if started is None else started
        self.config, self.domain, self.run, self.world = config, domain, run, world
        self.workers = LoaderWorkers()
        config.trainer.check_parts(world.size)
        allow_tf32(config.trainer.tf32)
        self.empty = any(each.is_meta for each in domain.backbone.parameters())  # until a checkpoint fills it
        give_memory(domain.backbone, world.device)
        self.model = domain.backbone
        self.model.checkpoint_blocks = config.trainer.checkpoint_blocks
        self.aligning = settle(config.alignment, len(self.model.blocks), config.seed)
        self.reasons = reasons(config.alignment, len(self.model.blocks), config.seed)
        self.model.two_times = config.alignment.needs.token_times
        routing = config.trainer.routing
        self.model.routed = None if routing is None else (routing.first, routing.last)
        self.flops = self.count_flops(config.token_times, routing)
        self._build_alignment()  # before compile: later hooks would not be called
        self.network = spread(self.model, config.parallel, config.trainer.compile, world)
        self.loss = TrainingLoss(
            tokenizer=domain.tokenizer.to(world.device),
            conditioning=domain.conditioning,
            network=self.network,
            backbone=self.model,
            objective=config.objective.build(self.model),
            alignment=self.alignment,
            precision=config.trainer.precision,
            teacher=self.teacher,
            needs=self.aligning.needs,
            routing=routing,
        )
        self.generator()  # what cannot be sampled is told before it is trained
        self.flow_loss = replace(self.loss, alignment=NoAlignment(), needs=Needs(), teacher=None)
        self.by_time = LossByTime(config, domain.dataset, self.loss, world)
        self.optimizer = Optimizer(self.model, config.optimizer, self.alignment.heads)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=config.trainer.precision == "fp16")
        teacher = self.teacher.model if self.teacher is not None else None
        self.ema = EMA(self.model, config.ema, teacher, filled=not self.empty)
        self.head_ema = EMA(self.alignment.heads, config.ema) if self.aligning.needs.second_output else None
        store = CheckpointStore(run.checkpoints, config.trainer.keep_checkpoints, config.trainer.keep_every)
        parts = [ModelPart("model", self.model), self.ema, StatePart("optimizer", self.optimizer)]
        parts += [ModelPart(HEADS, self.alignment.heads)]
        parts += [] if self.head_ema is None else [HeadAverages(self.head_ema)]
        self.saved = Saved(store, world, parts, config.trainer.async_checkpoint, run.check_held)
        self.notes, self.records = RunNotes(config, domain, world), RunRecords(run, config, world)
        self.step, self.skipped = 0, 0
        self.stop: StopRequest | None = None
        self.stopping = False  # once `stop` was asked for in any process, or a checkpoint could not be written
        self.whole = True  # False while a step is half done: not yet applied, or not yet recorded
        self.pending: PendingStep | None = None  # the last step, until it is known how it went
        # Over all sessions of the run: seconds in training steps and waiting for their data, and wall time of sessions
        # before this one.
        self.seconds, self.wall_before = 0.0, 0.0
        self.cpu_seconds: float | None = 0.0  # of this process, in the same time; None where a session did not count

    def count_flops(self, token_times: bool = False, routing: Routing | None = None) -> int:
        """FLOPs of one sample in a training step, without the alignment's; token_times: each token has its own time."""
        request = Requests.of(self.domain.conditioning.requests(1, self.config.seed))
        return training_flops(self.model, self.domain.latent_shape, request.condition, token_times, routing)

    def _build_alignment(self) -> None:
        """The alignment on the bare model, and the teacher that it may need, a copy of the model without its hooks."""
        config, needs = self.config, self.aligning.needs
        self.teacher = None
        if needs.teacher:
            memo = same_without_weights(self.model) if self.empty else None
            self.teacher = Teacher(self.model, needs.teacher, config.trainer.precision, memo)
            spreading = (config.parallel, config.trainer.compile, self.world)
            self.teacher.network = spread(self.teacher.model, *spreading, trained=False)
        with seeded_weights(config.seed, "alignment heads"):
            self.alignment = build_alignment(self.aligning, self.model, self.domain.encoders)
        self.alignment.heads.to(self.world.device)
        plainly = not config.token_times and config.trainer.routing is None
        forward = (self.flops if plainly else self.count_flops()) // TRAINING_FACTOR
        self.flops += self.alignment.extra_flops(forward, self.model.num_tokens)
        if config.optimizer.gradient == "matched":
            self.flops += self.count_flops(routing=config.trainer.routing)
        if config.trainer.compile != "none":
            self.alignment.compile()

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(each.numel() for each in self.optimizer.named.values())

    @property
    def wall_seconds(self) -> float:
        """Wall time of the run's sessions until now."""
        return self.wall_before + time.perf_counter() - self.started

    def fit(self, stop: StopRequest | None = None) -> bool:
        """Train from the newest checkpoint to the last step; False when `stop` was asked for before it.

        An error of the data set, or a RunError for what ends a run in its middle (`core.processes.failures`), is raised
        after the state was saved; of several processes they go on from the last checkpoint, but for NonFiniteError.
        """
        self.restore()
        self.stop = stop
        config = self.config
        self.speed = Speedometer(self.domain.unit, self.world.device, self.flops, self._peak())
        self.records.open(self.step)
        self.records.write(self.saved.settle)
        unit, shown = f"{self.domain.unit}s", self.world.is_main
        self.progress = Progress(config.trainer.steps, self.step, config.name, unit, shown, self.speed)
        with self.saved:
            try:
                self.begin()
                self._steps()
            except Exception as error:
                # The last good step is saved, unless other processes, who know of no error, would have to help.
                known_to_all = isinstance(error, NonFiniteError)
                if self.whole and (self.world.size == 1 or known_to_all):
                    self.save()
                if known_to_all and not self.world.is_main:
                    raise PeerError(str(error)) from error  # it is told once
                raise
            finally:
                self.progress.close()
                self.records.close()
            self.records.bind()
            self.save()
        return self.step == config.trainer.steps

    def begin(self) -> None:
        """What is done in every process before a session's first step: nothing here."""

    def save(self) -> None:
        """Write a checkpoint of the present step, unless there is one; raises OSError when it cannot be written."""
        self.saved.save(self.step, self._notes)

    def _notes(self) -> dict[str, Any]:
        """What the checkpoint remembers beside tensors, once the records of its steps are on the disk."""
        counters = {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "wall_seconds": self.wall_seconds,
            "loss_scale": self.scaler.state_dict(),
            "skipped_steps": self.skipped,
            "records": self.records.facts(),
        }
        if self.aligning != self.config.alignment:
            counters["alignment"] = plain(self.aligning)  # as it was chosen
        return self.notes.written(counters)

    def restore(self) -> None:
        """Continue from the newest sound checkpoint, if there is one."""
        saved = self.saved.restore(self._check)
        if saved is None and self.empty:
            raise ValueError(f"{self.run.checkpoints} has no checkpoint any more; the same command begins anew")
        if saved is not None:
            notes = saved.notes
            if notes["loss_scale"]:
                self.scaler.load_state_dict(notes["loss_scale"])
            self.step, self.skipped = saved.step, notes["skipped_steps"]
            self.seconds, self.wall_before = notes["seconds"], notes["wall_seconds"]
            self.cpu_seconds = notes.get("cpu_seconds")  # None: begun by code that did not count them
            self.records.before = notes.get("records", {})

    def _check(self, path: Path, saved: Checkpoint) -> None:
        if saved.step > self.config.trainer.steps:
            raise ValueError(f"trainer.steps is {self.config.trainer.steps}, but {path} has made {saved.step} already")
        self.notes.check(path, saved.notes)
        self._check_chosen(path, saved.notes.get("alignment", {}))

    def _check_chosen(self, path: Path, before: dict[str, Any]) -> None:
        """Raises ValueError where a rule or a draw chooses another pair now than it did: the code was another."""
        now = plain(self.aligning)
        for key in changed_keys(plain(self.config.alignment), now) if before else []:
            a, b = (reduce(lambda node, name: node.get(name, {}), key.split("."), config) for config in (before, now))
            if a != b:
                raise ValueError(
                    f"{path} was made with alignment.{key}={a}, chosen then; now it is {b}: name {a} itself"
                )

    def _peak(self) -> float:
        """FLOP/s of all processes' devices together, in the precision of the run, as measured now."""
        return self.world.size * matmul_peak(self.world.device, DTYPES[self.config.trainer.precision])

    def _batches(self) -> Iterator[Batch]:
        config = self.config.trainer
        rows = self.world.rows(config.batch_size)
        positions = StepPositions(self.step, config.steps, config.batch_size, rows)
        pin = self.world.device.type == "cuda"
        return step_batches(self.domain.dataset, self.config.seed, positions, config.num_workers, pin, self.workers)

    def _steps(self) -> None:
        """Make the steps that are left, or those until a stop."""
        with self.workers.told(lambda error: dead_worker(error, self.step, self.config.trainer.num_workers)):
            try:
                for batch in self._timed(self._batches()):
                    self._one_step(batch)
                    if self.stopping:
                        break
            except Exception:
                if self.whole and self.world.size == 1:
                    self.settle()  # what was wrong with the step before comes first
                raise
            self.settle()

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; the time to get one is a wait, the time between two a step."""
        while True:
            asked, used = time.perf_counter(), time.process_time()
            batch = next(batches, None)
            if batch is None:
                return
            waited = time.perf_counter() - asked
            self.speed.waited(waited)
            self._count_time(waited, used)
            yield batch

    def _count_time(self, seconds: float, used: float) -> None:
        """Add what went by; used: the processor time of this process, of all its threads, at the beginning of it."""
        self.seconds += seconds
        if self.cpu_seconds is not None:
            self.cpu_seconds += time.process_time() - used

    def _one_step(self, batch: Batch) -> None:
        begun, used = time.perf_counter(), time.process_time()
        try:
            self.update(on_device(batch, self.world.device))
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise out_of_memory(self.config, self.domain, self.world, self.step) from error
            raise
        self.saved.reserve()
        self.pending.looping = True
        config, seconds = self.config.trainer, time.perf_counter() - begun
        self._count_time(seconds, used)
        self.speed.stepped(config.batch_size, seconds)
        self.progress.advance(config.batch_size)
        if self._looked_at():
            self.settle()
        if self.ema.snapshot_due(self.step):
            self.snapshot()
        if config.preview_every and self.step % config.preview_every == 0:
            attempt(self.preview, self.step)
            self.progress.pause()
        if config.evaluate_every and self.step % config.evaluate_every == 0 and self.step < config.steps:
            attempt(self.evaluate, self.step)
            self.progress.pause()
        self.whole = True
        if self.step % config.checkpoint_every == 0:
            self.saved.begin(self.step, self._notes)
            self.progress.pause()

    def update(self, batch: Batch) -> tuple[Losses, Tensor]:
        """One optimizer step over this process's rows: their losses, and the gradient norm of the global batch.

        It is queued and not waited for; `settle`, which the next step calls once its own passes are queued, tells how
        it went. Where loss or gradient is not finite the device moves nothing. Only fp16 is waited for: a gradient
        that overflows is dropped, the loss scale halved, and the norm is infinite.
        """
        if self.alignment.looks(self.step):
            self.settle()
        self.model.train()
        losses = self._passes(batch)
        if self.config.optimizer.gradient == "matched":
            losses = self._matched(batch, losses)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer.adamw)
        norm = self.optimizer.gradient_norm()
        self.settle()
        dropped = self.scaler.is_enabled() and not math.isfinite(norm) and self.scaler.get_scale() > SMALLEST_SCALE
        (self.stopping,) = self.world.any(bool(self.stop) or self.saved.failed)
        sound = losses.total.isfinite() if dropped else losses.total.isfinite() & norm.isfinite()
        broken = self.world.any_on_device(1 - sound.float())
        self.pending = PendingStep(self.step, batch.index, losses, norm, broken, self._is_logged(self.step + 1))
        if self.scaler.is_enabled():
            self._require_sound()
        self.whole = False
        if dropped:
            self.optimizer.zero_grad()
            self.skipped += 1
        else:
            self.optimizer.step(self.config.optimizer.lr_at(self.step, self.config.trainer.steps), broken)
            for average in (self.ema, self.head_ema):
                if average is not None:
                    average.update(self.step + 1, broken)
        if self.scaler.is_enabled():
            self.scaler.update()
        self.step += 1
        return losses, norm

    def _matched(self, batch: Batch, aligned: Losses) -> Losses:
        """Replace the gradient of the passes that were made by the flow loss's, with the norm of that one.

        The flow loss is the baseline's: same rows, noise, times and drops. Heads keep the gradient that they have. A
        second forward and backward, which any wrapping and compiler takes, not a second backward through one graph.
        """
        wanted = self.optimizer.release_backbone()
        with self.alignment.paused():
            flow = self._passes(batch, self.flow_loss)
        values = aligned.values | {OVERFLOWING: self.optimizer.match(wanted)}
        return replace(flow, similarity=aligned.similarity, values=values)

    def _passes(self, batch: Batch, loss: TrainingLoss | None = None) -> Losses:
        """Forward and backward over the micro-batches of this process's rows; loss: another than the run's.

        Each is weighted by its share of the global batch: the gradient is that of the global batch.
        """
        config, world = self.config.trainer, self.world
        first, last = world.rows(config.batch_size)
        pieces = [part(last - first, config.accumulate, number) for number in range(config.accumulate)]
        done = []
        for begin, end in pieces:
            where = {"global_rows": config.batch_size, "first_row": first + begin}
            random = StepRandom(self.config.seed, self.step, world.device, **where)
            with gradients_stay(self.network) if end < last - first else contextlib.nullcontext():
                losses = self._loss(batch[begin:end], random, loss)
                share = (end - begin) * world.size / config.batch_size
                self.scaler.scale(losses.total * share).backward()
            done.append(losses.detached())
        if loss is None:
            average_gradients(self.alignment.heads, world)
        return Losses.joined(done)

    def _loss(self, batch: Batch, random: StepRandom, loss: TrainingLoss | None) -> Losses:
        """The loss of some rows; ValueError naming one whose media the tokenizer does not take."""
        try:
            return (loss or self.loss)(batch, random, self.step)
        except MediaError as error:
            index = int(batch.index[error.row])
            raise ValueError(
                f"step {self.step + 1}: {self.domain.dataset.name(index)} (row {index}): {error}"
            ) from error

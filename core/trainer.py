"""The loop: batches in, optimizer steps, records, previews and checkpoints out. Reads from top to bottom.

Everything random is drawn from (seed, step), so a run that stopped and one that did not are the same run.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch

from core.alignment import ALIGNMENTS, LayerSyncConfig, NoAlignmentConfig
from core.checkpoint import Checkpoint, CheckpointStore, load_into, read_checkpoint, write_atomic
from core.contracts import Backbone, Batch, Conditioning, Domain, Tokenizer
from core.data import StepPositions, step_loader
from core.draws import StepRandom
from core.ema import EMA, EMAConfig
from core.generate import Generator
from core.interpolant import Interpolant
from core.objective import FlowMatching, ObjectiveConfig
from core.optimizer import Optimizer, OptimizerConfig
from core.rundir import RunDirectory
from core.sampler import Sampler, SamplerConfig
from core.schema import choice, plain
from core.signals import StopRequest
from core.step import Losses, TrainingLoss
from core.tracking import Progress, Tracker


@dataclass(frozen=True)
class TrainerConfig:
    """Length, batch and rhythm of a run; all `_every` count optimizer steps, 0 is never.

    compile: torch.compile the backbone. checkpoint_blocks: recompute each block in backward, for memory. precision:
    bf16 runs the backbone under autocast; weights, losses and EMA stay fp32.
    """

    steps: int
    batch_size: int
    log_every: int = 10
    preview_every: int = 0
    num_previews: int = 40
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    num_workers: int = 0
    compile: bool = False
    checkpoint_blocks: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "num_previews", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("preview_every", "num_workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"trainer.{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every domain's run has; a domain adds data, tokenizer, backbone and conditioning."""

    name: str
    trainer: TrainerConfig
    runs_dir: str = "runs"
    seed: int = 0
    device: str = "auto"
    sample_batch_size: int = 256
    optimizer: OptimizerConfig
    ema: EMAConfig
    objective: ObjectiveConfig
    alignment: LayerSyncConfig | NoAlignmentConfig = choice(ALIGNMENTS)
    sampler: SamplerConfig


class NonFiniteError(ArithmeticError):
    """Loss or gradient became NaN or infinite; raised before the optimizer touches the weights."""


def pick_device(name: str) -> torch.device:
    """The device of the config key `device`; auto takes an accelerator where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; allowed: auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but PyTorch sees no CUDA device here")
    return device


class Trainer:
    """One run of one domain; `started` is the time.perf_counter() from which this session's wall time counts."""

    def __init__(
        self,
        config: RunConfig,
        domain: Domain,
        run: RunDirectory,
        device: torch.device,
        started: float | None = None,
    ):
        self.started = time.perf_counter() if started is None else started
        self.config, self.domain, self.run, self.device = config, domain, run, device
        self.model = domain.backbone.to(device)
        self.model.checkpoint_blocks = config.trainer.checkpoint_blocks
        self.alignment = config.alignment.build(self.model)  # before compile: later hooks would not be called
        network = torch.compile(self.model) if config.trainer.compile else self.model
        self.loss = TrainingLoss(
            tokenizer=domain.tokenizer.to(device),
            conditioning=domain.conditioning,
            network=network,
            backbone=self.model,
            objective=FlowMatching(config.objective, self.model.expand),
            alignment=self.alignment,
            precision=config.trainer.precision,
        )
        self.optimizer = Optimizer(self.model, config.optimizer)
        self.ema = EMA(self.model, config.ema.decay)
        self.store = CheckpointStore(run.checkpoints, config.trainer.keep_checkpoints)
        self.step = 0
        # Over all sessions of the run: seconds in training steps and waiting for their data, and wall time of sessions
        # before this one.
        self.seconds, self.wall_before = 0.0, 0.0

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(each.numel() for each in self.optimizer.named.values())

    @property
    def wall_seconds(self) -> float:
        """Wall time of the run's sessions until now."""
        return self.wall_before + time.perf_counter() - self.started

    def fit(self) -> bool:
        """Train from the newest checkpoint to the last step; False when a signal asked to stop before it."""
        self.resume()
        config = self.config.trainer
        positions = StepPositions(self.step, config.steps, config.batch_size, (0, config.batch_size))
        pin = self.device.type == "cuda"
        batches = step_loader(self.domain.dataset, self.config.seed, positions, config.num_workers, pin)
        self.tracker = Tracker(self.run.path, self.step)
        self.progress = Progress(config.steps, self.step, self.config.name, f"{self.domain.unit}s")
        self._mark = time.perf_counter()
        try:
            with StopRequest() as stop:
                for batch in batches:
                    self._one_step(batch)
                    if stop:
                        break
        except NonFiniteError:
            self.save()  # the weights are those of the last good step
            raise
        finally:
            self.progress.close()
            self.tracker.close()
        self.save()
        return self.step == config.steps

    def _one_step(self, batch: Batch) -> None:
        losses, norm = self.update(batch.to(self.device))
        rate = self.progress.advance(len(batch.index))
        self.seconds += time.perf_counter() - self._mark
        config = self.config.trainer
        if self.step % config.log_every == 0 or self.step == config.steps:
            self._log(losses, norm, rate)
        if config.preview_every and self.step % config.preview_every == 0:
            self.preview()
            self.progress.pause()
        if self.step % config.checkpoint_every == 0:
            self.save()
            self.progress.pause()
        self._mark = time.perf_counter()

    def update(self, batch: Batch) -> tuple[Losses, torch.Tensor]:
        """One optimizer step: its losses and the gradient norm."""
        self.model.train()
        config = self.config
        random = StepRandom(config.seed, self.step, self.device, global_rows=config.trainer.batch_size)
        losses = self.loss(batch, random, self.step)
        losses.total.backward()
        norm = self.optimizer.gradient_norm()
        if not math.isfinite(float(losses.total.detach() + norm)):
            self.optimizer.zero_grad()
            raise NonFiniteError(
                f"step {self.step + 1}: loss {float(losses.total.detach()):g}, gradient norm {float(norm):g}. Nothing "
                f"was updated. Rows of the data set in this batch: {batch.index.tolist()[:16]}"
            )
        self.optimizer.step(config.optimizer.lr_at(self.step, config.trainer.steps))
        self.ema.update()
        self.step += 1
        return losses, norm

    def _log(self, losses: Losses, norm: torch.Tensor, rate: float) -> None:
        metrics = {"flow_loss": float(losses.flow.mean()), "loss": float(losses.total.detach())}
        metrics |= {f"similarity/{pair}": float(value) for pair, value in losses.similarity.items()}
        metrics |= {"gradient_norm": float(norm)}
        metrics |= {"lr": self.config.optimizer.lr_at(self.step - 1, self.config.trainer.steps)}
        self.tracker.log(self.step, metrics, {f"{self.domain.unit}s_per_second": rate})
        self.progress.show(metrics, rate)

    def generator(self) -> Generator:
        """What samples from the model's present weights."""
        domain = self.domain
        parts = (domain.tokenizer, domain.backbone, domain.conditioning, domain.latent_shape)
        return make_generator(self.config, *parts, self.device)

    def preview(self) -> None:
        """Write samples of the EMA weights; always the same conditions and the same noise."""
        count = self.config.trainer.num_previews
        condition = self.domain.conditioning.requests(count, self.config.seed)
        with self.ema.applied(), self.alignment.paused():
            media = self.generator()(condition, self.config.seed, self.config.sample_batch_size)
        self.run.previews.mkdir(exist_ok=True)
        self.domain.preview.save(media, condition, self.run.previews / f"step_{self.step:08d}")

    def save(self) -> None:
        """Write a checkpoint of the present step, unless there is one."""
        latest = self.store.latest()
        if self.step == 0 or (latest is not None and latest.name == f"step_{self.step:08d}"):
            return
        groups = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        notes = {
            "domain": self.domain.name,
            "seconds": self.seconds,
            "wall_seconds": self.wall_seconds,
            "tokenizer": self.domain.tokenizer.constants(),
            "config": plain(self.config),
            "torch": torch.__version__,
        }
        self.store.save(self.step, groups, notes)

    def resume(self) -> None:
        """Continue from the newest checkpoint, if there is one."""
        latest = self.store.latest()
        if latest is None:
            return
        saved: Checkpoint = read_checkpoint(latest)
        if saved.step > self.config.trainer.steps:
            raise ValueError(
                f"trainer.steps is {self.config.trainer.steps}, but {latest} has made {saved.step} already"
            )
        constants = self.domain.tokenizer.constants()
        if saved.notes["tokenizer"] != json.loads(json.dumps(constants)):
            raise ValueError(f"{latest} was made with another tokenizer: {saved.notes['tokenizer']}, now {constants}")
        load_into(self.model, saved.groups["model"], str(latest))
        self.ema.load_state_dict(saved.groups["ema"])
        self.optimizer.load_state_dict(saved.groups["optimizer"])
        self.step, self.seconds = saved.step, saved.notes["seconds"]
        self.wall_before = saved.notes["wall_seconds"]

    def finish(self) -> dict[str, Any]:
        """Sample with the EMA weights, measure, write the last preview and summary.json; returns the summary."""
        samples = self.step * self.config.trainer.batch_size
        summary: dict[str, Any] = {
            "steps": self.step,
            "parameters": self.parameters,
            f"{self.domain.unit}s_per_second": samples / max(self.seconds, 1e-9),
            "train_seconds": self.seconds,
            "device": str(self.device),
        }
        if self.domain.evaluator is not None:
            summary |= self.evaluate()
        self.preview()
        summary["wall_seconds"] = self.wall_seconds
        write_atomic(self.run.summary_file, json.dumps(summary, indent=1) + "\n")
        return summary

    def evaluate(self) -> dict[str, float]:
        """The evaluator's metrics of samples made with the EMA weights."""
        evaluator = self.domain.evaluator
        condition = self.domain.conditioning.requests(evaluator.num_samples, self.config.seed)
        bar = Progress(len(condition), 0, "sampling", "samples")
        with self.ema.applied(), self.alignment.paused():
            media = self.generator()(condition, self.config.seed, self.config.sample_batch_size, bar.bar.update)
        bar.close()
        return dict(evaluator.evaluate(media, condition))


def make_generator(
    config: RunConfig,
    tokenizer: Tokenizer,
    backbone: Backbone,
    conditioning: Conditioning,
    latent_shape: tuple[int, ...],
    device: torch.device,
) -> Generator:
    """The sampling side of a run's config: the given components under its sampler, path and prediction."""
    interpolant = Interpolant(config.objective.path, backbone.expand)
    sampler = Sampler(config.sampler, interpolant, config.objective.prediction)
    return Generator(backbone, sampler, tokenizer, conditioning, latent_shape, device)

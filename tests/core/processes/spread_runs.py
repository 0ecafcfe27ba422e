"""Tiny runs on one process or several: what they train on, and what is kept (`started` starts them)."""

import contextlib
import dataclasses
import functools
import json
import math
from unittest import mock

import matplotlib.figure  # noqa: F401, what a run imports when it needs it: once for all forks
import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.fsdp
from torch import nn

import core.train.notes
import core.train.tracking
import core.train.trainer
from core.alignment.contract import NoAlignmentConfig
from core.alignment.layersync import LayerSyncConfig
from core.commands.entry import compose_config
from core.processes.failures import NonFiniteError
from core.processes.sharding import local, whole
from core.processes.spread import ParallelConfig
from core.processes.world import PeerError
from core.schema import strict
from core.storage.run_folder import RunDirectory
from core.train.trainer import Trainer
from image.train import ImageConfig, build_domain

BATCH, STEPS, WEIGHT, WEAK, STRONG = 7, 2, 0.5, 1, 2
SCALE = 2.0**8  # of fp16, at first
TINY = f"""
trainer.steps={STEPS} trainer.batch_size={BATCH} trainer.log_every=1 trainer.preview_every=0 trainer.num_previews=10
backbone.depth=2 backbone.hidden_size=16 backbone.num_heads=2
alignment.pairs=[[{WEAK},{STRONG}]] alignment.weight={WEIGHT}
optimizer.warmup_steps=0 optimizer.clip_norm=null sampler.num_steps=2 sample_batch_size=3
evaluation=none tracking.tensorboard="off" device=cpu
""".split()


@dataclasses.dataclass(frozen=True)
class Case:
    """One run: the keys of `parallel` and `trainer` that the matrix varies, and other nodes of the config to change."""

    strategy: str = "ddp"
    precision: str = "fp32"
    checkpoint_blocks: bool = False
    compile: str = "none"
    accumulate: int = 1
    backend: str = "eager"
    aligned: bool = True
    changes: tuple[tuple[str, object], ...] = ()

    @property
    def name(self) -> str:
        """The folder of its run."""
        checkpointed = "again" if self.checkpoint_blocks else "once"
        parts = (self.strategy, self.precision, checkpointed, self.compile, f"{self.accumulate}parts", self.backend)
        return "-".join([*parts, "aligned" if self.aligned else "alone"])

    def config(self, runs_dir, name=None) -> ImageConfig:
        """The whole config of the run."""
        base = tiny()
        keys = ("precision", "checkpoint_blocks", "compile", "accumulate")
        trainer = dataclasses.replace(base.trainer, **{key: getattr(self, key) for key in keys})
        config = dataclasses.replace(
            base,
            name=name or self.name,
            runs_dir=str(runs_dir),
            trainer=trainer,
            parallel=ParallelConfig(self.strategy),
            alignment=base.alignment if self.aligned else NoAlignmentConfig(),
        )
        for key, value in self.changes:
            config = changed(config, key, value)
        return config


@functools.cache
def tiny() -> ImageConfig:
    """The config of the smallest run, composed once."""
    config = strict(ImageConfig, compose_config("image.conf", "train", TINY))
    assert isinstance(config.alignment, LayerSyncConfig)
    return config


def changed(config, key, value):
    """The config with the dotted `key` changed."""
    node, _, rest = key.partition(".")
    return dataclasses.replace(config, **{node: changed(getattr(config, node), rest, value) if rest else value})


class Patches:
    """An encoder that gives the pixels of patches of 2 x 2."""

    width, flops = 4, 0

    def __call__(self, batch):
        return torch.nn.functional.pixel_unshuffle(batch.media, 2)


def build(case, world, runs_dir, name=None) -> Trainer:
    """The trainer of a run; every weight is random, so that no gate is shut."""
    config = case.config(runs_dir, name)
    domain = build_domain(config, world.device, evaluate=False)
    domain = dataclasses.replace(domain, encoders=lambda name: Patches())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in domain.backbone.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    with compiled_by(case.backend):
        trainer = Trainer(config, domain, RunDirectory.create(runs_dir, domain.name, config.name), world)
    if case.precision == "fp16":  # these gradients overflow at the usual first scale, and nothing would be compared
        trainer.scaler = torch.amp.GradScaler(world.device.type, init_scale=SCALE)
    return trainer


def fit(trainer, stop=None) -> bool:
    """`trainer.fit`, without what is not tested here and costs most of the time."""
    peak = mock.patch.object(core.train.trainer, "matmul_peak", lambda *args: 1.0)
    with peak, mock.patch.object(core.train.tracking, "draw_curves"):
        return trainer.fit(stop)


@contextlib.contextmanager
def compiled_by(backend):
    """torch.compile, of a model and of a block in place, with another default backend."""
    functions = torch.compile, nn.Module.compile
    torch.compile = functools.partial(torch.compile, backend=backend)
    nn.Module.compile = functools.partialmethod(nn.Module.compile, backend=backend)
    try:
        yield
    finally:
        torch.compile, nn.Module.compile = functions


def weak_gradients(trainer) -> list[dict[str, torch.Tensor]]:
    """A list that gets the whole gradients of the weak block, and of heads, whenever the optimizer steps."""
    kept, step, prefix = [], trainer.optimizer.step, (f"blocks.{WEAK - 1}.", "alignment.")

    def seen(*told):
        named = trainer.optimizer.named.items()
        kept.append({name: whole(each.grad).clone() for name, each in named if name.startswith(prefix)})
        step(*told)

    trainer.optimizer.step = seen
    return kept


def lines_of(trainer) -> list[dict[str, float]]:
    """What the run has recorded."""
    return [json.loads(line) for line in (trainer.run.path / "metrics.jsonl").read_text().splitlines()]


def part_of(trainer) -> dict[str, dict[str, torch.Tensor]]:
    """This process's part of weights, averages and optimizer state."""
    groups = {"model": trainer.model.state_dict(), **trainer.ema.state_dicts()}
    groups["optimizer"] = trainer.optimizer.state_dict()
    return {name: {key: local(value).clone() for key, value in state.items()} for name, state in groups.items()}


def fitted(world, case, runs_dir) -> dict:
    """A run from its start to its end: records, weak gradients of each step, weights."""
    trainer = build(case, world, runs_dir)
    gradients = weak_gradients(trainer)
    assert fit(trainer)
    weights = {name: whole(value).clone() for name, value in trainer.model.state_dict().items()}
    if not world.is_main:
        return {}
    return {"lines": lines_of(trainer), "gradients": gradients, "weights": weights}


# what happens in the middle of a run


class AskedOf:
    """A stop that one process was asked for, once its run had made `step` steps."""

    exit_code = 143

    def __init__(self, trainer, rank, step):
        self.trainer, self.rank, self.step = trainer, rank, step

    def __bool__(self):
        return self.trainer.world.rank == self.rank and self.trainer.step >= self.step


def stopped(world, case, runs_dir, rank) -> dict:
    """A run of which process `rank` alone is asked to stop in its second step."""
    trainer = build(case, world, runs_dir)
    return {"complete": fit(trainer, AskedOf(trainer, rank, 1)), "step": trainer.step}


def resumed(world, case, runs_dir) -> dict:
    """A run, or the rest of one that was begun; then samples of its last checkpoint."""
    trainer = build(case, world, runs_dir)
    fit(trainer)
    samples = sampled(world, case, runs_dir)
    return {"step": trainer.step, "lines": lines_of(trainer), "samples": samples}


def sampled(world, case, runs_dir) -> torch.Tensor | None:
    """Samples made right after the last checkpoint was read, with no forward pass before."""
    trainer = build(case, world, runs_dir)
    trainer.restore()
    return samples_of(trainer)


def samples_of(trainer, number=8):
    """Samples of the averaged weights, in three batches; in the main process."""
    condition = trainer.domain.conditioning.requests(number, 5)
    with trainer.averaged() as generator:
        return generator(condition, 5, trainer.config.sample_batch_size)


def previewed(world, case, runs_dir) -> dict:
    """Losses of steps without and with a preview after each, and whether a preview moved the state."""
    plain, showing = (build(case, world, runs_dir, name) for name in ("plain", "showing"))
    losses, moved = [], []
    for a, b in zip(plain._batches(), showing._batches(), strict=True):
        losses.append([float(trainer.update(batch)[0].total) for trainer, batch in ((plain, a), (showing, b))])
        before = part_of(showing)
        showing.preview()
        moved += [group for group, state in part_of(showing).items() if not same(state, before[group])]
    return {"losses": losses, "moved": moved, "training": showing.model.training}


def same(a, b) -> bool:
    """Equal keys and tensors, bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def sampled_in_own_time(world, case, runs_dir) -> dict:
    """Samples of a solver with step control, and how often this process ran the network for them."""
    trainer, calls = build(case, world, runs_dir), []
    trainer.model.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    return {"samples": samples_of(trainer), "calls": len(calls)}


def overflowing(world, case, runs_dir, where) -> dict:
    """A step of fp16 in which a gradient overflows in the last process only, between two that are sound.

    where: in the pass, before processes exchange gradients, or behind it, in one element of this process's part.
    """
    trainer, seen = build(case, world, runs_dir), []
    passes, last = trainer._passes, world.rank == world.size - 1

    def spoilt(batch):
        kept = trainer.model.final_layer.linear.register_forward_hook(lambda module, inputs, out: spoil(out))
        losses = passes(batch)
        kept.remove()
        return losses

    def spoil(out):
        if last and trainer.step == 1 and where == "pass":
            out.register_hook(lambda gradient: gradient * torch.inf)

    def spoilt_part(batch):
        losses = passes(batch)
        if last and trainer.step == 1:
            local(trainer.model.final_layer.linear.weight.grad)[0, 0] = torch.inf
        return losses

    trainer._passes = spoilt if where == "pass" else spoilt_part
    for batch in trainer._batches():
        before = part_of(trainer)["model"]
        norm = trainer.update(batch)[1]
        moved = not same(part_of(trainer)["model"], before)
        seen.append({"finite": math.isfinite(norm), "moved": moved, "scale": trainer.scaler.get_scale()})
    return {"steps": seen, "skipped": trainer.skipped}


def broken(world, case, runs_dir) -> dict:
    """A run whose second batch has a sample that is infinite, among the rows of the last process."""
    trainer = build(case, world, runs_dir)
    passes = trainer._passes

    def spoilt(batch):
        if trainer.step == 1 and world.rank == world.size - 1:
            batch.media[-1] = torch.inf
        return passes(batch)

    trainer._passes = spoilt
    try:
        fit(trainer)
    except (NonFiniteError, PeerError) as error:
        return {"error": type(error).__name__, "message": str(error), "step": trainer.step}
    return {}


def exchanged(world, case, runs_dir) -> int:
    """How often DDP exchanges a bucket of gradients in one step."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    trainer, exchanges = build(case, world, runs_dir), []

    def counting(group, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        exchanges.append(bucket.index())
        return allreduce_hook(group, bucket)

    trainer.network.register_comm_hook(None, counting)
    trainer.update(next(trainer._batches()))
    return len(exchanges)

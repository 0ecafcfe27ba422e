"""The steps that are measured: ours with and without LayerSync, the plain loop, and LayerSync's term by itself.

Each is a callable that takes `mark`, calls it at the end of each of its `segments`, and returns nothing.
Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.baseline import BaselineStep
from benchmarks.models import Work, build_backbone, build_batch, compiled
from core.alignment.contract import NoAlignmentConfig
from core.alignment.layersync import LayerSyncConfig
from core.alignment.teacher import Teacher
from core.conditioning.labels import LabelConditioning, LabelConfig
from core.draws import StepRandom
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.latents.pixels import Pixels
from core.precision import autocast
from core.processes.spread import Compile
from core.step import TrainingLoss
from core.train.ema import EMA, EMAConfig
from core.train.optimizer import Optimizer
from core.train.readback import Readback

OURS: dict[str, tuple[Compile, bool]] = {  # what is compiled, and whether LayerSync is on
    "eager": ("none", False),
    "eager+layersync": ("none", True),
    "compiled": ("model", False),
    "compiled+layersync": ("model", True),
}
VARIANTS = (*OURS, "baseline")
ENDLESS = 10**9  # steps of the run that these steps belong to, for the learning rate's schedule


class Step(Protocol):
    """What can be given turns."""

    segments: tuple[str, ...]

    def __call__(self, mark: Callable[[], None]) -> None: ...


class OurStep:
    """`Trainer.update` on latents in memory; `mark` is called after forward, backward and update.

    mode: what is compiled; the trainer compiles the model. method: an alignment other than LayerSync. A test holds its
    weights against the trainer's.
    """

    segments = ("forward", "backward", "update")

    def __init__(
        self,
        work: Work,
        device: torch.device,
        *,
        mode: Compile,
        aligned: bool,
        backend: str = "inductor",
        method: Any = None,
    ):
        preset = work.preset
        config = (method or preset.alignment) if aligned else NoAlignmentConfig()
        self.work, self.preset, self.device, self.aligned = work, preset, device, aligned
        self.model = build_backbone(work.preset, work.seed, device).train()
        self.batch = build_batch(work, device)
        self.model.two_times = config.needs.token_times
        teacher = Teacher(self.model, config.needs.teacher, work.precision) if config.needs.teacher else None
        self.alignment = config.build(self.model)
        self.alignment.heads.to(device)
        # torch.compile's options for the term, None where nothing is compiled
        self.options = None if mode == "none" else {"backend": backend}
        if self.options is not None:
            self.alignment.compile(**self.options)
        self.loss = TrainingLoss(
            tokenizer=Pixels(),
            conditioning=LabelConditioning(LabelConfig(), preset.num_classes),
            network=compiled(self.model, mode, backend),
            backbone=self.model,
            objective=FlowMatching(ObjectiveConfig(), self.model.expand),
            alignment=self.alignment,
            precision=work.precision,
            teacher=teacher,
            needs=config.needs,
        )
        self.optimizer = Optimizer(self.model, preset.optimizer, self.alignment.heads)
        self.ema = EMA(self.model, EMAConfig([preset.ema_decay]), None if teacher is None else teacher.model)
        self.step, self.pending = 0, None

    def __call__(self, mark: Callable[[], None]) -> None:
        """One step; ArithmeticError when the one before was not finite."""
        random = StepRandom(self.work.seed, self.step, self.device, global_rows=self.work.batch)
        losses = self.loss(self.batch, random, self.step)
        mark()
        losses.total.backward()
        mark()
        norm = self.optimizer.gradient_norm()
        self.settle()
        broken = 1 - (losses.total.detach().isfinite() & norm.isfinite()).float()
        self.pending = Readback({"broken": broken, "norm": norm, "loss": losses.total})
        self.optimizer.step(self.preset.optimizer.lr_at(self.step, ENDLESS), broken)
        self.step += 1
        self.ema.update(self.step, broken)
        mark()

    def settle(self) -> None:
        """Learn how the last step went, as the trainer does; ArithmeticError when it was not finite."""
        if self.pending is not None and self.pending.read()["broken"]:
            raise ArithmeticError(f"step {self.step}: loss or gradient norm is not finite")

    def pair(self) -> tuple[Tensor, Tensor]:
        """Weak and strong tokens (B, N, D) of one forward pass, as LayerSync gets them."""
        t = torch.full((self.work.batch,), 0.5, device=self.device)
        eager = torch.compiler.set_stance("force_eager")
        with eager, torch.no_grad(), autocast(self.device, self.work.precision):
            self.model(self.batch.media, t, self.batch.condition)
        tokens = self.alignment.hooks.take()
        weak, strong = self.alignment.sync.pairs[0]
        return tokens[weak], tokens[strong]


class _Emitter(nn.Module):
    """A model of two blocks that hand out given tokens: LayerSync can be run on it and nothing else runs."""

    def __init__(self, *tokens: Tensor):
        super().__init__()
        self.blocks = nn.ModuleList(_Given(each) for each in tokens)

    def forward(self) -> None:
        for block in self.blocks:
            block()


class _Given(nn.Module):
    def __init__(self, tokens: Tensor):
        super().__init__()
        self.tokens = tokens

    def forward(self) -> Tensor:
        return self.tokens


class AlignmentAlone:
    """LayerSync's term by itself on real tokens: its forward, its backward, and its gradient's addition to the weak
    side's. Hooks are installed here, which resets torch.compile: build it before the first compiled step.

    options: torch.compile's, for a term that is compiled; None is eager.
    """

    segments = ("alignment",)

    def __init__(self, config: LayerSyncConfig, weak: Tensor, strong: Tensor, options: Mapping[str, str] | None = None):
        self.weak = weak.detach().requires_grad_()
        self.weak.grad = torch.zeros_like(self.weak)  # is added to, as the flow loss's gradient is in a step
        self.t = torch.full((len(weak),), 0.5, device=weak.device)
        self.model = _Emitter(self.weak, strong.detach()).train()
        self.sync = replace(config, pairs=[(1, 2)]).build(self.model).sync
        if options is not None:
            self.sync.compile(**options)

    def __call__(self, mark: Callable[[], None]) -> None:
        """Evaluate the term once and go back through it."""
        self.model()
        self.sync.terms(0, self.t).loss.backward()
        mark()


def build_step(work: Work, name: str, device: torch.device) -> OurStep | BaselineStep:
    """The variant of that name, ready to step."""
    if name != "baseline":
        mode, aligned = OURS[name]
        return OurStep(work, device, mode=mode, aligned=aligned)
    return BaselineStep(work, device)

"""A step that was queued on the device, and how it went: numbers that the host reads when they are there.

The host goes on to the passes of the next step meanwhile, so that the device always has work.

Letters: B rows of this process's batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from core.processes.failures import NonFiniteError
from core.step import Losses
from core.train.diagnoses import samples_told, write_not_finite
from core.train.outputs import RunOutputs
from core.train.progress import Progress
from core.train.readback import Readback
from core.train.speed import Speedometer

OVERFLOWING = "matched_factor"  # is not finite where fp16 has overflowed, and the step is dropped


@dataclass
class PendingStep:
    """A step of which the host does not know yet whether it was sound.

    step     the optimizer step, from 0
    index    (B,) rows of the data set
    losses   of these rows; norm: of the gradient of the global batch; broken: 1 where any process has one that is not
             finite, and 0 where the step was made
    logged   whether all numbers of the losses are to be read, not only what decides
    looping  once the loop has counted the step, which is then to be recorded
    """

    step: int
    index: Tensor
    losses: Losses
    norm: Tensor
    broken: Tensor
    logged: bool
    looping: bool = False

    def __post_init__(self) -> None:
        numbers = {"broken": self.broken, "norm": self.norm, "loss": self.losses.total}
        if self.logged:
            numbers["flow_loss"] = self.losses.flow.mean()
            numbers |= {f"similarity/{pair}": value for pair, value in self.losses.similarity.items()}
            numbers |= self.losses.values
        self.numbers = Readback(numbers)

    def verdict(self) -> tuple[bool, float]:
        """Whether the step was broken, and the norm."""
        numbers = self.numbers.read()
        return numbers["broken"] != 0, numbers["norm"]

    def own(self) -> dict[str, float]:
        """The numbers of this process's rows, by the names of their records; those of a step that is `logged`."""
        numbers = self.numbers.read()
        first = {name: numbers.pop(name) for name in ("flow_loss", "loss")}
        others = {name: value for name, value in numbers.items() if name not in ("broken", "norm")}
        return first | {name: value for name, value in others.items() if name != OVERFLOWING or math.isfinite(value)}


class SettledSteps(RunOutputs):
    """The part of the loop that learns how a step went, after the passes of the next one were queued."""

    scaler: torch.amp.GradScaler
    speed: Speedometer
    progress: Progress
    skipped: int
    whole: bool
    pending: PendingStep | None

    def measured(self) -> dict[str, float]:
        """What is logged of the present weights beside the losses, by name; in every process: nothing here."""
        return {}

    def settle(self) -> None:
        """Learn how the last step went, if that is not known, and record it.

        Raises NonFiniteError, in every process, for a loss or gradient that was not finite: the run is where it was
        before that step.
        """
        self._require_sound()
        pending, self.pending = self.pending, None
        if pending is None or not pending.looping:
            return
        whole, self.whole = self.whole, False
        self.records.bind()
        by_time = self.loss_by_time()
        if pending.logged:
            self._log(pending, by_time)
        self.whole = whole

    def _require_sound(self) -> None:
        """The error of `settle`, if there is one."""
        pending = self.pending
        if pending is None:
            return
        is_broken, norm = pending.verdict()
        if is_broken:
            self.step, self.whole, self.pending = pending.step, True, None
            raise self._not_finite(pending.index, pending.losses, norm)

    def _is_logged(self, step: int) -> bool:
        config = self.config.trainer
        return step % config.log_every == 0 or step == config.steps or self.by_time.due(step)

    def _looked_at(self) -> bool:
        """Whether the state after the present step is looked at, or kept, before the next one: it must be sound."""
        config = self.config.trainer
        often = (config.preview_every, config.evaluate_every, config.checkpoint_every)
        due = any(every and self.step % every == 0 for every in often)
        return due or self.scaler.is_enabled() or self.by_time.due(self.step) or self.ema.snapshot_due(self.step)

    def _log(self, pending: PendingStep, by_time: dict[str, float]) -> None:
        """Record the step: its numbers over the global batch, however many processes shared it."""
        own, (_, norm) = pending.own(), pending.verdict()
        weight = len(pending.index) / self.config.trainer.batch_size
        metrics = dict(zip(own, self.world.mean(list(own.values()), weight), strict=True))
        metrics |= {"gradient_norm": norm} if math.isfinite(norm) else {}
        metrics |= self.measured() | by_time
        metrics |= {"lr": self.config.optimizer.lr_at(self.step - 1, self.config.trainer.steps)}
        if self.scaler.is_enabled():
            metrics |= {"loss_scale": self.scaler.get_scale(), "skipped_steps": self.skipped}
        self.records.log(self.step, metrics, self.speed.values())
        self.progress.show(metrics)

    def _not_finite(self, index: Tensor, losses: Losses, norm: float) -> NonFiniteError:
        """The error for this step, the same in every process, after the global batch's samples were written down.

        index: (B,) rows of the data set. Nothing has been updated.
        """
        self.optimizer.zero_grad()
        parts = self.world.gather(samples_told(self.domain.dataset, index, losses.flow))
        (total,) = self.world.mean([float(losses.total)], len(losses.flow) / self.config.trainer.batch_size)

        def written() -> str:
            return write_not_finite(self.run, self.step, {"loss": total, "gradient_norm": norm}, parts)

        return NonFiniteError(self.records.write(written))

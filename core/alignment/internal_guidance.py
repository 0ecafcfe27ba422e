"""Internal guidance (arXiv 2512.24176): an early block, with an output layer of its own, predicts what the last does.

In training its error counts beside the flow loss. In sampling the two predictions of one pass guide each other:
early + scale (last - early), `sampler.internal_scale`. Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.alignment.contract import Alignment, AlignmentTerms, Forward, Needs, check_weight, listen
from core.alignment.teacher import Teacher
from core.nets.layers import TRAINING_FACTOR
from layersync.blocks import Layer
from layersync.hooks import LayerHooks
from layersync.schedule import WeightSchedule


@dataclass(frozen=True)
class InternalGuidanceConfig:
    """Options of internal guidance.

    layer   block number from 1, or module name; the paper: 8 of 28 blocks
    weight  of the early prediction's loss, which is otherwise the flow loss
    """

    layers_key: ClassVar[str] = "alignment.layer"
    layer: int | str
    weight: float = 0.5
    schedule: WeightSchedule = field(default_factory=WeightSchedule)

    def __post_init__(self) -> None:
        check_weight(self.weight)

    @property
    def layers(self) -> list[Layer]:
        """The one layer."""
        return [self.layer]

    @property
    def needs(self) -> Needs:
        """A backbone whose output layer can be had a second time."""
        return Needs(second_output=True)

    def build(self, model: nn.Module) -> InternalGuidance:
        """The method installed on `model`."""
        return InternalGuidance(model, self)


class _Conditions:
    """A forward pre-hook on the output layer that keeps what conditions it, while the hooks of the block listen."""

    def __init__(self, hooks: LayerHooks):
        self.hooks, self.kept = hooks, ()

    def __call__(self, module: nn.Module, inputs: tuple) -> None:
        if self.hooks.collecting and self.hooks.open:
            self.kept = inputs[1:]

    def __deepcopy__(self, memo: dict) -> _Conditions:
        """Of a copied output layer, which nobody listens to."""
        return _Conditions(copy.deepcopy(self.hooks, memo))

    def take(self) -> tuple:
        """Them, in float32 where they are numbers."""
        kept, self.kept = self.kept, ()
        return tuple(_full_precision(each) for each in kept)


def _full_precision(values: Tensor | tuple) -> Tensor | tuple:
    if isinstance(values, tuple):
        return tuple(_full_precision(each) for each in values)
    return values.float() if values.is_floating_point() else values


class InternalGuidance(Alignment):
    """The second output layer on a block's tokens; it begins as a copy of the backbone's own."""

    def __init__(self, model: nn.Module, config: InternalGuidanceConfig):
        output = copy.deepcopy(model.output_layer).requires_grad_()
        super().__init__(listen(model, [config.layer], in_a_row=False), {"output": output})
        self.config, self.model = config, model
        self.conditions = _Conditions(self.hooks)
        self.handle = model.output_layer.register_forward_pre_hook(self.conditions)

    def second_prediction(self, x: Tensor) -> Tensor:
        """What the block's own output layer predicts, of x's shape (B, *latent), after a pass that was listened to."""
        (tokens,) = self.hooks.take().values()
        with torch.autocast(x.device.type, enabled=False):
            values = self.heads["output"](tokens.float(), *self.conditions.take())
        return self.model.as_latents(values, x)

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """The flow loss of the early prediction: the objective's own target, weighting and mask."""
        early = self.second_prediction(forward.x_t)
        mask = forward.batch.mask
        mask = None if mask is None else self.model.expand(mask, forward.latents)
        sides = (forward.latents, forward.noise, forward.t, mask)
        loss = forward.objective(lambda x, t: early, *sides).loss.mean()
        weight = self.config.weight * self.config.schedule.factor(forward.step)
        return AlignmentTerms(weight * loss, values={f"early_loss/{self.config.layer}": loss.detach()})

    def second_output(self) -> Callable[[Callable[[], Tensor], Tensor], tuple[Tensor, Tensor]]:
        """What makes both predictions of one pass."""
        return self.both

    def both(self, predict: Callable[[], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction (B, *latent) of a pass of the backbone over x, and the early one."""
        with self.listening():
            return predict(), self.second_prediction(x)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to the passes inside the block, paused or not."""
        before, self.hooks.collecting = self.hooks.collecting, True
        try:
            yield
        finally:
            self.hooks.collecting = before

    def remove(self) -> None:
        """Take the hooks off the model."""
        super().remove()
        self.handle.remove()

    def extra_flops(self, forward: int, num_tokens: int) -> int:
        """The output layer: its map from a token to its numbers, and what modulates it, once a sample."""
        last, *once = (each.weight.numel() for each in self.heads["output"].modules() if isinstance(each, nn.Linear))
        return TRAINING_FACTOR * 2 * (num_tokens * last + sum(once))

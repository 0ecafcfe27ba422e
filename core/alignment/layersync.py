"""LayerSync (arXiv 2510.12581): an early block of a transformer learns from a later block of the same forward pass.

    L_sync(k, k') = - mean over samples and tokens of cos( f_k(x_t), stopgrad( f_k'(x_t) ) )      weak k < strong k'

    sync = LayerSync(model, pairs=[(8, 16)], weight=0.2)      # before torch.compile, DDP and FSDP
    loss = flow_loss + sync()                                 # after the model's forward

One extra loss term: no parameters, no second forward, no external model. Letters: B batch, N tokens, F frames, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.alignment.contract import (
    TIME_WEIGHTS,
    Alignment,
    AlignmentTerms,
    Forward,
    Needs,
    TimeWeight,
    WeightSchedule,
    check_pairs,
    check_weight,
)
from core.alignment.hooks import Layer, LayerHooks
from core.alignment.teacher import Teacher
from core.alignment.tokens import hide_padding, masked_token_mean, token_cosine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LayerSyncConfig:
    """Options of LayerSync; `pairs` are (weak, strong) block numbers from 1, or module names."""

    layers_key: ClassVar[str] = "alignment.pairs"
    pairs: list[tuple[int | str, int | str]]
    weight: float = 0.2
    schedule: WeightSchedule = field(default_factory=WeightSchedule)
    time_weight: TimeWeight = "uniform"
    stop_gradient: bool = True

    def __post_init__(self) -> None:
        check_pairs(self.pairs)
        check_weight(self.weight)

    @property
    def layers(self) -> list[Layer]:
        """The layers of both sides."""
        return [layer for pair in self.pairs for layer in pair]

    @property
    def needs(self) -> Needs:
        """Nothing that a run has not."""
        return Needs()

    def build(self, model: nn.Module) -> LayerSyncAlignment:
        """LayerSync installed on `model`."""
        sync = LayerSync(
            model,
            pairs=self.pairs,
            weight=self.weight,
            schedule=self.schedule,
            time_weight=TIME_WEIGHTS[self.time_weight],
            stop_gradient=self.stop_gradient,
        )
        return LayerSyncAlignment(sync)


class LayerSync:
    """Self-alignment of intermediate layers, for any torch model with a list of blocks.

    model           the bare model, before torch.compile, DDP or FSDP
    pairs           (weak, strong) layers: block numbers from 1, or module names; the loss is the mean over pairs
    weight          the paper's lambda: 0.2 to 0.3, robust in 0.1 to 0.7
    schedule        the weight over optimizer steps
    time_weight     the weight over flow time t, a function of a tensor; None is uniform
    blocks          name of the list that numbers refer to; None finds the model's longest ModuleList
    stop_gradient   detach the strong side; off only to compare with a published variant that did not

    Raises ValueError for no pair, weak not before strong, an unknown block (with the range), a weight not above 0.
    """

    def __init__(
        self,
        model: nn.Module,
        pairs: Sequence[tuple[Layer, Layer]],
        weight: float = 0.2,
        *,
        schedule: WeightSchedule | None = None,
        time_weight: Callable[[Tensor], Tensor] | None = None,
        blocks: str | None = None,
        stop_gradient: bool = True,
    ):
        check_pairs(pairs)
        check_weight(weight)
        self.model, self.weight, self.stop_gradient = model, weight, stop_gradient
        self.schedule = schedule if schedule is not None else WeightSchedule()
        self.time_weight, self.cosine = time_weight, token_cosine
        try:
            self.hooks = LayerHooks(model, [layer for pair in pairs for layer in pair], blocks)
        except ValueError as error:
            raise ValueError(f"alignment.pairs is {[tuple(pair) for pair in pairs]}: {error}") from error
        names = self.hooks.names
        self.pairs = list(zip(names[::2], names[1::2], strict=True))
        self._check_order(pairs)
        self.labels = [f"{weak}->{strong}" for weak, strong in pairs]
        described = (f"{a} -> {b}" for a, b in self.pairs)
        log.info("LayerSync aligns %s with weight %g", ", ".join(described), weight)

    def _check_order(self, pairs: Sequence[tuple[Layer, Layer]]) -> None:
        position = {name: i for i, (name, _) in enumerate(self.model.named_modules(remove_duplicate=False))}
        for (weak, strong), (weak_name, strong_name) in zip(pairs, self.pairs, strict=True):
            if position[weak_name] >= position[strong_name]:
                self.hooks.remove()
                raise ValueError(
                    f"alignment.pairs holds ({weak}, {strong}); the weak layer must come before the strong"
                )
        if len(set(self.pairs)) < len(self.pairs):
            self.hooks.remove()
            raise ValueError(f"alignment.pairs names a pair twice: {list(pairs)}")

    def __call__(self, step: int = 0, t: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The weighted loss, a scalar, of the model's last forward; `terms` gives the similarities too."""
        return self.terms(step, t, mask).loss

    def terms(self, step: int = 0, t: Tensor | None = None, mask: Tensor | None = None) -> AlignmentTerms:
        """Loss and similarity of the model's last forward.

        step  the optimizer step, for the schedule
        t     flow times (B,) or (B, N), for `time_weight`
        mask  (B, N) or (B, F, N), true where a token is real; padding never counts

        Raises RuntimeError when a layer was not heard, the two sides differ in shape, or the weak side carries
        no gradient while the model trains.
        """
        tokens = self.hooks.take()
        similarity, losses = {}, []
        for label, (weak, strong) in zip(self.labels, self.pairs, strict=True):
            self._check_tokens(tokens[weak], tokens[strong], label)
            a, b = (hide_padding(tokens[name], mask) for name in (weak, strong))
            cosine = self.cosine(a, b.detach() if self.stop_gradient else b)
            per_sample = masked_token_mean(cosine, mask)
            similarity[label] = per_sample.detach().mean().clamp(-1, 1)
            if self.time_weight is not None:
                per_sample = masked_token_mean(cosine * self._over_time(t, cosine), mask)
            losses.append(-per_sample.mean())
        weight = self.weight * self.schedule.factor(step)
        return AlignmentTerms(weight * torch.stack(losses).mean(), similarity)

    def _over_time(self, t: Tensor | None, cosine: Tensor) -> Tensor:
        if t is None:
            raise ValueError("this LayerSync weighs by time: pass the flow times, sync(t=t)")
        weight = self.time_weight(t.float())
        if weight.numel() == cosine.numel():
            return weight.reshape(cosine.shape)
        return weight.reshape(weight.shape + (1,) * (cosine.ndim - weight.ndim))

    def _check_tokens(self, weak: Tensor, strong: Tensor, label: str) -> None:
        if weak.shape != strong.shape:
            raise RuntimeError(
                f"alignment pair {label}: the weak layer gave tokens {tuple(weak.shape)}, the strong layer "
                f"{tuple(strong.shape)}; both must see the same batch, tokens and width"
            )
        if self.model.training and torch.is_grad_enabled() and not weak.requires_grad:
            raise RuntimeError(
                f"alignment pair {label}: the weak layer carries no gradient (frozen, or run under no_grad); "
                "the loss would train nothing"
            )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the model run without listening, for sampling and validation."""
        with self.hooks.paused():
            yield

    def compile(self, **options: str) -> None:
        """Fuse the cosine, which reads the tokens 20 times otherwise, forward and backward; rounds differently."""
        self.cosine = torch.compile(token_cosine, **options)

    def remove(self) -> None:
        """Take the hooks off the model."""
        self.hooks.remove()


class LayerSyncAlignment(Alignment):
    """LayerSync as the alignment method of a training run."""

    def __init__(self, sync: LayerSync):
        super().__init__(sync.hooks)
        self.sync = sync

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """LayerSync's loss at the step and times of the forward pass."""
        return self.sync.terms(forward.step, forward.t, forward.batch.mask)

    def compile(self, **options: str) -> None:
        """Fuse LayerSync's cosine."""
        self.sync.compile(**options)

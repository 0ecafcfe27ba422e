"""LayerSync (arXiv 2510.12581): an early block of a transformer learns from a later block of the same forward pass.

    L_sync(k, k') = - mean over samples and tokens of cos( f_k(x_t), stopgrad( f_k'(x_t) ) )      weak k < strong k'

    sync = LayerSync(model, pairs=[(8, 16)], weight=0.2)      # before torch.compile, DDP and FSDP
    loss = flow_loss + sync()                                 # after the model's forward

One extra loss term: no parameters, no second forward, no external model. Letters: B batch, N tokens, F frames, D width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from core.hooks import Layer, LayerHooks

log = logging.getLogger(__name__)

TimeWeight = Literal["uniform", "towards_data", "towards_noise", "middle"]
TIME_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.ones_like,
    "towards_data": lambda t: 2 * t,
    "towards_noise": lambda t: 2 * (1 - t),
    "middle": lambda t: 6 * t * (1 - t),
}  # each integrates to 1 over [0, 1], so that `weight` keeps its meaning


@dataclass(frozen=True)
class WeightSchedule:
    """The weight as a function of the optimizer step, as a factor in [0, 1].

    constant    1 throughout
    warmup      rises linearly over `warmup_steps`, then 1
    cosine      the same rise, then a half cosine that reaches 0 at `end_step`
    stop        the same rise, then 1, and 0 from `end_step` on
    """

    kind: Literal["constant", "warmup", "cosine", "stop"] = "constant"
    warmup_steps: int = 0
    end_step: int | None = None

    def __post_init__(self) -> None:
        key, kinds = "alignment.schedule", ("constant", "warmup", "cosine", "stop")
        if self.kind not in kinds:
            raise ValueError(f"{key}.kind is {self.kind!r}; allowed: {', '.join(kinds)}")
        if self.warmup_steps < 0:
            raise ValueError(f"{key}.warmup_steps is {self.warmup_steps}; it must not be negative")
        if self.kind == "warmup" and self.warmup_steps == 0:
            raise ValueError(f"{key}.kind is 'warmup' but {key}.warmup_steps is 0")
        if self.kind == "constant" and self.warmup_steps:
            raise ValueError(f"{key}.warmup_steps is {self.warmup_steps} but {key}.kind is 'constant'")
        if self.kind in ("cosine", "stop") and (self.end_step is None or self.end_step <= self.warmup_steps):
            raise ValueError(f"{key}.end_step is {self.end_step}; '{self.kind}' needs one after {key}.warmup_steps")
        if self.kind in ("constant", "warmup") and self.end_step is not None:
            raise ValueError(f"{key}.end_step is {self.end_step} but {key}.kind '{self.kind}' has no end")

    def factor(self, step: int) -> float:
        """The factor of the optimizer step `step`, which counts from 0."""
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.end_step is None:
            return rise
        if step >= self.end_step:
            return 0.0
        if self.kind == "stop" or step < self.warmup_steps:
            return rise
        progress = (step - self.warmup_steps) / (self.end_step - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class AlignmentTerms:
    """One evaluation: the weighted loss (a scalar) and, for the log, the mean cosine of each pair, in [-1, 1]."""

    loss: Tensor
    similarity: dict[str, Tensor]


class Alignment(Protocol):
    """What the training step asks of an alignment method; LayerSync is one."""

    def terms(self, step: int, t: Tensor, mask: Tensor | None = None) -> AlignmentTerms:
        """The loss of the forward pass that just ran at times t (B,) or (B, N); mask (B, N), true where real."""
        ...

    def paused(self) -> contextmanager:
        """A context in which the model may run without being listened to."""
        ...

    def compile(self, **options: str) -> None:
        """Run the term's own arithmetic through torch.compile, with its options, from now on."""
        ...


class NoAlignment:
    """The baseline: nothing is added."""

    def terms(self, step: int, t: Tensor, mask: Tensor | None = None) -> AlignmentTerms:
        """A loss of zero and nothing to log."""
        return AlignmentTerms(t.new_zeros(()), {})

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing to pause."""
        yield

    def compile(self, **options: str) -> None:
        """Nothing to compile."""


@dataclass(frozen=True)
class NoAlignmentConfig:
    """The baseline has no options."""

    def build(self, model: nn.Module) -> NoAlignment:
        """The baseline's alignment: none."""
        return NoAlignment()


@dataclass(frozen=True)
class LayerSyncConfig:
    """Options of LayerSync; `pairs` are (weak, strong) block numbers from 1, or module names."""

    pairs: list[tuple[int | str, int | str]]
    weight: float = 0.2
    schedule: WeightSchedule = field(default_factory=WeightSchedule)
    time_weight: TimeWeight = "uniform"
    stop_gradient: bool = True

    def build(self, model: nn.Module) -> LayerSync:
        """LayerSync installed on `model`."""
        return LayerSync(
            model,
            pairs=self.pairs,
            weight=self.weight,
            schedule=self.schedule,
            time_weight=TIME_WEIGHTS[self.time_weight],
            stop_gradient=self.stop_gradient,
        )


ALIGNMENTS = {"none": NoAlignmentConfig, "layersync": LayerSyncConfig}


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
        if not pairs:
            raise ValueError("alignment.pairs is empty; give at least one (weak, strong) pair of layers")
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"alignment.pairs is {pairs!r}; it holds (weak, strong) pairs of layers: [(8, 16)]")
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"alignment.weight is {weight}; it must be above 0 (alignment=none is the baseline)")
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


def token_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of tokens (..., D) along D, in float32 or better whatever the autocast; norms have a floor of 1e-12.

    The tokens are read, not normalised: three reductions instead of two more copies of (B, N, D).
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = (x.float() if x.dtype.itemsize < 4 else x for x in (a, b))
        norms = [torch.linalg.vector_norm(x, dim=-1).clamp_min(1e-12) for x in (a, b)]
        return torch.linalg.vecdot(a, b) / (norms[0] * norms[1])


def hide_padding(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens (..., D) with zeros where the mask is false: a NaN there would come back through the gradient."""
    if mask is None or mask.flatten(1).shape != tokens[..., 0].flatten(1).shape:
        return tokens  # masked_token_mean refuses a mask of another length
    return torch.where(mask.bool().reshape(tokens.shape[:-1]).unsqueeze(-1), tokens, 0)


def masked_token_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean (B,) over the tokens of values (B, N) or (B, F, N); with a mask, over the tokens where it is true."""
    values = values.flatten(1)
    if mask is None:
        return values.mean(1)
    mask = mask.flatten(1).bool()
    if mask.shape != values.shape:
        raise ValueError(f"alignment mask has {tuple(mask.shape)} tokens, the layers gave {tuple(values.shape)}")
    return torch.where(mask, values, 0).sum(1) / mask.sum(1)

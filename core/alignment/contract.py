"""What a training step asks of an alignment method, what a method may need, and the baseline: none.

A method is a config and what the config builds. The config says, before anything is built, which layers it listens to
and what it `Needs`; what it builds has trained `heads` or none, and makes its `terms` of one training `Forward`.

Letters: B batch, N tokens.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from core.alignment.hooks import Layer, LayerHooks
from core.contracts import Batch, Condition
from core.draws import Random
from core.flow.objective import FlowMatching
from core.flow.path import Interpolant

if TYPE_CHECKING:
    from core.alignment.teacher import Teacher

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
class Forward:
    """One training forward and all that it was made of; B rows of this process and micro-batch.

    step         the optimizer step, from 0
    batch        media, conditions before the drop, rows of the data set, mask (B, N)
    latents      (B, *latent) clean, and noise of the same shape
    t            flow times (B,) or (B, N), and x_t (B, *latent) there
    condition    (B, ...) after the drop, as the network saw it
    prediction   (B, *latent) what the network returned
    random       the step's streams: what is drawn again under the same name is the same
    interpolant  the path, laid out over latents
    """

    step: int
    batch: Batch
    latents: Tensor
    noise: Tensor
    t: Tensor
    x_t: Tensor
    condition: Condition
    prediction: Tensor
    random: Random
    interpolant: Interpolant


@dataclass(frozen=True)
class Needs:
    """What a method asks of the run, read from its config before anything is built; what cannot be given is refused.

    teacher       layers that are captured in a second forward, by the average "ema" of the backbone
    token_times   two noise levels over the tokens of one sample
    couples_rows  the loss of a sample depends on the others of the global batch, so the batch cannot be split
    """

    teacher: tuple[Layer, ...] = ()
    token_times: bool = False
    couples_rows: bool = False


@dataclass(frozen=True)
class AlignmentTerms:
    """The weighted loss, a scalar, and what is logged.

    similarity  mean cosine of each pair, in [-1, 1], by the pair's label
    values      other numbers by the name of their record
    """

    loss: Tensor
    similarity: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)


class Alignment:
    """What the training step asks of a method. No `nn.Module`: it would hold the parameters of the model.

    hooks  what listens to the backbone, if anything does
    heads  modules that are trained beside the backbone and saved as a checkpoint group of their own; empty: no group
    """

    def __init__(self, hooks: LayerHooks | None = None, heads: Mapping[str, nn.Module] | None = None):
        self.hooks, self.heads = hooks, nn.ModuleDict(heads or {})

    def times(self, objective: FlowMatching, random: Random, rows: tuple[int, ...]) -> Tensor:
        """Flow times of shape `rows`, (B,) or (B, N)."""
        return objective.draw_time(random, rows)

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """The loss of the forward pass that just ran; `teacher` is there if the config `Needs` one."""
        raise NotImplementedError

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let the model run without being listened to, for sampling and validation."""
        with contextlib.nullcontext() if self.hooks is None else self.hooks.paused():
            yield

    def remove(self) -> None:
        """Take the hooks off the model."""
        if self.hooks is not None:
            self.hooks.remove()

    def compile(self, **options: str) -> None:
        """Run the term's own arithmetic through torch.compile, with its options, from now on."""

    def extra_flops(self, forward: int, num_tokens: int) -> int:
        """FLOPs of one sample's training step that come on top of a backbone whose forward pass has `forward`.

        Matrix products of heads and second passes; what is element by element does not count.
        """
        return 0


class AlignmentConfig(Protocol):
    """The options of a method. `layers_key` is the config key that names its layers."""

    layers_key: ClassVar[str]

    @property
    def layers(self) -> list[Layer]:
        """All layers that it listens to, for `check_layers`."""
        ...

    @property
    def needs(self) -> Needs:
        """What it asks of the run."""
        ...

    def build(self, model: nn.Module) -> Alignment:
        """The method installed on the bare `model`, a `core.contracts.Backbone`."""
        ...


class NoAlignment(Alignment):
    """The baseline: nothing is added."""

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """A loss of zero and nothing to log."""
        return AlignmentTerms(forward.t.new_zeros(()))


@dataclass(frozen=True)
class NoAlignmentConfig:
    """The baseline has no options."""

    layers_key: ClassVar[str] = "alignment"
    layers = ()
    needs = Needs()

    def build(self, model: nn.Module) -> NoAlignment:
        """The baseline's alignment: none."""
        return NoAlignment()


def check_weight(weight: float) -> None:
    """Raises ValueError for a weight that is not a finite number above 0."""
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"alignment.weight is {weight}; it must be above 0 (alignment=none is the baseline)")


def check_pairs(pairs: Sequence[tuple[Layer, Layer]]) -> None:
    """Raises ValueError for no pair, what is no pair, and block numbers of which the weak does not come first."""
    if not pairs:
        raise ValueError("alignment.pairs is empty; give at least one (weak, strong) pair of layers")
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"alignment.pairs is {pairs!r}; it holds (weak, strong) pairs of layers: [(8, 16)]")
    for weak, strong in pairs:
        if isinstance(weak, int) and isinstance(strong, int) and weak >= strong:
            raise ValueError(f"alignment.pairs holds ({weak}, {strong}); the weak layer must come before the strong")
    if len({tuple(pair) for pair in pairs}) < len(pairs):
        raise ValueError(f"alignment.pairs names a pair twice: {list(pairs)}")


def check_layers(config: AlignmentConfig, num_blocks: int) -> None:
    """Raises ValueError for a block number outside 1..num_blocks; names are looked up when the model is there."""
    for layer in config.layers:
        if isinstance(layer, int) and not 1 <= layer <= num_blocks:
            raise ValueError(
                f"{config.layers_key} names block {layer}, which does not exist: the backbone has blocks 1 to "
                f"{num_blocks} (numbered from 1)"
            )

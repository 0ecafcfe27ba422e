"""LayerSync (arXiv 2510.12581): an early block of a transformer learns from a later block of the same forward pass.

    L_sync(k, k') = - mean over samples and tokens of cos( f_k(x_t), stopgrad( f_k'(x_t) ) )      weak k < strong k'

    sync = LayerSync(model, pairs=[(8, 16)], weight=0.2)      # before torch.compile, DDP and FSDP
    loss = flow_loss + sync()                                 # after the model's forward

One extra loss term: no parameters, no second forward, no external model. Letters: B batch, N tokens, F frames, D width.
"""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn

from layersync.blocks import KINDS, Layer
from layersync.hooks import LayerHooks
from layersync.outputs import LayerOutput, describe, may_come_sequence_first
from layersync.schedule import TIME_WEIGHTS, TimeWeight, WeightSchedule
from layersync.tokens import (
    Similarity,
    hide_padding,
    masked_mean,
    neighbour_cosine,
    token_closeness,
    token_cosine,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlignmentTerms:
    """The weighted loss, a scalar, and what is logged.

    similarity  mean cosine of each pair, in [-1, 1], by the pair's label
    values      other numbers by the name of their record
    """

    loss: Tensor
    similarity: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)


class LayerSync:
    """Self-alignment of intermediate layers, for any torch model with a list of blocks.

    model           the bare model that you call, before torch.compile, DDP or FSDP
    pairs           (weak, strong) layers: block numbers from 1, or module names; the loss is the mean over pairs
    weight          the paper's lambda: 0.2 to 0.3, robust in 0.1 to 0.7
    schedule        the weight over optimizer steps; all but a constant one need the step: sync(step)
    time_weight     the weight over flow time t, a name of TIME_WEIGHTS or a function of a tensor; None is uniform
    blocks          name of the list that numbers refer to; None: the only one that the model has
    stop_gradient   detach the strong side; off only to compare with a published variant that did not
    output          which output of a block holds the tokens: an index, a key, or a function of what the block returned
    token_dim       the axis or axes that count tokens, where they are not (B, N, D): (2, 3) for (B, C, H, W), (1, 2)
                    for (B, F, N, D), 0 for (N, B, D)
    tokens          which of the tokens count: a slice of N, as slice(1, None) without a prefix, or a function
    neighbour_frames  frames to each side whose strong tokens, at the same place, a frame's weak tokens learn from too
                    (the form of CREPA, arXiv 2506.09229); tokens are then (B, F, N, D)
    neighbour_decay  those k frames away count exp(-k / neighbour_decay)
    similarity      cosine, or minus a distance: l2, squared, of the normalised tokens (2 - 2 cos); smooth_l1, of the
                    tokens as they are, quadratic up to `beta`

    `output`, `token_dim` and `tokens` are for all layers, or a mapping from layer to each. Raises ValueError for no
    pair, weak not before strong, an unknown block (with the range), a weight that is no finite number above 0.
    """

    def __init__(  # noqa: PLR0913, the options of the method
        self,
        model: nn.Module,
        pairs: Sequence[tuple[Layer, Layer]],
        weight: float = 0.2,
        *,
        schedule: WeightSchedule | None = None,
        time_weight: TimeWeight | Callable[[Tensor], Tensor] | None = None,
        blocks: str | None = None,
        stop_gradient: bool = True,
        output: int | str | Callable[[Any], Tensor] | Mapping[Layer, Any] | None = None,
        token_dim: int | tuple[int, ...] | Mapping[Layer, Any] | None = None,
        tokens: slice | Callable[[Tensor], Tensor] | Mapping[Layer, Any] | None = None,
        neighbour_frames: int = 0,
        neighbour_decay: float = 1.0,
        similarity: Similarity = "cosine",
        beta: float = 0.05,
    ):
        check_pairs(pairs)
        check_weight(weight)
        check_neighbours(neighbour_frames, neighbour_decay)
        check_similarity(similarity, beta, neighbour_frames)
        self.similarity, self.beta = similarity, float(beta)
        check_kinds(model, schedule, time_weight)
        self.neighbour_frames, self.neighbour_decay = int(neighbour_frames), float(neighbour_decay)
        self.model, self.weight, self.stop_gradient = model, float(weight), stop_gradient
        self.schedule = schedule if schedule is not None else WeightSchedule()
        self.time_weight = TIME_WEIGHTS[time_weight] if isinstance(time_weight, str) else time_weight
        self.cosine = token_cosine
        layers = [layer for pair in pairs for layer in pair]
        outputs = outputs_by_layer(layers, {"output": output, "token_dim": token_dim, "tokens": tokens})
        try:
            self.hooks = LayerHooks(model, layers, blocks, outputs)
        except ValueError as error:
            raise ValueError(f"pairs is {[tuple(pair) for pair in pairs]}: {error}") from error
        names = self.hooks.names
        self.pairs = list(zip(names[::2], names[1::2], strict=True))
        self.labels = [f"{weak}->{strong}" for weak, strong in pairs]
        self.strong = [strong for _, strong in pairs]
        self._check_order(pairs)
        described = (f"{a} -> {b}" for a, b in self.pairs)
        log.info("LayerSync aligns %s with weight %g", ", ".join(described), weight)

    def _check_order(self, pairs: Sequence[tuple[Layer, Layer]]) -> None:
        """Of one list; the order of other modules shows when they run (a U-Net's middle may be declared last)."""
        position = {name: i for i, (name, _) in enumerate(self.model.named_modules(remove_duplicate=False))}
        for (weak, strong), (weak_name, strong_name) in zip(pairs, self.pairs, strict=True):
            parents = {name.rpartition(".")[0] for name in (weak_name, strong_name)}
            listed = len(parents) == 1 and isinstance(self.model.get_submodule(*parents), KINDS)
            if weak_name == strong_name or (listed and position[weak_name] > position[strong_name]):
                self.hooks.remove()
                raise ValueError(f"pairs holds ({weak}, {strong}); the weak layer must come before the strong")
        if len(set(self.pairs)) < len(self.pairs):
            self.hooks.remove()
            raise ValueError(f"pairs names a pair twice: {list(pairs)}")

    def __call__(
        self,
        step: int | None = None,
        t: Tensor | None = None,
        mask: Tensor | None = None,
        strong: Mapping[Layer, Tensor] | None = None,
    ) -> Tensor:
        """The weighted loss, a scalar, of the model's last forward; `terms` gives the similarities too."""
        return self.terms(step, t, mask, strong).loss

    def terms(
        self,
        step: int | None = None,
        t: Tensor | None = None,
        mask: Tensor | None = None,
        strong: Mapping[Layer, Tensor] | None = None,
        tokens: Mapping[str, Tensor] | None = None,
    ) -> AlignmentTerms:
        """Loss and similarity of the model's last forward.

        step    the optimizer step from 0, for the schedule
        t       flow times (B,) or (B, N) in [0, 1], for `time_weight`
        mask    (B, N) or (B, F, N) of the tokens that `tokens` leaves, true where one is real; padding never counts,
                and a sample without a real token does not either
        strong  tokens of the strong layers, by their names in `pairs`, of another forward, as of an averaged model;
                None: of the same forward. (B, N, D) stands for (B, F, N, D) too
        tokens  what `hooks.take()` gave of the last forward, for who has called it; None: it is called here

        Raises RuntimeError when a layer was not heard, the two sides differ in shape, or the weak side carries
        no gradient while the model trains; ValueError for times, a mask or an output that do not fit.
        """
        for name, given in (("t", t), ("mask", mask)):
            if not isinstance(given, Tensor | None):
                raise ValueError(f"{name} is of type {type(given).__name__}; needed: a tensor")
        check_step(step)
        if mask is not None:
            check_mask(mask, values=mask.device.type == "cpu" or not self._mask_seen)
            self._mask_seen = True
        weight = self.weight * self._factor(step)
        tokens = self.hooks.take() if tokens is None else tokens
        given = self._given(strong, tokens)
        self._check_layout(t, mask)
        similarity, values, losses, order = {}, {}, [], list(tokens)
        for label, (weak, late) in zip(self.labels, self.pairs, strict=True):
            if order.index(weak) > order.index(late):
                raise RuntimeError(f"alignment pair {label}: '{weak}' ran after '{late}'; weak must come before strong")
            self._check_tokens(tokens[weak], given[late], label)
            a, b = hide_padding(tokens[weak], mask), hide_padding(given[late], mask)
            close, cosine = self._closeness(a, b.detach() if self.stop_gradient else b)
            similarity[label] = masked_mean(cosine, mask)
            mean = similarity[label] if close is cosine else masked_mean(close, mask)
            if self.neighbour_frames:
                near = self._near(a, b, label)
                values[f"neighbours/{label}"] = masked_mean(near, mask).detach()
                close = close + near
                mean = masked_mean(close, mask)
            if self.time_weight is not None:
                mean = masked_mean(close * self._over_time(t, close), mask)
            losses.append(-mean)
        similarity = {label: mean.detach().clamp(-1, 1) for label, mean in similarity.items()}
        return AlignmentTerms(weight * torch.stack(losses).mean(), similarity, values)

    def _closeness(self, weak: Tensor, strong: Tensor) -> tuple[Tensor, Tensor]:
        return token_closeness(weak, strong, self.similarity, self.beta, self.cosine)

    def _given(self, strong: Mapping[Layer, Tensor] | None, tokens: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Tokens of the strong layers by module name: of this forward, or those that were handed in, laid out as it."""
        if strong is None:
            return tokens
        given = {}
        for layer, (_, name) in zip(self.strong, self.pairs, strict=True):
            if layer not in strong:
                raise ValueError(
                    f"strong holds tokens of {list(strong)}; needed: of {list(dict.fromkeys(self.strong))}"
                )
            own, other = tokens[name].shape, strong[layer]
            same = other.numel() == own.numel() and (other.shape[0], other.shape[-1]) == (own[0], own[-1])
            given[name] = other.reshape(own) if same else other
        return given

    def _near(self, weak: Tensor, strong: Tensor, label: str) -> Tensor:
        """The weighted cosines of each weak token with the strong ones of neighbouring frames, (B, F, N)."""
        if weak.ndim < 4:
            raise ValueError(
                f"neighbour_frames is {self.neighbour_frames}, but the tokens of pair {label} are {tuple(weak.shape)}, "
                "without an axis of frames; needed: (B, F, N, D), by token_dim=(1, 2) where a block returns that, or "
                "by tokens=lambda x: x.unflatten(1, (frames, -1))"
            )
        strong = strong.detach() if self.stop_gradient else strong
        return neighbour_cosine(weak, strong, self.neighbour_frames, self.neighbour_decay, self.cosine)

    def _factor(self, step: int | None) -> float:
        if step is None and self.schedule.kind != "constant":
            raise ValueError(f"schedule is '{self.schedule.kind}': pass the optimizer step, sync(step)")
        return self.schedule.factor(step or 0)

    def _over_time(self, t: Tensor | None, cosine: Tensor) -> Tensor:
        """The weights of times t, which broadcast over cosine (B, N) or (B, F, N)."""
        if t is None:
            raise ValueError("this LayerSync weighs by time: pass the flow times, sync(t=t)")
        flat = t.numel() == cosine.numel() and t.shape[:1] == cosine.shape[:1]
        if not t.ndim or (t.shape != cosine.shape[: t.ndim] and not flat):
            raise ValueError(
                f"t has shape {tuple(t.shape)}; needed: {tuple(cosine.shape[:1])} or {tuple(cosine.shape)}"
            )
        if t.device.type == "cpu" or not self._times_seen:
            check_times(t)
            self._times_seen = True
        weight = self.time_weight(t.float())
        if not isinstance(weight, Tensor) or (weight.ndim and weight.numel() != t.numel()):
            raise ValueError(f"time_weight made {describe(weight)} of times {tuple(t.shape)}; needed: a weight of each")
        weight = weight.expand(t.shape) if not weight.ndim else weight.reshape(t.shape)
        if weight.numel() == cosine.numel():
            return weight.reshape(cosine.shape)
        return weight.reshape(weight.shape + (1,) * (cosine.ndim - weight.ndim))

    # On a GPU each look at the values would stop the queue: there only the first times and the first mask are checked.
    _times_seen = _mask_seen = False

    def _check_layout(self, t: Tensor | None, mask: Tensor | None) -> None:
        """Rows and tokens are told apart where it matters."""
        if mask is None and (self.time_weight is None or t is None):
            return
        for name, output in self.hooks.outputs.items():
            if output.token_dim is None and may_come_sequence_first(self.model.get_submodule(name)):
                raise ValueError(
                    f"layer '{name}' holds a part with batch_first=False, so its tokens may be (N, B, D); with a mask "
                    "or times say which axis counts tokens: token_dim=0, or token_dim=1 where the batch comes first"
                )

    def _check_tokens(self, weak: Tensor, strong: Tensor, label: str) -> None:
        if weak.shape != strong.shape:
            raise RuntimeError(
                f"alignment pair {label}: the weak layer gave tokens {tuple(weak.shape)}, the strong layer "
                f"{tuple(strong.shape)}; both must see the same batch, tokens and width"
            )
        if self.model.training and torch.is_grad_enabled() and not weak.requires_grad:
            raise RuntimeError(
                f"alignment pair {label}: the weak layer carries no gradient (frozen, run under no_grad, or "
                "inside of a checkpoint with use_reentrant=True); the loss would train nothing"
            )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the model run without listening, for sampling and validation."""
        with self.hooks.paused():
            yield

    def discard(self) -> None:
        """Forget the model's last forward, of which no loss is wanted."""
        self.hooks.clear()

    def compile(self, **options: str) -> None:
        """Fuse the cosine, which reads the tokens 20 times otherwise, forward and backward; rounds differently."""
        self.cosine = torch.compile(token_cosine, **options)

    def remove(self) -> None:
        """Take the hooks off the model."""
        self.hooks.remove()


def outputs_by_layer(layers: Sequence[Layer], told: Mapping[str, Any]) -> dict[Layer, LayerOutput]:
    """What is told of all layers, or of each by a mapping, as the `LayerOutput` of each layer."""
    for option, value in told.items():
        unknown = [layer for layer in value if layer not in layers] if isinstance(value, Mapping) else []
        if unknown:
            raise ValueError(f"{option} names {unknown}; the layers in pairs are {list(dict.fromkeys(layers))}")

    def of(layer: Layer, value: Any) -> Any:
        return value.get(layer) if isinstance(value, Mapping) else value

    return {layer: LayerOutput(**{name: of(layer, value) for name, value in told.items()}) for layer in layers}


def check_weight(weight: float, baseline: str = "for a baseline leave LayerSync out") -> None:
    """Raises ValueError for a weight that is not a finite number above 0; `baseline` says what to do instead of 0."""
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
        raise ValueError(f"weight is {weight!r} of type {type(weight).__name__}; needed: a number above 0")
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"weight is {weight}; it must be above 0 and finite ({baseline})")


def check_neighbours(frames: int, decay: float) -> None:
    """Raises ValueError for a number of frames below 0, and a decay that is not a finite number above 0."""
    if isinstance(frames, bool) or not isinstance(frames, numbers.Integral) or frames < 0:
        raise ValueError(f"neighbour_frames is {frames!r}; needed: a number of frames from 0")
    if isinstance(decay, bool) or not isinstance(decay, numbers.Real) or not (math.isfinite(decay) and decay > 0):
        raise ValueError(f"neighbour_decay is {decay!r}; it must be above 0 and finite")


def check_similarity(similarity: str, beta: float, neighbour_frames: int = 0) -> None:
    """Raises ValueError for an unknown similarity, a beta not above 0, and neighbours by another than the cosine."""
    if similarity not in get_args(Similarity):
        raise ValueError(f"similarity is {similarity!r}; allowed: {', '.join(get_args(Similarity))}")
    if isinstance(beta, bool) or not isinstance(beta, numbers.Real) or not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta is {beta!r}; it must be above 0 and finite")
    if neighbour_frames and similarity != "cosine":
        raise ValueError(
            f"similarity is {similarity!r}, but neighbour_frames is {neighbour_frames}; allowed with it: cosine"
        )


def check_kinds(model: Any, schedule: Any, time_weight: Any) -> None:
    """Raises ValueError for a model, a schedule or a weight over time of another kind."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is of type {type(model).__name__}; needed: a torch.nn.Module")
    if not isinstance(schedule, WeightSchedule | None):
        raise ValueError(f"schedule is {schedule!r}; needed: a WeightSchedule, as WeightSchedule('stop', end_step=9)")
    if not (time_weight is None or callable(time_weight) or time_weight in TIME_WEIGHTS):
        raise ValueError(f"time_weight is {time_weight!r}; needed: {', '.join(TIME_WEIGHTS)}, or a function of t")


def check_step(step: Any) -> None:
    """Raises ValueError for what is no optimizer step, as flow times in its place."""
    if step is None or (isinstance(step, Tensor) and step.ndim == 0 and not step.is_floating_point()):
        return
    if isinstance(step, bool) or not isinstance(step, (int, float, numbers.Real)) or not step >= 0:
        told = describe(step) if isinstance(step, Tensor) else repr(step)
        raise ValueError(f"step is {told}; needed: an optimizer step from 0. Flow times are given by name: sync(t=t)")


def check_mask(mask: Tensor, values: bool = True) -> None:
    """Raises ValueError for a mask without an axis of tokens, and if `values` for one that is added to scores."""
    if mask.ndim < 2 or mask.is_complex():
        raise ValueError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}; needed: (B, N), true where a token is real"
        )
    if values and mask.dtype != torch.bool and not bool((mask >= 0).all()):
        raise ValueError(
            f"mask holds {mask.min().item():g}, as a mask that is added to scores does (0 real, below it padding); "
            "needed: true, or 1, where a token is real"
        )
    if values and mask.is_floating_point() and mask.numel() and not bool(mask.any()):
        raise ValueError(
            "mask holds 0 throughout, as a mask that is added to scores does where nothing is padding; needed: true, "
            "or 1, where a token is real (give it as bool where none is)"
        )


def check_times(t: Tensor) -> None:
    """Raises ValueError for flow times outside of [0, 1]."""
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError(
            f"t holds values from {t.min().item():g} to {t.max().item():g}; needed: flow times in [0, 1], 0 noise and "
            "1 data. Timesteps that count noise from 0 to 1000, as diffusers has them, are t = 1 - timestep / 1000"
        )


def check_pairs(pairs: Sequence[tuple[Layer, Layer]]) -> None:
    """Raises ValueError for no pair, what is no pair, and block numbers of which the weak does not come first."""
    if isinstance(pairs, str) or not isinstance(pairs, Sequence):
        raise ValueError(f"pairs is {pairs!r}; it holds (weak, strong) pairs of layers: [(8, 16)]")
    if not pairs:
        raise ValueError("pairs is empty; give at least one (weak, strong) pair of layers")
    if not all(isinstance(pair, Sequence) and not isinstance(pair, (str, bytes)) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"pairs is {pairs!r}; it holds (weak, strong) pairs of layers: [(8, 16)]")
    for weak, strong in pairs:
        if not (isinstance(weak, Hashable) and isinstance(strong, Hashable)):
            raise ValueError(f"pairs holds {(weak, strong)}; a layer is a block number (from 1) or a module name")
        if isinstance(weak, int) and isinstance(strong, int) and weak >= strong:
            raise ValueError(f"pairs holds ({weak}, {strong}); the weak layer must come before the strong")
    if len({tuple(pair) for pair in pairs}) < len(pairs):
        raise ValueError(f"pairs names a pair twice: {list(pairs)}")

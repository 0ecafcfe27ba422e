"""Exponential moving averages of the weights, one or several, each updated in one fused call.

n counts optimizer steps, k <= n the steps whose weights an average holds. A constant decay keeps the same share of the
average at every step. A power function (Karras et al. 2024, arXiv 2312.02696, section 3) remembers over a time that
grows with training: the weights of step k count p_{n,gamma}(k) = (gamma + 1) k^gamma / n^(gamma + 1), made by an update
that keeps the share beta_n = (1 - 1/n)^(gamma + 1). Its width sigma_rel is the standard deviation of the profile over
k, relative to n. Snapshots of power functions are combined to other widths after training: `core.train.posthoc`.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from core.processes.sharding import copy_whole_, laid_out_as, local
from core.schema import FREE
from core.storage.weights import trained_state

PRIMARY = "ema"
MAX_WIDTH = 0.28  # at 1 / sqrt(12) = 0.2887 the profile is flat, the mean of all steps


@dataclass(frozen=True)
class EMAConfig:
    """Which averages are kept, and where.

    decays          shares of the average that an update keeps; the papers use 0.9999 at batch 256
    widths          relative widths sigma_rel of power functions, in (0, 0.28]
    device          model: beside the weights; cpu: on the CPU, where one copy of the weights serves all averages
    snapshot_every  steps between snapshots of the power functions, for reconstruction after training; 0 is never

    The first decay, without decays the first width, is the average that previews and metrics use: group "ema".
    """

    decays: list[float] = field(default_factory=lambda: [0.9999])
    widths: list[float] = field(default_factory=list)
    device: Literal["model", "cpu"] = field(default="model", metadata=FREE)
    snapshot_every: int = field(default=0, metadata=FREE)

    def __post_init__(self) -> None:
        for decay in self.decays:
            if not 0 <= decay < 1:
                raise ValueError(f"ema.decays is {self.decays}, with {decay}; it must lie in [0, 1)")
        for width in self.widths:
            check_width(width, "ema.widths")
        for key, values in (("decays", self.decays), ("widths", self.widths)):
            if len({label(value) for value in values}) < len(values):
                raise ValueError(f"ema.{key} is {values}; each value may stand there once")
        if not self.decays and not self.widths:
            raise ValueError("ema.decays and ema.widths are []; at least one average is needed")
        if self.device not in ("model", "cpu"):
            raise ValueError(f"ema.device is {self.device!r}; allowed: model, cpu")
        if self.snapshot_every < 0:
            raise ValueError(f"ema.snapshot_every is {self.snapshot_every}; it must not be negative")
        if self.snapshot_every > 0 and not self.widths:
            raise ValueError(f"ema.snapshot_every is {self.snapshot_every}, but ema.widths is []: only these are kept")


def label(number: float) -> str:
    """A number as it stands in the names of groups and files: 0.999, 0.1."""
    return f"{number:.12g}"


def check_width(width: float, key: str) -> None:
    """Raises ValueError, naming the config `key`, for a relative width outside (0, 0.28]."""
    if not 0 < width <= MAX_WIDTH:
        raise ValueError(f"{key} is {width}; a relative width must lie in (0, {MAX_WIDTH}]")


@functools.cache
def power_exponent(width: float) -> float:
    """The exponent gamma of the profile whose relative width is `width`.

    The largest root of (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = width^2, multiplied out.
    """
    square = width**-2
    return float(np.roots([1, 7, 16 - square, 12 - square]).real.max())


def relative_width(exponent: float) -> float:
    """sigma_rel of the profile with exponent gamma; the inverse of `power_exponent`."""
    return math.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3)))


@dataclass(frozen=True)
class ConstantDecay:
    """ema <- decay ema + (1 - decay) weights, from a copy of the weights at the start."""

    decay: float
    key = "ema.decays"

    @property
    def name(self) -> str:
        """The group's name, where it is not the primary one."""
        return f"{PRIMARY}_decay{label(self.decay)}"

    def share(self, step: int) -> float:
        """How far the update of any step moves towards the weights."""
        return 1 - self.decay


@dataclass(frozen=True)
class PowerFunction:
    """ema <- beta_n ema + (1 - beta_n) weights, beta_n = (1 - 1/n)^(gamma + 1): forgets the start at the first step."""

    width: float
    key = "ema.widths"

    @property
    def name(self) -> str:
        """The group's name, where it is not the primary one."""
        return f"{PRIMARY}_width{label(self.width)}"

    def share(self, step: int) -> float:
        """How far the update of `step`, from 1, moves towards the weights: 1 - beta_n."""
        return -math.expm1((power_exponent(self.width) + 1) * math.log1p(-1 / step)) if step > 1 else 1.0


def rules(config: EMAConfig) -> dict[str, ConstantDecay | PowerFunction]:
    """The averages by the name of their group, the primary one first."""
    kinds = [*map(ConstantDecay, config.decays), *map(PowerFunction, config.widths)]
    return {kind.name if i else PRIMARY: kind for i, kind in enumerate(kinds)}


class EMA:
    """Averages of every trained parameter of `model`; each starts as a copy of the weights.

    Buffers are not averaged, a fixed table has nothing to average: they are read from the model. Of parameters that
    several processes share (FSDP2), each process averages its part; build the averages after the model was sharded.

    teacher  a copy of the model, or of its first blocks, whose weights become the primary average itself, in its memory
    filled   whether the model has its weights; False: the averages are anything until `load_state_dicts`
    """

    def __init__(self, model: nn.Module, config: EMAConfig, teacher: nn.Module | None = None, filled: bool = True):
        self.model, self.config, self.rules = model, config, rules(config)
        numbers: dict[nn.Parameter, int] = {}
        # Tied parameters have several names and one average.
        self._slots = {
            name: numbers.setdefault(parameter, len(numbers))
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if parameter.requires_grad
        }
        self._parameters = list(numbers)
        parts = self._parts()
        places = ["cpu" if config.device == "cpu" else part.device for part in parts]
        shared = {} if teacher is None else self._shared_with(teacher)
        self._averages = {name: [] for name in self.rules}
        for name, averages in self._averages.items():
            for slot, (part, place) in enumerate(zip(parts, places, strict=True)):
                if name == PRIMARY and slot in shared:
                    averages.append(shared[slot])
                else:
                    averages.append(part.to(place, copy=True) if filled else torch.empty_like(part, device=place))
        self._staging = None  # the copy of the weights from which averages on the CPU are updated
        if config.device == "cpu" and any(part.device.type != "cpu" for part in parts):
            pin = any(part.device.type == "cuda" for part in parts)
            self._staging = [torch.empty_like(part, device="cpu", pin_memory=pin) for part in parts]

    def _shared_with(self, teacher: nn.Module) -> dict[int, Tensor]:
        """The parameters of `teacher`, which has those of the model or some of them, by their slots."""
        named = teacher.named_parameters(remove_duplicate=False)
        return {self._slots[name]: local(each).detach() for name, each in named if name in self._slots}

    @property
    def names(self) -> list[str]:
        """Names of the groups, the primary one first."""
        return list(self.rules)

    @property
    def widths(self) -> dict[str, float]:
        """Relative widths of the power functions, by the name of the group."""
        return {name: rule.width for name, rule in self.rules.items() if isinstance(rule, PowerFunction)}

    @property
    def averaged(self) -> list[str]:
        """The names in the model's state dict that are averaged; the others are buffers, or not trained."""
        return list(self._slots)

    def snapshot_due(self, step: int) -> bool:
        """Whether the power functions are to be kept after `step`."""
        return self.config.snapshot_every > 0 and step % self.config.snapshot_every == 0

    @torch.no_grad()
    def _parts(self) -> list[Tensor]:
        """This process's parts of the parameters, sharing their memory."""
        return [local(parameter).detach() for parameter in self._parameters]

    def _weights(self) -> list[Tensor]:
        """The present weights where the averages are."""
        parts = self._parts()
        if self._staging is None:
            return parts
        torch._foreach_copy_(self._staging, parts, non_blocking=True)
        for device in {part.device for part in parts if part.device.type == "cuda"}:
            torch.cuda.current_stream(device).synchronize()
        return self._staging

    @torch.no_grad()
    def update(self, step: int, broken: Tensor | None = None) -> None:
        """Move the averages towards the model's weights after optimizer step number `step`, 1 after the first.

        broken: a scalar on the weights' device; where it is 1 the averages stay. The host need not know.
        """
        if step < 1:
            raise ValueError(f"step is {step}; averages are updated after a step, the first is 1")
        weights = self._weights()
        for name, rule in self.rules.items():
            averages = self._averages[name]
            if broken is None:
                torch._foreach_lerp_(averages, weights, rule.share(step))
            else:
                share = (1 - broken.to(averages[0].device)) * rule.share(step)
                torch._foreach_lerp_(averages, weights, [share] * len(averages))

    def state_dicts(self) -> dict[str, dict[str, Tensor]]:
        """The averaged models by the name of the group, each with the keys of the model's own state dict.

        The tensors share the memory of the averages; those of a sharded model are DTensors.
        """
        own = trained_state(self.model)
        return {name: {key: self._averaged(name, key, value) for key, value in own.items()} for name in self.rules}

    def _averaged(self, name: str, key: str, value: Tensor) -> Tensor:
        if key not in self._slots:
            return value
        slot = self._slots[key]
        return laid_out_as(self._parameters[slot], self._averages[name][slot])

    @torch.no_grad()
    def load_state_dicts(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take the averages from whole tensors, the same on every process; groups of other names are not looked at.

        Raises ValueError, before anything is taken, for a missing average, or parameter of the model in its shape.
        """
        for name, rule in self.rules.items():
            self._check_group(name, rule.key, groups)
        for name in self.rules:
            for key, slot in self._slots.items():
                average = self._averages[name][slot]
                if average.shape == groups[name][key].shape:  # no process has a part only
                    average.copy_(groups[name][key])
                    continue
                whole = torch.empty_like(self._parameters[slot])
                copy_whole_(whole, groups[name][key])
                average.copy_(local(whole))

    def _check_group(self, name: str, key: str, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        if name not in groups:
            held = ", ".join(group for group in groups if group.startswith(PRIMARY)) or "none"
            raise ValueError(f"the checkpoint has no average '{name}', its averages: {held}; {key} was changed")
        for parameter, slot in self._slots.items():
            shape, found = self._parameters[slot].shape, groups[name].get(parameter)
            if found is None or found.shape != shape:
                having = "" if found is None else f", but one of {tuple(found.shape)}"
                raise ValueError(
                    f"the saved average '{name}' ({key}) has no '{parameter}' of shape {tuple(shape)}{having}: "
                    "it is of another architecture"
                )

    @contextlib.contextmanager
    def applied(self, name: str = PRIMARY) -> Iterator[None]:
        """Give the model the weights of one average inside the block; its own come back even after an error.

        They wait where the averages are: averages on the CPU cost no memory of the accelerator.
        """
        if name not in self.rules:
            raise ValueError(f"there is no average {name!r}; there are {', '.join(self.names)}")
        averages = self._averages[name]
        _reshard(self.model)
        own = [part.to(kept.device, copy=True) for part, kept in zip(self._parts(), averages, strict=True)]
        try:
            self._give(averages)
            yield
        finally:
            self._give(own)

    @torch.no_grad()
    def _give(self, values: list[Tensor]) -> None:
        """Write `values` into the model's weights."""
        _reshard(self.model)
        torch._foreach_copy_(self._parts(), values)


def _reshard(model: nn.Module) -> None:
    """Let go of weights that FSDP2 has gathered.

    Its outermost module keeps them after a forward pass without backward, and the next pass would compute with them,
    not with what was written into the parts since.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()

"""AdamW, its learning rate as a function of the step, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from core.processes.sharding import copy_whole_, whole
from layersync.blocks import find_blocks


@dataclass(frozen=True)
class ScaledRate:
    """`factor` times the learning rate for blocks 1 to `blocks` and for the modules that stand before the first."""

    blocks: int
    factor: float

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"optimizer.lr_scale.blocks is {self.blocks}; needed: a block number, from 1")
        if not self.factor > 0:
            raise ValueError(f"optimizer.lr_scale.factor is {self.factor}; it must be above 0")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with the paper's defaults.

    clip_norm  null is off
    schedule   constant, or cosine to zero at the end
    lr_scale   another rate for the first blocks, a control of what an alignment up to there does; null: one rate
    gradient   total: of the loss; matched: of the flow loss alone, of the norm that the total gradient would have: a
               control of whether an alignment is more than a longer step. It costs the baseline's pass on top
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    lr_scale: ScaledRate | None = None
    gradient: Literal["total", "matched"] = "total"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optimizer.lr is {self.lr}; it must be positive")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas is {self.betas}; both must lie in [0, 1)")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"optimizer.clip_norm is {self.clip_norm}; it must be positive, or null for no clipping")
        if self.weight_decay < 0 or self.warmup_steps < 0 or self.eps <= 0:
            raise ValueError("optimizer.weight_decay and warmup_steps must not be negative, optimizer.eps positive")

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of optimizer step `step` (from 0) in a run of `steps`."""
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "constant":
            return self.lr * rise
        progress = max(0, step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        return self.lr * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Optimizer:
    """Fused AdamW over the trained parameters of a model, with gradient norm and clipping.

    heads  modules that are trained beside it, whole in every process; their parameters are called `alignment.NAME`
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig, heads: nn.Module | None = None):
        self.config = config
        own = {name: each for name, each in model.named_parameters() if each.requires_grad}
        if not own:
            raise ValueError("the backbone has no trained parameter: all of them are frozen")
        self.groups, self.factors = _by_rate(model, own, config.lr_scale)
        self.backbone = list(own.values())
        trained = {} if heads is None else {f"alignment.{name}": each for name, each in heads.named_parameters()}
        self.factors += [1.0] * bool(trained)
        self.groups += [trained] * bool(trained)  # apart: sharded and whole parameters do not go into one fused call
        self.named = {name: each for group in self.groups for name, each in group.items()}
        options = {"betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay}
        groups = [{"params": list(group.values())} for group in self.groups]
        self.adamw = torch.optim.AdamW(groups, lr=config.lr, fused=True, **options)

    def gradient_norm(self) -> Tensor:
        """Global L2 norm of the gradients, before clipping; gradients above `clip_norm` are scaled to it.

        Of a sharded model's gradients too, the same in every process.
        """
        norms = [_norm(group.values()) for group in self.groups]
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        if self.config.clip_norm is not None:
            for group in self.groups:
                clip = torch.nn.utils.clip_grads_with_norm_
                clip(list(group.values()), self.config.clip_norm, norm, foreach=True)
        return norm

    def release_backbone(self) -> Tensor:
        """Release the backbone's gradients, not those of the heads; their norm, the same in every process."""
        norm = _norm(self.backbone)
        for each in self.backbone:
            each.grad = None
        return norm

    def match(self, norm: Tensor) -> Tensor:
        """Scale the backbone's gradients to have `norm` together; the factor, 1 where all of them are 0."""
        own = _norm(self.backbone)
        factor = torch.where(own == 0, torch.ones_like(own), norm / own)
        for each in self.backbone:
            if each.grad is not None:
                each.grad.mul_(factor)
        return factor

    def step(self, lr: float, broken: Tensor | None = None) -> None:
        """One AdamW update at learning rate `lr`, times each group's factor; the gradients are released.

        broken: a scalar on the device; where it is 1, weights, moments and step counts stay. The host need not know.
        """
        for group, factor in zip(self.adamw.param_groups, self.factors, strict=True):
            group["lr"] = lr * factor
        self.adamw.found_inf = broken  # what torch.amp.GradScaler tells a fused optimizer
        self.adamw.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Release the gradients."""
        self.adamw.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Tensor]:
        """Moments and step counts as `exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME`; empty before the first step."""
        state = self.adamw.state
        return {
            f"{kind}.{name}": value
            for name, parameter in self.named.items()
            for kind, value in state.get(parameter, {}).items()
        }

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave, as whole tensors; raises ValueError when it belongs to other parameters."""
        names = {key.partition(".")[2] for key in saved}
        if names and names != set(self.named):
            raise ValueError(
                f"the saved optimizer state belongs to other parameters: {sorted(names ^ set(self.named))[:3]}"
            )
        for key, value in saved.items():
            kind, _, name = key.partition(".")
            parameter = self.named[name]
            if kind != "step":
                moment = torch.empty_like(parameter)
                copy_whole_(moment, value)
                value = moment
            self.adamw.state[parameter][kind] = value.to(parameter.device)


def _norm(parameters: Iterable[Tensor]) -> Tensor:
    """L2 norm of the gradients that parameters have."""
    gradients = [each.grad for each in parameters if each.grad is not None]
    return whole(torch.nn.utils.get_total_norm(gradients, foreach=True))


Groups = list[dict[str, Tensor]]


def _by_rate(model: nn.Module, trained: dict[str, Tensor], scale: ScaledRate | None) -> tuple[Groups, list[float]]:
    """Trained parameters by name in groups of one rate, and the factor of each group.

    Raises ValueError for a block that the model has not.
    """
    if scale is None:
        return [trained], [1.0]
    _, blocks = find_blocks(model)
    if scale.blocks > len(blocks):
        raise ValueError(f"optimizer.lr_scale.blocks is {scale.blocks}; the backbone has blocks 1 to {len(blocks)}")
    all_blocks = {id(each) for each in blocks.parameters()}
    chosen = {id(each) for block in list(blocks)[: scale.blocks] for each in block.parameters()}
    for each in model.parameters():  # what is registered before the blocks
        if id(each) in all_blocks:
            break
        chosen.add(id(each))
    early = {name: each for name, each in trained.items() if id(each) in chosen}
    late = {name: each for name, each in trained.items() if id(each) not in chosen}
    parts = [(early, scale.factor), (late, 1.0)]
    kept = [(group, factor) for group, factor in parts if group]
    return [group for group, _ in kept], [factor for _, factor in kept]

"""AdamW, its learning rate as a function of the step, and its state as named tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from core.processes.sharding import copy_whole_, whole


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with the paper's defaults. schedule: constant, or cosine to zero at the end; clip_norm null is off."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"

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
        self.groups = [{name: each for name, each in model.named_parameters() if each.requires_grad}]
        if not self.groups[0]:
            raise ValueError("the backbone has no trained parameter: all of them are frozen")
        trained = {} if heads is None else {f"alignment.{name}": each for name, each in heads.named_parameters()}
        self.groups += [trained] * bool(trained)  # apart: sharded and whole parameters do not go into one fused call
        self.named = {name: each for group in self.groups for name, each in group.items()}
        options = {"betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay}
        groups = [{"params": list(group.values())} for group in self.groups]
        self.adamw = torch.optim.AdamW(groups, lr=config.lr, fused=True, **options)

    def gradient_norm(self) -> Tensor:
        """Global L2 norm of the gradients, before clipping; gradients above `clip_norm` are scaled to it.

        Of a sharded model's gradients too, the same in every process.
        """
        norms = []
        for group in self.groups:
            gradients = [each.grad for each in group.values() if each.grad is not None]
            norms.append(whole(torch.nn.utils.get_total_norm(gradients, foreach=True)))
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        if self.config.clip_norm is not None:
            for group in self.groups:
                clip = torch.nn.utils.clip_grads_with_norm_
                clip(list(group.values()), self.config.clip_norm, norm, foreach=True)
        return norm

    def step(self, lr: float) -> None:
        """One AdamW update at learning rate `lr`; the gradients are released."""
        for group in self.adamw.param_groups:
            group["lr"] = lr
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
                moment = torch.zeros_like(parameter)
                copy_whole_(moment, value)
                value = moment
            self.adamw.state[parameter][kind] = value.to(parameter.device)

"""Exponential moving average of weights, updated in one fused call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class EMAConfig:
    """decay: share of the average that one update keeps; the papers use 0.9999 at batch 256."""

    decay: float = 0.9999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"ema.decay is {self.decay}; it must lie in [0, 1)")


class EMA:
    """ema <- decay ema + (1 - decay) weights, over every parameter; starts as a copy of the weights.

    Buffers are not averaged, a fixed table has nothing to average: they are read from the model.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self.names = [name for name, _ in model.named_parameters()]
        self.live = [parameter for _, parameter in model.named_parameters()]
        self.average = [parameter.detach().clone() for parameter in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model's present weights."""
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.live], 1 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged model, with the keys of the model's own state dict."""
        averages = dict(zip(self.names, self.average, strict=True))
        return {name: averages.get(name, value) for name, value in self.model.state_dict().items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the averages from `state`, which must hold every parameter of the model in its shape."""
        for name, average in zip(self.names, self.average, strict=True):
            if name not in state or state[name].shape != average.shape:
                raise ValueError(f"the saved EMA has no '{name}' of shape {tuple(average.shape)}")
            average.copy_(state[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights inside the block; its own weights come back even after an error."""
        own = [parameter.detach().clone() for parameter in self.live]
        with torch.no_grad():
            torch._foreach_copy_(self.live, self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.live, own)

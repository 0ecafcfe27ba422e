"""The teacher of methods that align with a second forward pass: the backbone under its average weights.

It is a copy of the bare backbone whose weights are the average "ema" itself, in the same memory, so that it costs no
copy a step, and its hooks are its own, so that its forward pass does not replace the student's tokens.

Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.alignment.contract import listen
from core.contracts import Condition
from core.precision import Precision, autocast
from layersync.blocks import Layer, find_blocks, resolve_layer


class Teacher:
    """Tokens of chosen layers under the averaged weights, without gradient, in evaluation mode.

    model    the copy, made before the student's hooks are installed; blocks behind the last layer are left out of it
    network  what is called: the copy, compiled or sharded as the student is
    memo     what `copy.deepcopy` is to take for some of its tensors
    """

    def __init__(self, student: nn.Module, layers: Sequence[Layer], precision: Precision = "fp32", memo: Any = None):
        self.model = copy.deepcopy(student, memo).requires_grad_(False).eval()
        self.model.checkpoint_blocks = False  # there is no backward pass to recompute for
        _cut(self.model, layers)
        self.hooks = listen(self.model, layers)
        self.names = dict(zip(layers, self.hooks.names, strict=True))
        self.network, self.precision = self.model, precision

    @torch.no_grad()
    def tokens(self, x: Tensor, t: Tensor, condition: Condition, mask: Tensor | None = None) -> dict[Layer, Tensor]:
        """Tokens (B, N, D) of each layer at x (B, *latent); t (B,) as the network takes it (`Path.network_time`)."""
        with autocast(x.device, self.precision):
            self.network(x, t, condition, mask)
        taken = self.hooks.take()
        return {layer: taken[name] for layer, name in self.names.items()}


def _cut(model: nn.Module, layers: Sequence[Layer]) -> None:
    """Leave out the blocks behind the last that `layers` need: nobody looks at what they make."""
    place, blocks = find_blocks(model)
    inside = [re.match(rf"{re.escape(place)}\.(\d+)(\.|$)", resolve_layer(model, layer)) for layer in layers]
    if all(inside):  # a name may be of what comes before the blocks, or behind them
        del blocks[max(int(each[1]) for each in inside) + 1 :]

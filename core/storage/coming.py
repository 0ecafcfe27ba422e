"""Networks whose weights come from a file: built without them, so that none is drawn only to be overwritten.

with without_weights():
    network = build()                # parameters have shapes and no memory, buffers are as always
give_memory(network, device)         # of whatever content
load_into(network, state, source)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.draws import seeded_weights

# What modules fill their parameters with. On the meta device some of them would import a compiler, for nothing.
FILLS = {"normal_", "uniform_", "trunc_normal_", "zero_", "zeros_", "ones_", "fill_", "constant_", "eye_", "copy_"}
FILLS |= {f"{name}_{kind}_" for name in ("xavier", "kaiming") for kind in ("uniform", "normal")}
_EXPECTED: ContextVar[bool] = ContextVar("weights are expected", default=False)


class _Unfilled(TorchFunctionMode):
    """Leaves tensors of the meta device as they are where they would be filled."""

    def __torch_function__(self, function: Callable, types: tuple, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        if getattr(function, "__name__", "") in FILLS and isinstance(filled, Tensor) and filled.is_meta:
            return filled
        return function(*args, **kwargs)


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Modules made inside have their parameters on the meta device; buffers, such as tables of positions, are real."""
    register = nn.Module.register_parameter

    def without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = without_memory
    try:
        with _Unfilled():
            yield
    finally:
        nn.Module.register_parameter = register


@contextlib.contextmanager
def weights_expected(expected: bool = True) -> Iterator[None]:
    """Inside, `first_weights` draws nothing if all weights are `expected` from a checkpoint."""
    token = _EXPECTED.set(expected)
    try:
        yield
    finally:
        _EXPECTED.reset(token)


@contextlib.contextmanager
def first_weights(seed: int) -> Iterator[None]:
    """Around the building of a backbone: its weights are a function of the seed, or without memory where expected."""
    with without_weights() if _EXPECTED.get() else seeded_weights(seed, "weights"):
        yield


@torch.no_grad()
def give_memory(model: nn.Module, device: torch.device | str) -> None:
    """Move a network to a device; parameters without memory get some there, of whatever content, and stay tied.

    Raises ValueError for one that is not trained: no checkpoint would fill it.
    """
    frozen = [name for name, each in model.named_parameters() if each.is_meta and not each.requires_grad]
    if frozen:
        raise ValueError(f"{frozen[0]} is not trained, so that no checkpoint holds it")
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, each in module._parameters.items():
            if each is not None and each.is_meta:
                if id(each) not in made:
                    made[id(each)] = nn.Parameter(torch.empty(each.shape, dtype=each.dtype, device=device))
                module._parameters[name] = made[id(each)]
    model.to(device)


def same_without_weights(model: nn.Module) -> dict[int, Tensor]:
    """What `copy.deepcopy(model, memo)` is to take for the parameters: new memory of whatever content."""
    return {id(each): nn.Parameter(torch.empty_like(each), each.requires_grad) for each in model.parameters()}

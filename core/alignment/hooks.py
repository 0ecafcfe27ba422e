"""Listening to the blocks of any transformer: names resolved and checked once, tokens handed over once per forward.

Hooks are registered when `LayerHooks` is built and stay. That has to happen before torch.compile (a hook registered
after the first compiled call is never called) and before DDP or FSDP wrap the model. Blocks are numbered from 1, as in
the papers: block 8 is the output of the 8th block. A string names a module.

Letters: B batch, N tokens, F frames, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Layer = int | str


def find_blocks(model: nn.Module, blocks: str | None = None) -> tuple[str, nn.ModuleList]:
    """The list of blocks that numbers refer to: the one at the name `blocks`, else the model's longest ModuleList.

    Raises ValueError when the name is no ModuleList, when there is none, or when two are equally long.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    if blocks is not None:
        if blocks not in lists:
            raise ValueError(f"blocks={blocks!r} is not a list of blocks of the model; its lists: {sorted(lists)}")
        return blocks, lists[blocks]
    longest = max((len(module) for module in lists.values()), default=0)
    names = [name for name, module in lists.items() if len(module) == longest]
    if longest == 0:
        raise ValueError("the model has no torch.nn.ModuleList of blocks; name its layers by module name")
    if len(names) > 1:
        raise ValueError(f"the model has several lists of {longest} blocks: {names}; choose one with blocks=...")
    return names[0], lists[names[0]]


def resolve_layer(model: nn.Module, layer: Layer, blocks: str | None = None) -> str:
    """The module name of a layer; the only place where block numbers become names.

    Raises ValueError for a number outside 1..number of blocks and for an unknown module name.
    """
    if isinstance(layer, bool) or not isinstance(layer, (int, str)):
        raise ValueError(f"a layer is a block number (from 1) or a module name, got {layer!r}")
    if isinstance(layer, str):
        names = {name for name, _ in model.named_modules() if name}
        if layer not in names:
            near = sorted(name for name in names if name.rpartition(".")[2] == layer.rpartition(".")[2])[:5]
            raise ValueError(f"the model has no module named {layer!r}" + (f"; similar: {near}" if near else ""))
        return layer
    name, found = find_blocks(model, blocks)
    if not 1 <= layer <= len(found):
        raise ValueError(f"block {layer} does not exist: '{name}' has blocks 1 to {len(found)} (numbered from 1)")
    return f"{name}.{layer - 1}" if name else str(layer - 1)


class _Tap:
    """A forward hook that keeps the tokens of one module while its store is open."""

    def __init__(self, store: LayerHooks, name: str):
        self.store, self.name = store, name

    def __call__(self, module: nn.Module, inputs: tuple, output: object) -> None:
        if self.store.collecting and self.store.open:
            self.store.tokens[self.name].append(_tokens(output, self.name))


class _Opener:
    """A forward pre-hook on the whole model: each forward starts with an empty store.

    It also keeps the second run of a checkpointed block, during backward, from being taken for a forward.
    """

    def __init__(self, store: LayerHooks):
        self.store = store

    def __call__(self, module: nn.Module, inputs: tuple) -> None:
        if self.store.collecting:
            for kept in self.store.tokens.values():
                kept.clear()
            self.store.open = True


class LayerHooks:
    """The tokens of chosen layers of `model`, one forward at a time.

    layers: block numbers from 1 or module names; `names` holds the module names they resolved to, in the same order.
    `collecting` is the switch (off while sampling); `take()` hands over what the last forward left, emptying the store.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer], blocks: str | None = None):
        if isinstance(model, torch._dynamo.OptimizedModule):
            raise ValueError("build the hooks before torch.compile: a hook added to a compiled model is not called")
        self.names = [resolve_layer(model, layer, blocks) for layer in layers]
        # Compiled code does not check for hooks by default: that of another model of this class would serve this one.
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        torch.compiler.reset()  # code compiled before that has no such check
        # a checkpointed block runs again in backward; what it hands over then is not wanted (see _Opener)
        torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True
        self.tokens: dict[str, list[Tensor]] = {name: [] for name in dict.fromkeys(self.names)}
        self.collecting, self.open = True, False
        self.handles = [model.register_forward_pre_hook(_Opener(self))]
        modules = dict(model.named_modules(remove_duplicate=False))
        self.handles += [modules[name].register_forward_hook(_Tap(self, name)) for name in self.tokens]

    def __getstate__(self) -> dict[str, Any]:
        """A copied or pickled model listens for itself and carries none of the original's tokens."""
        return {**self.__dict__, "tokens": {name: [] for name in self.tokens}}

    def take(self) -> dict[str, Tensor]:
        """Tokens (B, N, D) or (B, F, N, D) by module name, from the last forward; the store is empty afterwards.

        Raises RuntimeError naming the layer when a hook did not fire, or fired more than once in one forward.
        """
        taken = {name: list(kept) for name, kept in self.tokens.items()}
        for kept in self.tokens.values():
            kept.clear()
        self.open = False
        for name, kept in taken.items():
            if not kept:
                raise RuntimeError(self._silence(name))
            if len(kept) > 1:
                raise RuntimeError(f"layer '{name}' ran {len(kept)} times in one forward: its tokens are ambiguous")
        return {name: kept[0] for name, kept in taken.items()}

    def _silence(self, name: str) -> str:
        if not self.collecting:
            return f"the hook of layer '{name}' did not fire: collecting is switched off"
        return (
            f"the hook of layer '{name}' did not fire since the last loss. Was the model called (not model.forward), "
            "was LayerSync built before torch.compile, and does every forward reach this layer?"
        )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Collect nothing inside the block, for sampling and validation."""
        before, self.collecting = self.collecting, False
        try:
            yield
        finally:
            self.collecting = before

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self.handles:
            handle.remove()
        self.handles = []


def _tokens(output: object, name: str) -> Tensor:
    """The tokens in a block's output: the tensor itself, or the first item of a tuple."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"layer '{name}' returned {type(output).__name__}; needed: a tensor or a tuple led by one")
    return output

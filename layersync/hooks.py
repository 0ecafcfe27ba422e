"""Listening to the blocks of any transformer: names resolved and checked once, tokens handed over once per forward.

Hooks are registered when `LayerHooks` is built and stay. That has to happen before torch.compile (a hook registered
after the first compiled call is never called) and before DDP or FSDP wrap the model. They raise nothing inside the
model's forward pass: what a layer returned is kept as it is, and refused when it is asked for.

A hook belongs to one model. In a copy of the model, a deep copy or one that was saved and loaded, it does nothing and
needs nothing of ours; a copy of `LayerHooks` itself listens to the model that was copied with it.

Letters: B batch, N tokens, F frames, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layersync.blocks import Layer, resolve_layer
from layersync.compiler import hold_settings, in_backward, is_compiled
from layersync.outputs import LayerOutput, layer_output

NO_DATA_PARALLEL = (
    "torch.nn.DataParallel runs copies of the model in threads, which LayerSync cannot listen to; use "
    "torch.nn.parallel.DistributedDataParallel"
)


class _Hook:
    """A hook of one store. Its copy is a function of the standard library that takes anything and does nothing."""

    def __init__(self, store: LayerHooks):
        self.store = store

    def __reduce__(self) -> tuple:
        return getattr, (contextlib.nullcontext, "__exit__")

    def belongs_to(self, module: nn.Module) -> bool:
        """Whether `module` is the whole model and no shallow copy of it, which has the same hooks."""
        return torch.compiler.is_compiling() or module is self.store.model


class _Opener(_Hook):
    """A forward pre-hook on the whole model: each forward starts with an empty store.

    It also keeps the second run of a checkpointed part, during backward, from being taken for a forward.
    """

    def __call__(self, module: nn.Module, inputs: tuple) -> None:
        store = self.store
        if not store.collecting or in_backward():
            return
        if not self.belongs_to(module):
            if getattr(module, "_is_replica", False):
                raise RuntimeError(NO_DATA_PARALLEL)
            store.elsewhere = True
            return
        store.elsewhere = False
        if store.unread:
            store.dropped = True
        store.clear()
        store.open = True


class _Tap(_Hook):
    """A forward hook that keeps what one module returned while its store is open."""

    def __init__(self, store: LayerHooks, name: str):
        super().__init__(store)
        self.name = name

    def __call__(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        store = self.store
        if not store.collecting or store.elsewhere:
            return
        if not store.open:
            store.passed_by = store.passed_by or not (torch.compiler.is_compiling() or in_backward())
            return
        picked = store.outputs[self.name].pick(output)
        store.heard.append(self.name)
        store.tokens[self.name].append(picked)
        store.versions[self.name].append(_version(picked))


class _Closer(_Hook):
    """A forward hook on the whole model: the pass is over, and what one with gradient left waits to be read."""

    def __call__(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        store = self.store
        if not self.belongs_to(module):
            store.elsewhere = False
        elif store.collecting and store.open:
            store.open, store.unread = False, torch.is_grad_enabled() and module.training
        elif store.collecting and not in_backward():
            store.nested = True  # an end inside of this forward: of a call of the model by itself


class LayerHooks:
    """The tokens of chosen layers of `model`, one forward at a time.

    layers: block numbers from 1 or module names; `names` holds the module names they resolved to, in the same order.
    `output` tells where the tokens are in what a layer returns, of all layers or, as a mapping, of each.
    `collecting` is the switch (off while sampling); `take()` hands over what the last forward left, emptying the store.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        blocks: str | None = None,
        output: LayerOutput | Mapping[Layer, LayerOutput] = LayerOutput(),  # noqa: B008, immutable
    ):
        if is_compiled(model):
            raise ValueError("build the hooks before torch.compile: a hook added to a compiled model is not called")
        if isinstance(model, nn.DataParallel):
            raise ValueError(NO_DATA_PARALLEL)
        self.model, self.names = model, [resolve_layer(model, layer, blocks) for layer in layers]
        told = [output[layer] if isinstance(output, Mapping) else output for layer in layers]
        for name, each in zip(self.names, told, strict=True):
            if each != told[self.names.index(name)]:
                raise ValueError(
                    f"'{name}' is meant twice, by number and by name, with different options of its output"
                )
        modules = dict(model.named_modules(remove_duplicate=False))
        self.outputs = {
            name: layer_output(modules[name], name, each) for name, each in zip(self.names, told, strict=True)
        }
        self.collecting = True
        self._listen()

    def _listen(self) -> None:
        """An empty store, and the hooks that fill it."""
        self._empty()
        modules = dict(self.model.named_modules(remove_duplicate=False))
        self.handles = [self.model.register_forward_pre_hook(_Opener(self))]
        self.handles += [modules[name].register_forward_hook(_Tap(self, name)) for name in self.tokens]
        self.handles += [self.model.register_forward_hook(_Closer(self))]
        self.end_settings = hold_settings(self)

    def _empty(self) -> None:
        """A store in which nothing was heard yet.

        open       a forward of the model runs: what its layers return counts
        unread     a forward with gradient has ended, of which no loss was taken
        dropped    its tokens were replaced by those of the next
        passed_by  a layer ran, but not in a forward of the model
        elsewhere  a shallow copy of the model, which has the same layers, runs
        nested     the forward called the model once more
        """
        self.tokens: dict[str, list[Any]] = {name: [] for name in dict.fromkeys(self.names)}
        self.versions: dict[str, list[int | None]] = {name: [] for name in self.tokens}
        self.heard: list[str] = []
        self.open = self.unread = self.dropped = self.passed_by = self.elsewhere = self.nested = False

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has in common: neither tokens nor the hooks of the original."""
        kept = ("model", "names", "outputs", "collecting")
        return {name: self.__dict__[name] for name in kept} | {"listens": bool(self.handles)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        listens = state.pop("listens")
        self.__dict__.update(state)
        self.handles, self.end_settings = [], lambda: None
        if listens and hasattr(self.model, "_forward_hooks"):
            self._listen()
            return
        self._empty()

    def clear(self) -> None:
        """Forget what the last forward left."""
        for name in self.tokens:
            self.tokens[name].clear()
            self.versions[name].clear()
        self.heard.clear()
        self.open = self.unread = self.nested = False

    def take(self) -> dict[str, Tensor]:
        """Tokens (B, N, D), or (B, ..., D) as `output` tells, by module name, of the last forward; empties the store.

        The names come in the order in which the layers ran. Raises RuntimeError naming the layer when a hook did not
        fire, or fired more than once in one forward, when tokens were changed after the layer returned them, and when a
        forward before the last, or around it, was never read; TypeError or ValueError for an output in which the tokens
        are not found.
        """
        taken = {name: list(zip(kept, self.versions[name], strict=True)) for name, kept in self.tokens.items()}
        dropped, passed_by, nested, heard = self.dropped, self.passed_by, self.nested, list(self.heard)
        self.clear()
        self.dropped = self.passed_by = False
        for name, kept in taken.items():
            if not kept:
                raise RuntimeError(self._silence(name, passed_by))
            if len(kept) > 1:
                raise RuntimeError(f"layer '{name}' ran {len(kept)} times in one forward: its tokens are ambiguous")
        if dropped:
            raise RuntimeError(
                "the model ran more than once with gradient since the last loss, and the tokens of the earlier runs "
                "are gone: take the loss after each forward, run others inside sync.paused(), or call sync.discard()"
            )
        if nested:
            raise RuntimeError(
                "the model called itself in its forward, and the tokens of the outer run are gone: call it there "
                "inside sync.paused()"
            )
        return {name: self._tokens(name, *taken[name][0]) for name in heard}

    def _tokens(self, name: str, picked: Any, version: int | None) -> Tensor:
        tokens = self.outputs[name].arrange(picked, name)
        if version is not None and picked._version != version:
            raise RuntimeError(
                f"the output of layer '{name}' was changed in place after the layer returned it (as by `h += x`): "
                "its tokens are lost; write h = h + x in the model, or align a layer whose output is left alone"
            )
        return tokens

    def _silence(self, name: str, passed_by: bool) -> str:
        told = f"the hook of layer '{name}' did not fire"
        if not self.handles:
            return f"{told}: its hooks were taken off, or it is a copy that was made inside of its own model"
        if not self.collecting:
            return f"{told}: collecting is switched off"
        if passed_by:
            return (
                f"{told} in a forward of the {type(self.model).__name__} that LayerSync was built on: a layer ran, but "
                "that module was not called itself. Build LayerSync on the module that you call (in a LightningModule: "
                "self.model, not self), and call the model, not model.forward"
            )
        return (
            f"{told} since the last loss. Was the model called (not model.forward), "
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
        """Take the hooks off the model, forget its tokens, and give back what torch.compile was told."""
        for handle in self.handles:
            handle.remove()
        self.handles = []
        self.clear()
        self.end_settings()


def _version(picked: Any) -> int | None:
    """How often a tensor was changed in place; None where that is not counted: in compiled code, in inference mode."""
    if torch.compiler.is_compiling() or not isinstance(picked, Tensor) or picked.is_inference():
        return None
    return picked._version

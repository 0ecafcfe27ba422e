"""Which module a layer means. Blocks are numbered from 1, as in the papers; a string names a module."""

from __future__ import annotations

import numbers

from torch import nn

Layer = int | str
BlockList = nn.ModuleList | nn.Sequential | nn.ModuleDict
KINDS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


def find_blocks(model: nn.Module, blocks: str | None = None) -> tuple[str, BlockList]:
    """The list of blocks that numbers refer to: the one at the name `blocks`, else the only one that the model has.

    Lists inside of blocks do not count, nor do lists of single operations where there are lists of blocks. Raises
    ValueError when the name is no ModuleList, Sequential or ModuleDict, when there is no list of blocks, or several.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, KINDS) and len(module)}
    if blocks is not None:
        if not isinstance(blocks, str):
            raise ValueError(f"blocks is of type {type(blocks).__name__}; needed: the name of one of {_sizes(lists)}")
        named = dict(model.named_modules(remove_duplicate=False)).get(blocks)
        if not (isinstance(named, KINDS) and len(named)):
            raise ValueError(f"blocks={blocks!r} is not a list of blocks of the model; its lists: {_sizes(lists)}")
        return blocks, named
    found = _candidates(lists)
    if not found:
        raise ValueError("the model has no list of blocks (torch.nn.ModuleList); name its layers by module name")
    if len(found) > 1:
        longest = max(found, key=lambda name: len(found[name]))
        raise ValueError(
            f"the model has several lists of blocks: {_sizes(found)}; choose the one that numbers count, as "
            f"blocks={longest!r}, or name layers by module name"
        )
    return next(iter(found.items()))


def resolve_layer(model: nn.Module, layer: Layer, blocks: str | None = None) -> str:
    """The module name of a layer; the only place where block numbers become names.

    Raises ValueError for a number outside 1..number of blocks and for an unknown module name.
    """
    if isinstance(layer, bool) or not isinstance(layer, (numbers.Integral, str)):
        raise ValueError(f"a layer is a block number (from 1) or a module name, got {layer!r}")
    if isinstance(layer, str):
        names = {name for name, _ in model.named_modules(remove_duplicate=False) if name}
        if layer not in names:
            near = sorted(name for name in names if name.rpartition(".")[2] == layer.rpartition(".")[2])[:5]
            raise ValueError(f"the model has no module named {layer!r}" + (f"; similar: {near}" if near else ""))
        return layer
    name, found = find_blocks(model, blocks)
    if not 1 <= layer <= len(found):
        raise ValueError(f"block {layer} does not exist: '{name}' has blocks 1 to {len(found)} (numbered from 1)")
    block = list(found._modules)[layer - 1]
    return f"{name}.{block}" if name else block


def _candidates(lists: dict[str, BlockList]) -> dict[str, BlockList]:
    """What may be a model's list of blocks: a ModuleList of modules that have parts, else another list of modules of
    one class that have parts, else any ModuleList; none that lies inside of another."""
    plain = {name: module for name, module in lists.items() if isinstance(module, nn.ModuleList)}
    deep = {name: module for name, module in plain.items() if any(_has_parts(block) for block in module)}
    found = deep or {name: module for name, module in lists.items() if _repeats(list(module.children()))} or plain
    return {name: module for name, module in found.items() if not any(_is_inside(name, other) for other in found)}


def _has_parts(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _repeats(blocks: list[nn.Module]) -> bool:
    return len(blocks) > 1 and len({type(block) for block in blocks}) == 1 and _has_parts(blocks[0])


def _is_inside(name: str, other: str) -> bool:
    return name != other and (name.startswith(f"{other}.") or other == "")


def _sizes(lists: dict[str, BlockList]) -> str:
    return ", ".join(f"'{name}' ({len(module)})" for name, module in lists.items()) or "none"

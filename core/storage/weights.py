"""Weights from a checkpoint of ours or from a file that others published, and how they get into a model."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.processes.sharding import copy_whole_
from core.storage.checkpoint import State, follow_latest, read_checkpoint


def load_weights(path: Path | str, prefer: str = "ema") -> State:
    """Weights from a checkpoint folder, a `.safetensors` file, or a published `.pt` / `.pth` / `.ckpt` / `.tar`.

    `prefer` is "ema" or "model": which set to take where the file holds both. A published training checkpoint is a dict
    with `model`, `ema`, `opt` and `args` (an argparse.Namespace); a bare state dict is taken as it is. Pickles are read
    with weights_only=True: a file that holds more than tensors and plain values is refused, nothing in it is executed.
    Raises ValueError for a missing, damaged or refused file.
    """
    path = follow_latest(Path(path))
    if not path.exists():
        raise ValueError(f"no checkpoint at {path}")
    if path.is_dir():
        groups = read_checkpoint(path, only=(prefer,)).groups
        if prefer not in groups:
            raise ValueError(f"checkpoint {path} holds no '{prefer}' weights")
        return groups[prefer]
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"weights file {path} is damaged: {error}") from error
    return _select_state(_load_pickle(path), prefer, path)


def _load_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))  # of torch's long message, which advises to load it regardless
        if foreign is None:
            raise ValueError(f"checkpoint {path} is damaged or not a PyTorch file") from error
        raise ValueError(f"{path} is refused, it holds more than tensors and plain values: {foreign[1]}") from error
    except Exception as error:  # a damaged pickle can fail in any way: IndexError, AssertionError, struct.error, ...
        raise ValueError(f"checkpoint {path} is damaged or not a PyTorch file: {error!r}") from error


def _select_state(content: Any, prefer: str, path: Path) -> State:
    if isinstance(content, Mapping):
        for name in (prefer, "ema", "model", "state_dict"):
            if isinstance(content.get(name), Mapping):
                content = content[name]
                break
    if not isinstance(content, Mapping) or not content or not all(_is_named_tensor(item) for item in content.items()):
        raise ValueError(f"{path} holds no state dict (tensors by name), neither at its top nor under 'ema' or 'model'")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def frozen_names(model: nn.Module) -> set[str]:
    """Names of the parameters that are not trained; a checkpoint does not hold them."""
    return {name for name, each in model.named_parameters(remove_duplicate=False) if not each.requires_grad}


def trained_state(model: nn.Module) -> State:
    """The state dict of a model without the parameters that are not trained."""
    frozen = frozen_names(model)
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_into(model: nn.Module, state: State, source: str) -> None:
    """Copy `state`, whole tensors, into the trained weights and buffers of `model`, which may be sharded.

    Raises ValueError that tells another architecture's checkpoint by its differences.
    """
    own = trained_state(model)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    problems = [f"missing {_some(missing)}"] * bool(missing) + [f"unexpected {_some(unexpected)}"] * bool(unexpected)
    problems += [_some(shapes)] * bool(shapes)
    if problems:
        raise ValueError(f"{source} is of another architecture than the configured backbone: {'; '.join(problems)}")
    for name, value in own.items():
        copy_whole_(value, state[name])


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

"""Weights from a checkpoint of ours or from a file that others published, and how they get into a model."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.processes.sharding import copy_whole_
from core.storage.arrays import check_archive
from core.storage.checkpoint import State, follow_latest, read_checkpoint

# The names under which files hold sets of weights, and the wrappers whose names come before those of tensors.
EMA = re.compile(
    r"((model|net|network|params|state_dict|weights)_)?ema(_(model|net|network|weights|params))?(_state)?(_dict)?"
    r"|model_avg"
)
MODEL = re.compile(r"(model|net|network|backbone|denoiser|generator)(_(weights|params))?(_state)?(_dict)?")
UNNAMED = re.compile(r"state_dict|weights|params|module")
AVERAGE = re.compile(r"(?<![a-z])(ema|swa|avg|averaged?|shadow)(?![a-z])", re.IGNORECASE)  # in a name of any other form
WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # at any depth
DEEPEST = 3  # mappings around a state dict
COUNT = "n_averaged"  # beside the module in torch.optim.swa_utils.AveragedModel
FRAME = "Unsupported operand 149"  # the first of pickle's protocol 4


def load_weights(path: Path | str, prefer: str | None = "ema") -> State:
    """Weights from a checkpoint folder, a `.safetensors` file, or a published `.pt` / `.pth` / `.ckpt` / `.tar`.

    `prefer` is "ema" or "model": which set to take. A published training checkpoint is a dict with `model`, `ema`,
    `opt` and `args` (an argparse.Namespace), or with names such as `ema_state_dict`; where it names its sets, one that
    it has not is refused. A single set without a name, a bare state dict, is taken as what is asked for, but as no
    average where the file holds one in a form that is not read. None: any set, the average before others. What
    DataParallel, torch.compile, FSDP or a module that holds the model put before all names is taken off. Pickles are
    read with weights_only=True: a file that holds more than tensors and plain values is refused, nothing in it is
    executed. Raises ValueError for a missing, damaged or refused file.
    """
    path = follow_latest(Path(path))
    if not path.exists():
        raise ValueError(f"no checkpoint at {path}")
    if path.is_dir():
        return _of_folder(path, prefer or "ema")
    content = load_safetensors(path) if path.suffix.lower() == ".safetensors" else _load_pickle(path)
    return without_wrappers(_select_state(content, prefer, path), path)


def load_state_dicts(path: Path, names: Iterable[str]) -> dict[str, State]:
    """The state dicts of several networks by their names in a published file; what else it holds is not looked at.

    Raises ValueError, naming the file, for one that is missing, damaged or refused as by `load_weights`, or lacks one.
    """
    content, names = _load_pickle(path), list(names)
    found = content if isinstance(content, Mapping) else {}
    lacking = [name for name in names if name not in _networks(found)]
    if lacking:
        held = ", ".join(map(str, list(found)[:8])) or "nothing by name"
        raise ValueError(f"{path} holds no weights {', '.join(lacking)}; it holds: {held}")
    return {name: without_wrappers(found[name], path) for name in names}


def _networks(content: Mapping) -> list[str]:
    """The names of the state dicts in what a file holds."""
    return [name for name, value in content.items() if isinstance(value, Mapping) and value and _is_state(value)]


def _is_state(value: Mapping) -> bool:
    return all(_is_named_tensor(item) for item in value.items())


def load_safetensors(path: Path) -> State:
    """The tensors of a file; ValueError, naming it, for one that is not there or is damaged."""
    if not path.is_file():
        raise ValueError(f"weights file {path} is {'no file' if path.exists() else 'not there'}")
    try:
        return load_file(path)
    except (SafetensorError, OSError, LookupError, AttributeError, RuntimeError) as error:
        raise ValueError(f"weights file {path} is damaged: {error}") from error


def _of_folder(path: Path, prefer: str) -> State:
    groups = read_checkpoint(path, only=(prefer,)).groups
    if prefer not in groups:
        raise ValueError(f"checkpoint {path} holds no '{prefer}' weights")
    return groups[prefer]


def _load_pickle(path: Path) -> Any:
    """What a file of PyTorch's holds; it is opened once, so that what was checked is what is read."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("it is no file")
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
            if zipfile.is_zipfile(file):
                check_archive(file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))  # of torch's long message, which advises to load it regardless
        if FRAME in str(error):
            raise ValueError(f"{path} is pickled by protocol 4; read are files with torch.save's own, 2") from error
        if foreign is None:
            raise ValueError(f"checkpoint {path} is damaged or not a PyTorch file") from error
        raise ValueError(f"{path} is refused, it holds more than tensors and plain values: {foreign[1]}") from error
    except Exception as error:  # a damaged pickle can fail in any way: IndexError, AssertionError, struct.error, ...
        reason = error if type(error) is ValueError else repr(error)
        raise ValueError(f"checkpoint {path} is damaged or not a PyTorch file: {reason}") from error


def _select_state(content: Any, prefer: str | None, path: Path) -> State:
    sets = _sets(content)
    if sets.keys() == {""} and _has_average(content):
        sets = {"model": sets[""]}
    named = {"ema", "model"} & sets.keys()
    for name in (prefer,) if prefer else ("ema", "model"):
        if name in sets:
            return sets[name]
    if "" in sets and (not named or prefer == "model"):
        return sets[""]
    if not sets:
        raise ValueError(f"{path} holds no state dict (tensors by name), neither at its top nor under 'ema' or 'model'")
    others = " and ".join(f"'{name}'" for name in sorted(named))
    raise ValueError(f"{path} holds no '{prefer}' weights, but {others} weights; config key 'weights' can name those")


def _sets(content: Any, depth: int = 0) -> dict[str, State]:
    """The sets of weights in what a file holds: "ema", "model", and "" for one that has no name."""
    if not isinstance(content, Mapping) or not content or depth > DEEPEST:
        return {}
    if all(_is_named_tensor(item) for item in content.items()):
        return _sets_by_prefix(content)
    found: dict[str, State] = {}
    for kind, pattern in (("ema", EMA), ("model", MODEL), ("", UNNAMED)):
        names = [name for name in content if isinstance(name, str) and pattern.fullmatch(name)]
        for name in sorted(names, key=len):  # the plainest name first
            inside = _sets(content[name], depth + 1)
            if kind and len(inside) == 1:  # what is inside an average is one; what is inside a model may say better
                inside = {kind if kind == "ema" or each == "" else each: value for each, value in inside.items()}
            found = inside | found
    return found


def _has_average(content: Any, depth: int = 0) -> bool:
    """Whether something in what a file holds, other than a tensor, is called an average and has tensors in it."""
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return False
    return any(
        (AVERAGE.search(str(name)) and _has_tensors(value)) or _has_average(value, depth + 1)
        for name, value in content.items()
        if not isinstance(value, Tensor)
    )


def _has_tensors(content: Any, depth: int = 0) -> bool:
    if isinstance(content, Mapping | list | tuple) and depth <= DEEPEST:
        values = content.values() if isinstance(content, Mapping) else content
        return any(_has_tensors(value, depth + 1) for value in values)
    return isinstance(content, Tensor)


def _sets_by_prefix(state: Mapping[str, Tensor]) -> dict[str, State]:
    """A state dict of a module that holds a model and its average: both, by the first part of the names."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        kind = "ema" if EMA.fullmatch(first) and rest else "model" if MODEL.fullmatch(first) and rest else ""
        parts.setdefault(kind, {})[rest if kind else name] = value
    return parts if "ema" in parts and "" not in parts else {"": dict(state)}


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    name, value = item
    plain = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta and not value.is_quantized
    return isinstance(name, str) and plain


def without_wrappers(state: Mapping[str, Tensor], path: Path) -> State:
    """A state dict without what wrappers and holders put before the names; ValueError where two become one."""
    counted = COUNT in state and all(name.startswith("module.") for name in state.keys() - {COUNT})
    names = {name: WRAPPERS.sub("", name) for name in state if not (counted and name == COUNT)}
    for name, short in names.items():
        while short.startswith("module."):
            short = short.removeprefix("module.")
        names[name] = short
    common = _common_prefix(names.values())
    renamed = {short.removeprefix(common): state[name] for name, short in names.items()}
    if len(renamed) < len(names):
        raise ValueError(f"{path} holds tensors whose names are the same but for a wrapper's prefix")
    return renamed


def _common_prefix(names: Iterable[str]) -> str:
    """What comes before all names, in whole parts, "" or "holder.model."."""
    split, length = [name.split(".")[:-1] for name in names], 0
    if len(split) < 2:
        return ""
    while length < min(map(len, split)) and len({parts[length] for parts in split}) == 1:
        length += 1
    return "".join(f"{part}." for part in split[0][:length])


def frozen_names(model: nn.Module) -> set[str]:
    """Names of the parameters that are not trained; a checkpoint does not hold them."""
    return {name for name, each in model.named_parameters(remove_duplicate=False) if not each.requires_grad}


def trained_state(model: nn.Module) -> State:
    """The state dict of a model without the parameters that are not trained."""
    frozen = frozen_names(model)
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_into(model: nn.Module, state: State, source: str) -> None:
    """Copy `state`, whole tensors, into the trained weights and buffers of `model`, which may be sharded.

    A model's own `fitted_state(state, source)`, where it has one, fits what may differ, such as a table of positions.

    Raises ValueError that tells another architecture's checkpoint by its differences.
    """
    own = trained_state(model)
    state = _renamed(state, own)
    if hasattr(model, "fitted_state"):
        state = model.fitted_state(state, source)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    shapes += [
        f"{name} is {state[name].dtype}, the model has {own[name].dtype}"
        for name in sorted(own.keys() & state.keys())
        if own[name].is_floating_point() and not state[name].is_floating_point()
    ]
    problems = [f"missing {_some(missing)}"] * bool(missing) + [f"unexpected {_some(unexpected)}"] * bool(unexpected)
    problems += [_some(shapes)] * bool(shapes)
    if problems:
        raise ValueError(f"{source} is of another architecture than the configured backbone: {'; '.join(problems)}")
    for name, value in own.items():
        copy_whole_(value, state[name])


def _renamed(state: State, own: State) -> State:
    """The state under the model's names, where only what comes before all of them differs."""
    theirs, ours = _common_prefix(state), _common_prefix(own)
    renamed = {ours + name.removeprefix(theirs): value for name, value in state.items()}
    return renamed if renamed.keys() == own.keys() else state


def check_finite_weights(model: nn.Module, source: str) -> None:
    """Raise ValueError naming the first weights and buffers of a model, read from `source`, with NaN or infinity."""
    bad = [name for name, value in model.state_dict().items() if value.is_floating_point() and not _is_finite(value)]
    if bad:
        raise ValueError(f"{source} holds NaN or infinity in {_some(bad)}")


def _is_finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

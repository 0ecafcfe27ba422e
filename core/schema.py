"""Strict conversion of a plain mapping into a dataclass: no unknown key, no wrong type, no missing value.

A config file is refused with the key, the value and the allowed set, wherever the typo stands. The dataclass beside
each component is the schema; `choice` marks a field whose `name` selects one of several dataclasses.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
LARGEST_INT = 2**63 - 1  # that the system's integers hold
LARGEST_FLOAT = (2 - 2**-23) * 2.0**127  # that a float32 holds, as every tensor
LEAST_FLOAT = 2.0**-149  # beside 0, that a float32 holds
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # what neither a path nor a file of UTF-8 holds
SHOWN = 200  # characters of a value in an error

# Metadata of a field that says where and how fast a run is made, not what it computes: a continued run may have another
# value. What is behind a path is compared by itself, with what the checkpoint remembers of it.
FREE = {"free": True}
# Metadata key of a field that holds a mapping from labels of a user's own to dataclasses, with a function that gives
# what there is by name: a node is of its `name`, else of its label.
LABELLED = "labelled"


def choice(options: Mapping[str, type], *, free: bool = False, **kwargs: Any) -> Any:
    """A dataclass field holding one of `options`, selected by the `name` in the config node; `free`: see `FREE`."""
    return dataclasses.field(metadata={"choices": dict(options), **(FREE if free else {})}, **kwargs)


def free_keys(schema: type, prefix: str = "") -> list[str]:
    """The keys of a config, or groups of keys, whose fields are FREE, in all dataclasses that may stand in it."""
    keys, hints = [], get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if field.metadata.get("free"):
            keys.append(prefix + field.name)
            continue
        hint = hints[field.name]
        members = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for member in [*field.metadata.get("choices", {}).values(), *members]:
            if dataclasses.is_dataclass(member):
                keys += free_keys(member, f"{prefix}{field.name}.")
    return list(dict.fromkeys(keys))


def strict(schema: type[T], node: Mapping[str, Any], key: str = "") -> T:
    """Build `schema` from `node`; `key` is the dotted path of the node, for the error.

    Raises ValueError for an unknown key, a missing key, a value of the wrong type or outside a Literal's set, and for a
    number that is NaN, infinite, or too large or small for the tensors that it goes into, wherever it stands.
    """
    if not isinstance(node, Mapping):
        raise ValueError(f"config key '{key}' must be a mapping of {_names(schema)}, got {_shown(node)}")
    fields = {field.name: field for field in dataclasses.fields(schema)}
    hints = get_type_hints(schema)
    values = {}
    for name, value in node.items():
        path = f"{key}.{name}" if key else str(name)
        if name not in fields:
            raise ValueError(f"unknown config key '{path}' (value {_shown(value)}); allowed: {_names(schema)}")
        choices, named = (fields[name].metadata.get(kind) for kind in ("choices", LABELLED))
        if named:
            values[name] = _choose_each(named(), value, path)
        else:
            values[name] = _choose(choices, value, path) if choices else _convert(hints[name], value, path)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ValueError(f"missing config key '{key + '.' if key else ''}{name}'; needed: {_names(schema)}")
    try:
        return schema(**values)
    except ValueError as error:
        raise ValueError(_whole_key(str(error), key)) from error


def plain(config: Any) -> Any:
    """A dataclass as nested dicts and lists, as `strict` reads it; a choice keeps the `name` that selected it."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        out = {}
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if LABELLED in field.metadata:
                options = field.metadata[LABELLED]()
                out[field.name] = {label: _named(options, each) for label, each in value.items()}
            else:
                out[field.name] = _named(field.metadata.get("choices", {}), value)
        return out
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(value) for value in config]
    return config


def _named(options: Mapping[str, type], value: Any) -> Any:
    """A plain value, with the name of the one of `options` that it is, if it is one."""
    for name, option in options.items():
        if type(value) is option:
            return {"name": name, **plain(value)}
    return plain(value)


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], key: str = "") -> list[str]:
    """Dotted keys at which two plain configs differ, sorted."""
    found = []
    for name in sorted(set(old) | set(new)):
        path = f"{key}.{name}" if key else name
        a, b = old.get(name, dataclasses.MISSING), new.get(name, dataclasses.MISSING)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += changed_keys(a, b, path)
        elif a != b:
            found.append(path)
    return found


def _whole_key(message: str, key: str) -> str:
    """A message that begins with the last part of the node's key, with all of it: schemas are used alone too."""
    own = key.rpartition(".")[2]
    return key + message.removeprefix(own) if own and message.startswith(f"{own}.") else message


def _names(schema: type) -> str:
    return ", ".join(field.name for field in dataclasses.fields(schema)) or "nothing"


def _choose(choices: Mapping[str, type], node: Any, key: str) -> Any:
    if not isinstance(node, Mapping) or "name" not in node:
        raise ValueError(f"config key '{key}' needs a 'name', one of {sorted(choices)}; got {_shown(node)}")
    if not isinstance(node["name"], str) or node["name"] not in choices:
        raise ValueError(f"config key '{key}.name' is {_shown(node['name'])}; allowed: {sorted(choices)}")
    rest = {name: value for name, value in node.items() if name != "name"}
    return strict(choices[node["name"]], rest, key)


def _choose_each(options: Mapping[str, type], node: Any, key: str) -> dict[str, Any]:
    """What each label's node selects; errors that begin with the key of one alone begin with the label's."""
    if not isinstance(node, Mapping) or not node:
        raise ValueError(f"config key '{key}' is {_shown(node)}; needed: {{NAME: its keys}}, of {', '.join(options)}")
    chosen, root = {}, f"{key.partition('.')[0]}."
    for label, value in node.items():
        path = f"{key}.{label}"
        if not (isinstance(label, str) and label.isidentifier()):
            raise ValueError(f"config key '{key}' has the label {_shown(label)}; needed: letters, digits and _")
        if not isinstance(value, Mapping):
            raise ValueError(f"config key '{path}' is {_shown(value)}; needed: a mapping")
        name = value.get("name", label)
        if not isinstance(name, str) or name not in options:
            known = ", ".join(options)
            raise ValueError(f"config key '{path}' is of {_shown(name)}; allowed, by label or name: {known}")
        try:
            chosen[label] = _choose(options, {"name": label, **value}, path)
        except ValueError as error:
            message = str(error)
            alone = message.startswith(root) and not message.startswith(f"{path}.")
            raise ValueError(f"{path}.{message.removeprefix(root)}" if alone else message) from error
    return chosen


def _convert(hint: Any, value: Any, key: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return strict(hint, value, key)
    if origin is Literal:
        if not any(value == option and type(value) is type(option) for option in args):  # True is not 1
            raise ValueError(f"config key '{key}' is {_shown(value)}; allowed: {list(args)}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, key)
    if origin in (tuple, list) and isinstance(value, (list, tuple)):
        return _convert_sequence(origin, args, value, key)
    return _convert_scalar(hint, value, key)


def _convert_scalar(hint: Any, value: Any, key: str) -> Any:
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return _checked(_number(value, key), key)
    if hint is int and isinstance(value, float | str):
        value = _whole(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return _checked(value, key)
    raise ValueError(f"config key '{key}' is {_shown(value)} of type {type(value).__name__}; {_needed([hint], value)}")


def _convert_union(args: tuple, value: Any, key: str) -> Any:
    if (value is None and type(None) in args) or (isinstance(value, str) and str in args):
        return _checked(value, key)  # text is no number where both may stand
    schemas = [option for option in args if dataclasses.is_dataclass(option)]
    if isinstance(value, Mapping) and len(schemas) == 1:
        return strict(schemas[0], value, key)  # outside the loop, for its own error
    sequences = [option for option in args if get_origin(option) in (list, tuple)]
    if isinstance(value, list | tuple) and len(sequences) == 1:
        return _convert(sequences[0], value, key)
    for option in args:
        try:
            return _convert(option, value, key)
        except NumberError:
            raise
        except ValueError:
            continue  # the next member of the union may fit; the error below names them all
    raise ValueError(f"config key '{key}' is {_shown(value)}; {_needed(args, value)}")


def _convert_sequence(origin: Any, args: tuple, value: Any, key: str) -> Any:
    if origin is list or (len(args) == 2 and args[1] is Ellipsis):
        return origin(_convert(args[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if len(value) != len(args):
        raise ValueError(f"config key '{key}' is {_shown(list(value))}; needed: {len(args)} values")
    return tuple(_convert(arg, item, f"{key}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True)))


class NumberError(ValueError):
    """A number of the right type that no computation can use, or a text that no file holds."""


def _checked(value: Any, key: str) -> Any:
    """The value, whose numbers, at any depth, are finite and not too large, its texts UTF-8; raises NumberError."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            _checked(each, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for i, each in enumerate(value):
            _checked(each, f"{key}[{i}]")
    elif isinstance(value, str) and NO_TEXT.search(value):
        raise NumberError(f"config key '{key}' is {_shown(value)}; needed: a text of UTF-8 without the character 0")
    elif isinstance(value, float) and 0 < abs(value) < LEAST_FLOAT:
        raise NumberError(f"config key '{key}' is {value!r}; needed: 0, or {LEAST_FLOAT:.3g} at least, as tensors hold")
    elif isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:  # NaN is not
        raise NumberError(f"config key '{key}' is {value!r}; needed: a finite number, {LARGEST_FLOAT:.3g} at most")
    elif isinstance(value, int) and abs(value) > LARGEST_INT:
        raise NumberError(f"config key '{key}' is {_shown(value)}; needed: a whole number, {LARGEST_INT} at most")
    return value


def _number(value: Any, key: str) -> float:
    try:  # YAML reads 1e-4 (without a dot) as a string
        return float(value)
    except ValueError:
        raise ValueError(f"config key '{key}' is {_shown(value)}; needed: a number") from None
    except OverflowError:
        return float("inf")  # of an int; refused as such


def _whole(value: float | str) -> Any:
    """The integer that a float is, or that text such as 1e3 is, which YAML takes for text; else the value."""
    if isinstance(value, str) and not re.fullmatch(r"[+-]?\d+(\.\d*)?[eE]\+?\d{1,3}", value, re.ASCII):
        return value
    number = float(value)
    return int(number) if number.is_integer() else value


def _needed(hints: Sequence[Any], value: Any) -> str:
    """What may stand there, and where it is text, how a number is made text."""
    needed = f"needed: {' or '.join(map(_type_name, hints))}"
    if set(hints) <= {str, type(None)} and isinstance(value, int | float):
        return f'{needed}; quotes make a number or a word text: "{value}" in YAML, \'KEY="{value}"\' in a shell'
    if int in hints and isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value):
        return f"{needed}; without quotes: {value}"
    return needed


def _shown(value: Any) -> str:
    """A value in an error, cut where it is long."""
    if isinstance(value, int) and abs(value) > 10**SHOWN:
        return f"an integer of {value.bit_length()} bits"  # which Python may refuse to write
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _type_name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if dataclasses.is_dataclass(hint):
        name = get_args(get_type_hints(hint).get("name"))
        return f"a mapping of {_names(hint)}" + (f" ({' or '.join(map(str, name))})" if name else "")
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")

"""YAML files that people write: read whole or refused in one line, with the file's name and the place in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

MAX_BYTES = 2**24  # of a file
MAX_NODES = 200_000  # values of a file, those behind an alias counted each time that it stands there
MAX_DEPTH = 100  # of lists and mappings inside each other
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}


class _Loader(yaml.SafeLoader):
    """YAML without its surprises: 12:00:00 is text and not 43200, 2026-01-31 is no date."""

    yaml_implicit_resolvers: ClassVar = {
        first: [("tag:yaml.org,2002:str", re.compile(r"[-+]?\d+[:-]\d")), *others]
        for first, others in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        """The document, checked before anything is made of it: aliases grow only then."""
        node = super().get_single_node()
        if node is not None:
            _count(node, {}, 1)
        return node


def read_yaml(path: Path) -> dict[Any, Any]:
    """The keys and values of a YAML file, each key once.

    Raises ValueError naming the file for one that holds something else, that is no text, no YAML, or grows when read;
    OSError for one that cannot be read.
    """
    values = load_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {_short(values)}; needed: keys and their values")
    return values


def load_yaml(path: Path) -> Any:
    """What a YAML file holds, None where that is nothing; raises as `read_yaml`."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file; needed: a YAML file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; a YAML file may have {MAX_BYTES}")
    try:
        return yaml.load(path.read_text("utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:  # as `!!bool perhaps`
        said = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"{path} is no YAML: {said}") from error


def _count(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """The values in a node; `known` holds those of nodes that were met. Raises ConstructorError."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES  # met again inside itself, it never ends
        if depth > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(None, None, f"more than {MAX_DEPTH} levels", node.start_mark)
        if node.tag not in TAGS:
            raise yaml.constructor.ConstructorError(None, None, f"a value of type {node.tag}", node.start_mark)
        children = []
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        known[id(node)] = 1 + sum(_count(child, known, depth + 1) for child in children)
    if known[id(node)] >= MAX_NODES:
        problem = f"more than {MAX_NODES} values, or an alias inside what it stands for"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return known[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        problem = None
        if not isinstance(key, yaml.ScalarNode):
            problem = "a key is a list or a mapping"
        elif key.value in seen:
            problem = f"{key.value!r} stands twice"
        if problem is not None:
            raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        seen.add(key.value)


def _short(values: Any) -> str:
    text = repr(values)
    return text if len(text) <= 100 else f"{text[:100]} ..."

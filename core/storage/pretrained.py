"""Networks in the directories that transformers writes: read from there alone, no code of theirs, all weights or none.

The caller hands in the class of transformers, so that only who needs it imports it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from core.storage.atomic import sha256_file
from core.storage.json_files import read_mapping
from core.storage.provenance import json_sha256
from core.storage.weights import check_finite_weights

CONFIG, INDEX, ADAPTER = "config.json", "model.safetensors.index.json", "adapter_config.json"
LOCAL = {"local_files_only": True, "trust_remote_code": False}  # of every from_pretrained
COMPUTED = ("position_ids", "token_type_ids", "relative_position_index")  # tables that transformers makes itself
FOREIGN = ("auto_map", "quantization_config", "transformers_weights")  # keys of a config that name code, or other files


def read_pretrained(
    kind: Any, folder: Path, name: str, beside: tuple[str, ...] = (), dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A network of transformers, of type `dtype`, from a directory's config.json and safetensors.

    kind    a class with `from_pretrained`
    name    what it is for, at the beginning of an error
    beside  beginnings of the names of weights that a file may hold beside the network's: a decoder, a head

    Raises ValueError for files that are missing, damaged or of another network (weights that are missing would stay
    random, others would be left out), and for a directory that names code to run.
    """
    check_directory(folder, name)
    reading = {**LOCAL, "use_safetensors": True, "output_loading_info": True, "dtype": dtype}
    told: list[str] = []
    try:
        with told_to(told, "transformers"):
            network, found = kind.from_pretrained(str(folder), **reading)
    except Exception as error:  # a damaged file fails in ways that transformers does not name
        lines = [line for text in told for line in text.splitlines() if "MISMATCH" in line]
        reason = " ".join((lines or [str(error)])[0].split()) or type(error).__name__
        raise ValueError(f"{name}: {folder} is no {kind.__name__} that transformers reads: {reason:.300}") from error
    found["unexpected_keys"] = [key for key in found["unexpected_keys"] if not key.startswith(beside)]
    check_loaded(found, f"{name}: {folder}")
    check_finite_weights(network, f"{name}: {folder}")
    return network


def files_sha256(folder: Path, name: str, beside: str | None = None) -> str:
    """Hex SHA-256 over config and weights of a directory, and a file beside them if it is there.

    ValueError as of `read_pretrained` for what is no such directory.
    """
    check_directory(folder, name)
    files = [folder / CONFIG, *sorted(folder.glob("*.safetensors"))]
    files += [] if beside is None or not (folder / beside).is_file() else [folder / beside]
    return json_sha256({file.name: sha256_file(file) for file in files})


def check_loaded(found: Mapping[str, Any], source: str) -> None:
    """Raise ValueError unless a loading report of transformers or diffusers says that all weights found their place."""
    told = (("lacks the weights", "missing_keys"), ("has the unknown weights", "unexpected_keys"))
    for what, key in (*told, ("has weights of another shape:", "mismatched_keys"), ("cannot be read:", "error_msgs")):
        names = sorted(map(str, found.get(key) or ()))
        names = [each for each in names if not each.endswith(COMPUTED)]
        if names:
            raise ValueError(f"{source} {what} {', '.join(names[:3])}")


def check_directory(folder: Path, name: str) -> None:
    """Raise ValueError for a directory whose files are missing or damaged, or that names code or files elsewhere."""
    check_config(folder / CONFIG, name)
    if (folder / ADAPTER).exists():
        raise ValueError(f"{name}: {folder / ADAPTER} names a network elsewhere; needed: a whole one")
    if (folder / INDEX).is_file():
        parts = _said(folder / INDEX, name).get("weight_map")
        files = set(parts.values()) if isinstance(parts, dict) else {None}
        strange = [part for part in files if not isinstance(part, str) or Path(part).name != part]
        if strange or not all(part.endswith(".safetensors") for part in files):
            raise ValueError(f"{name}: {folder / INDEX} is damaged, or names other files than its own .safetensors")
    check_safetensors(sorted(folder.glob("*.safetensors")), name)


def check_config(file: Path, name: str) -> None:
    """Raise ValueError for a config that is missing, damaged, or names code to run."""
    if not file.is_file():
        raise ValueError(f"{name}: there is no file {file}")
    foreign = next(_foreign(_said(file, name)), None)
    if foreign is not None:
        raise ValueError(
            f"{name}: {file} has the key {foreign!r}, which names other code or files; needed: a plain one"
        )


def check_safetensors(files: Sequence[Path], name: str) -> None:
    """Raise ValueError for files whose headers do not fit their bytes."""
    for file in files:
        try:
            if not file.is_file():
                raise ValueError("it is no file")
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{name}: {file} is damaged: {error}") from error


class _Listener(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, told: list[str]):
        super().__init__()
        self.told = told

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


@contextlib.contextmanager
def told_to(told: list[str], library: str) -> Iterator[None]:
    """What a library warns of is told to the list and not to the screen: its report is checked afterwards."""
    logger = logging.getLogger(library)
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_Listener(told)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate


def _said(file: Path, name: str) -> dict[str, Any]:
    try:
        return read_mapping(file)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _foreign(node: Any) -> Iterator[str]:
    """The keys of a config that name code, at any depth: an attention of a hub is code too."""
    pairs = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        if value and (key in FOREIGN or ("attn_implementation" in str(key) and "/" in str(value))):
            yield str(key)
        yield from _foreign(value)

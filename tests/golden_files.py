"""Numbers recorded once from published programs, `tests/golden/NAME.safetensors`; sizes always come from the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"


def load_golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of `tests/golden/NAME.safetensors`, and the sizes and facts of its metadata entry `config`."""
    with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a mapping
        return tensors, json.loads(file.metadata()["config"])


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose name starts with `prefix`, without it: `with_prefix(tensors, "state.")` is a state dict."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

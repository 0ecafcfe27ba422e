"""What an analysis leaves: one JSON file with all numbers and what made them, and figures beside it."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

from core.schema import plain
from core.storage.atomic import write_atomic
from core.storage.provenance import code_version
from core.storage.run_folder import RunDirectory
from eval.inside.model import TrainedModel

SCHEMA_VERSION = 1
FOLDER = "inside"


def findings_folder(run: str, out: str | None, name: str, overwrite: bool) -> Path:
    """The folder of `<name>.json` and its figures, by default <run>/inside; ValueError for results that stand there."""
    folder = Path(out) if out else RunDirectory.find(run).path / FOLDER
    file = folder / f"{name}.json"
    if file.exists() and not overwrite:
        raise ValueError(f"{file} exists; out=... names another folder, overwrite=true replaces it")
    return folder


def write_findings(folder: Path, name: str, model: TrainedModel, config: Any, results: dict[str, Any]) -> Path:
    """`<name>.json`, whole or not at all; tensors become lists. Raises ValueError for a number that is not finite."""
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else platform.machine()
    content = {
        "schema_version": SCHEMA_VERSION,
        "kind": name,
        **model.facts,
        "depth": model.depth,
        "grid": list(model.grid),
        "settings": plain(config),
        "code": code_version(),
        "torch": torch.__version__,
        "device": f"{model.device.type} ({device})",
        "results": as_lists(results),
    }
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{name}: a result is NaN or infinite, nothing is written: {error}") from error
    return write_atomic(folder / f"{name}.json", text + "\n")


def as_lists(value: Any) -> Any:
    """Nested results with tensors as lists of numbers, six significant digits, and keys as text."""
    if isinstance(value, torch.Tensor):
        return as_lists(value.tolist())
    if isinstance(value, dict):
        return {str(key): as_lists(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_lists(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value

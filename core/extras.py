"""Optional dependencies: the module of an extra, or the one sentence that says how to get it."""

from __future__ import annotations

import importlib
from types import ModuleType


def extra(module: str, name: str, group: str) -> ModuleType:
    """The module that `name` needs; ImportError naming the extra `group` of this package where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"{name} needs the extra '{group}': pip install 'layersync[{group}]'") from None


def import_transformers(name: str, group: str) -> ModuleType:
    """transformers without its progress bars; ImportError naming the extra `group` that `name` needs."""
    transformers = extra("transformers", name, group)
    transformers.utils.logging.disable_progress_bar()
    return transformers

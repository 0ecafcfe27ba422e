"""Optional dependencies: the module of an extra, or the one sentence that says how to get it."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


def extra(module: str, name: str, group: str) -> ModuleType:
    """The module that `name` needs; ImportError naming the extra `group` of this package where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise _missing(name, group) from None


def extra_folder(package: str, name: str, group: str) -> Path:
    """The folder of a package that `name` needs for its files, of whose code nothing runs; ImportError as `extra`'s."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise _missing(name, group)
    return Path(found.submodule_search_locations[0])


def import_transformers(name: str, group: str) -> ModuleType:
    """transformers without its progress bars; ImportError naming the extra `group` that `name` needs."""
    transformers = extra("transformers", name, group)
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _missing(name: str, group: str) -> ImportError:
    return ImportError(f"{name} needs the extra '{group}': pip install 'layersync[{group}]'")

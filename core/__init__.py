"""The method, and the loop that trains it. The method alone, for a user's own model, is the package `layersync`.

A name is imported when it is asked for: a command has to answer signals before it imports PyTorch, for seconds.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.flow.objective import FlowMatching, ObjectiveConfig
    from layersync import LayerSync, WeightSchedule

_PLACES = {
    "FlowMatching": "core.flow.objective",
    "LayerSync": "layersync",
    "ObjectiveConfig": "core.flow.objective",
    "WeightSchedule": "layersync",
}
__all__ = ["FlowMatching", "LayerSync", "ObjectiveConfig", "WeightSchedule"]


def __getattr__(name: str) -> object:
    """The object of that name."""
    if name not in _PLACES:
        raise AttributeError(f"module 'core' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)

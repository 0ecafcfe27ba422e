"""The method, and the loop that trains it; `from core import LayerSync` is all that a user's own model needs.

A name is imported when it is asked for: a command has to answer signals before it imports PyTorch, for seconds.
"""

import importlib

_PLACES = {
    "FlowMatching": "core.flow.objective",
    "LayerSync": "core.alignment.layersync",
    "ObjectiveConfig": "core.flow.objective",
    "WeightSchedule": "core.alignment.contract",
}
__all__ = ["FlowMatching", "LayerSync", "ObjectiveConfig", "WeightSchedule"]


def __getattr__(name: str):
    """The object of that name."""
    if name not in _PLACES:
        raise AttributeError(f"module 'core' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)

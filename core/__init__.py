"""The method, and the loop that trains it. The method alone, for a user's own model, is the package `layersync`."""

from core.flow.objective import FlowMatching, ObjectiveConfig
from layersync import LayerSync, WeightSchedule

__all__ = ["FlowMatching", "LayerSync", "ObjectiveConfig", "WeightSchedule"]

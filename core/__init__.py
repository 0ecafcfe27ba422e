"""The method, and the loop that trains it; `from core import LayerSync` is all that a user's own model needs."""

from core.alignment.contract import WeightSchedule
from core.alignment.layersync import LayerSync
from core.flow.objective import FlowMatching, ObjectiveConfig

__all__ = ["FlowMatching", "LayerSync", "ObjectiveConfig", "WeightSchedule"]

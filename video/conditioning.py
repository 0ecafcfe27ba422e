"""What a clip is asked to be: a class, or nothing."""

from __future__ import annotations

from core.conditioning.labels import LabelConfig
from core.conditioning.none import NoneConfig

CONDITIONINGS: dict[str, type] = {"labels": LabelConfig, "none": NoneConfig}
ConditioningConfig = LabelConfig | NoneConfig

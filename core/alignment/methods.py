"""All alignment methods by the name that a config gives them; nothing else names one."""

from __future__ import annotations

from core.alignment.contract import NoAlignmentConfig
from core.alignment.dispersive import DispersiveConfig
from core.alignment.dual_timesteps import DualTimestepsConfig
from core.alignment.external import ExternalConfig
from core.alignment.internal_guidance import InternalGuidanceConfig
from core.alignment.layersync import LayerSyncConfig
from core.alignment.self_flow import SelfFlowConfig
from core.alignment.several import SeveralConfig
from core.alignment.sra import SRAConfig
from core.alignment.sra2 import SRA2Config

ALIGNMENTS: dict[str, type] = {
    "none": NoAlignmentConfig,
    "layersync": LayerSyncConfig,
    "dispersive": DispersiveConfig,
    "sra": SRAConfig,
    "sra2": SRA2Config,
    "self_flow": SelfFlowConfig,
    "dual_timesteps": DualTimestepsConfig,
    "internal_guidance": InternalGuidanceConfig,
    "external": ExternalConfig,
    "several": SeveralConfig,
}
AnyAlignmentConfig = (
    NoAlignmentConfig
    | LayerSyncConfig
    | DispersiveConfig
    | SRAConfig
    | SRA2Config
    | SelfFlowConfig
    | DualTimestepsConfig
    | InternalGuidanceConfig
    | ExternalConfig
    | SeveralConfig
)

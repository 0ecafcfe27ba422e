"""The second output layer of saved weights, for samples with internal guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from core.alignment.contract import settle
from core.generate import SecondOutput
from core.storage.checkpoint import read_checkpoint
from core.storage.weights import load_into
from core.train.saved import head_group


def load_second_output(config: Any, backbone: nn.Module, source: Path, weights: str) -> SecondOutput | None:
    """What makes the two predictions of a pass of `backbone`; None where the sampler does not ask for it.

    config: of the run, which has the alignment. The layer is that of the group `weights`: ema has its own average.
    Raises ValueError for a file of weights, and a checkpoint, without it.
    """
    scale = config.sampler.internal_scale
    if scale == 1:
        return None
    group = head_group(weights)
    groups = read_checkpoint(source, only=(group,)).groups if source.is_dir() else {}
    if group not in groups:
        raise ValueError(
            f"sampler.internal_scale is {scale}, but {source} has no second output layer ({group}); needed: 1"
        )
    method = settle(config.alignment, len(backbone.blocks), config.seed)
    if hasattr(method, "predicting"):
        method = method.predicting()
    alignment = method.build(backbone)
    state = {name: value for name, value in groups[group].items() if name in alignment.heads.state_dict()}
    load_into(alignment.heads, state, f"group '{group}' of {source}")
    alignment.heads.to(next(backbone.parameters()).device)
    return alignment.second_output()

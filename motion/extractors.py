"""Evaluators of motion, and where their weights are.

An evaluator takes clips (C, F) of any lengths and gives float32 features by name on the CPU; texts go into the same
space. A record of an evaluation holds its `facts`: numbers of different networks, weights or protocols are never
compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from motion.datasets.moves import MovesConfig
from motion.stand_in import MovesEvaluationConfig, MovesFeatures


@dataclass(frozen=True)
class ExtractorSource:
    """What evaluators are made of.

    moves    the clips that the stand-in's evaluator is trained on
    options  of its training
    cache    where it is kept
    """

    moves: MovesConfig
    options: MovesEvaluationConfig
    cache: Path

    def extractor(self, name: str, device: torch.device) -> MovesFeatures:
        """The evaluator of that name on `device`."""
        return MovesFeatures(self.options, self.moves, self.cache, device)

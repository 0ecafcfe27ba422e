"""Which encoders of motion `alignment=external` can have as its target, and a cache can keep features of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from core.contracts import FeatureEncoder
from core.latents.features import encoders_for
from motion.data import MotionFormat

ENCODERS = ("t2m:<folder>",)


def encoders_of(dataset: Any, device: torch.device, clips: MotionFormat) -> Callable[[str], FeatureEncoder]:
    """What gives an encoder of its name for the rows of a data set or of a cache."""
    return encoders_for(
        dataset, partial(make_encoder, device=device, clips=clips), partial(encoder_sha256, clips=clips)
    )


def make_encoder(name: str, device: torch.device, clips: MotionFormat) -> FeatureEncoder:
    """The encoder `t2m:<folder>` of clips of a format; ValueError for a wrong folder, and clips that it cannot see."""
    from motion.encoders.movement import MovementSteps  # which only a run with an encoder needs

    return MovementSteps(name, device, clips)


def encoder_sha256(name: str, clips: MotionFormat) -> str:
    """Hex SHA-256 of the files that the name of an encoder means; ValueError where they are not there."""
    from motion.encoders.movement import find_evaluator

    return find_evaluator(name, clips).sha256

"""Which encoders of images `alignment=external` can have as its target, and a cache can keep features of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from core.contracts import FeatureEncoder
from core.latents.features import encoders_for

ENCODERS = ("dinov2:<folder>", "efficientnet_lite0")


def encoders_of(dataset: Any, device: torch.device) -> Callable[[str], FeatureEncoder]:
    """What gives an encoder of its name for the rows of a data set or of a cache."""
    return encoders_for(dataset, partial(make_encoder, device=device), encoder_sha256)


def make_encoder(name: str, device: torch.device) -> FeatureEncoder:
    """An encoder of `ENCODERS`, which sees images; ValueError for a wrong folder, ImportError without its package."""
    from eval.inside.patches import image_encoder  # which only a run with an encoder needs

    return image_encoder(name, device)


def encoder_sha256(name: str) -> str:
    """Hex SHA-256 of the files that the name of an encoder means; ValueError where they are not there."""
    from eval.inside.patches import image_encoder_sha256

    return image_encoder_sha256(name)

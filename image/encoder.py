"""Which encoders of images `alignment=external` can have as its target, and a cache can keep features of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from core.contracts import FeatureEncoder
from core.latents.cache import LatentShards
from core.latents.features import cached_encoder
from core.storage.pretrained import files_sha256

ENCODERS = ("dinov2",)


def encoders_of(dataset: Any, device: torch.device) -> Callable[[str], FeatureEncoder]:
    """What makes an encoder of its name, kind:folder, for the rows of a data set or of a cache."""
    if isinstance(dataset, LatentShards):
        return partial(cached_encoder, cache=dataset, files_sha256=encoder_sha256)
    return partial(make_encoder, device=device)


def make_encoder(name: str, device: torch.device) -> FeatureEncoder:
    """The encoder `dinov2:<folder>`, which sees images; ValueError for a wrong folder."""
    from eval.inside.patches import DinoPatches  # which only a run with an encoder needs

    return DinoPatches(name, device)


def encoder_sha256(name: str) -> str:
    """Hex SHA-256 of the files that the name of an encoder means; ValueError where they are not there."""
    return files_sha256(Path(name.partition(":")[2]).expanduser(), f"encoder is {name!r}")

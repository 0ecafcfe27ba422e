"""Which encoders of clips `alignment=external` can have as its target, and a cache can keep features of."""

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

ENCODERS = ("dinov2", "videomae")
BESIDE = "preprocessor_config.json"  # decides what VideoMAE sees


def encoders_of(dataset: Any, device: torch.device) -> Callable[[str], FeatureEncoder]:
    """What makes an encoder of its name, kind:folder, for the rows of a data set or of a cache."""
    if isinstance(dataset, LatentShards):
        return partial(cached_encoder, cache=dataset, files_sha256=encoder_sha256)
    return partial(make_encoder, device=device, frames=dataset.media_shape[1])


def make_encoder(name: str, device: torch.device, frames: int) -> FeatureEncoder:
    """An encoder of clips of so many frames; ValueError for a wrong folder.

    dinov2:<folder>    sees the frames one by one
    videomae:<folder>  sees the clip as a whole
    """
    if name.startswith("videomae:"):
        from video.encoders.tubelets import VideoMaeTubelets  # which only a run with an encoder needs

        return VideoMaeTubelets(name, device)
    from eval.inside.patches import DinoPatches

    return DinoPatches(name, device, frames)


def encoder_sha256(name: str) -> str:
    """Hex SHA-256 of the files that the name of an encoder means; ValueError where they are not there."""
    return files_sha256(Path(name.partition(":")[2]).expanduser(), f"encoder is {name!r}", BESIDE)

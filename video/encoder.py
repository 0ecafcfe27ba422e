"""Which encoders of clips `alignment=external` can have as its target, and a cache can keep features of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from core.contracts import FeatureEncoder
from core.latents.features import encoders_for
from core.storage.pretrained import files_sha256

ENCODERS = ("dinov2:<folder>", "videomae:<folder>", "efficientnet_lite0")
VIDEO_MAE = "videomae:"
BESIDE = "preprocessor_config.json"  # decides what VideoMAE sees


def encoders_of(dataset: Any, device: torch.device) -> Callable[[str], FeatureEncoder]:
    """What gives an encoder of its name for the rows of a data set or of a cache."""
    return encoders_for(dataset, partial(make_encoder, device=device, frames=dataset.media_shape[1]), encoder_sha256)


def make_encoder(name: str, device: torch.device, frames: int) -> FeatureEncoder:
    """An encoder of clips of so many frames; ValueError for a wrong folder, ImportError without its package.

    videomae:<folder>                    sees the clip as a whole
    dinov2:<folder>, efficientnet_lite0  see the frames one by one
    """
    if name.startswith(VIDEO_MAE):
        from video.encoders.tubelets import VideoMaeTubelets  # which only a run with an encoder needs

        return VideoMaeTubelets(name, device)
    from eval.inside.patches import image_encoder

    return image_encoder(name, device, frames)


def encoder_sha256(name: str) -> str:
    """Hex SHA-256 of the files that the name of an encoder means; ValueError where they are not there."""
    if name.startswith(VIDEO_MAE):
        return files_sha256(Path(name.removeprefix(VIDEO_MAE)).expanduser(), f"encoder is {name!r}", BESIDE)
    from eval.inside.patches import image_encoder_sha256

    return image_encoder_sha256(name)

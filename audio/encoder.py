"""Which encoders of sound `alignment=external` can have as its target, and a cache can keep features of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from core.contracts import FeatureEncoder
from core.latents.features import encoders_for

ENCODERS = ("clap:<folder>",)


def encoders_of(dataset: Any, device: torch.device, sample_rate: int) -> Callable[[str], FeatureEncoder]:
    """What gives an encoder of its name for the rows of a data set or of a cache."""
    return encoders_for(
        dataset, partial(make_encoder, device=device, clip=dataset.media_shape, sample_rate=sample_rate), encoder_sha256
    )


def make_encoder(name: str, device: torch.device, clip: tuple[int, ...], sample_rate: int) -> FeatureEncoder:
    """The encoder `clap:<folder or .pt>`, of clips (C, L); ValueError for a wrong folder."""
    from audio.encoders.clap_places import ClapPlaces  # which only a run with an encoder needs

    return ClapPlaces(name, device, clip, sample_rate)


def encoder_sha256(name: str) -> str:
    """Hex SHA-256 of the files that the name of an encoder means; ValueError where they are not there."""
    from audio.encoders.clap import ClapSource

    return ClapSource("clap", path=Path(name.partition(":")[2]).expanduser()).place()[1]

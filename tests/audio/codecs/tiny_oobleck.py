"""A random AutoencoderOobleck of diffusers in a size for tests."""

from __future__ import annotations

import pytest
import torch
from torch import nn


def tiny_oobleck(seed: int = 0, ratios: tuple[int, ...] = (2, 4), channels: int = 2, **options) -> nn.Module:
    """Hidden size 8, so 4 latent channels; every bias and Snake parameter is random too."""
    diffusers = pytest.importorskip("diffusers")
    sizes = {"encoder_hidden_size": 8, "decoder_channels": 8, "decoder_input_channels": 4, "sampling_rate": 16000}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = diffusers.AutoencoderOobleck(
            downsampling_ratios=list(ratios),
            channel_multiples=[1, 2, 4][: len(ratios)],
            audio_channels=channels,
            **{**sizes, **options},
        )
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.1 * torch.randn_like(value))
    return model.eval()

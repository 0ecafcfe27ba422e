"""The one rule from numbers in [-1, 1] to 16-bit PCM, and WAV files of it. C channels, L samples in time."""

from __future__ import annotations

import io
from pathlib import Path

import soundfile
import torch
from einops import rearrange
from torch import Tensor

from core.storage.atomic import write_atomic

FULL_SCALE = 32767  # what 1.0 becomes


def to_int16(media: Tensor) -> Tensor:
    """Samples in [-1, 1], any shape, as int16: round(32767 x), clamped to -32768..32767; louder ones are clipped."""
    return (FULL_SCALE * media.float()).round().clamp(-FULL_SCALE - 1, FULL_SCALE).to(torch.int16)


def write_wav(path: Path, samples: Tensor, sample_rate: int) -> Path:
    """Samples (C, L) in [-1, 1] as a 16-bit PCM WAV file, whole or absent; returns `path`."""
    rows = rearrange(to_int16(samples.detach().cpu()), "c l -> l c").contiguous().numpy()
    content = io.BytesIO()
    soundfile.write(content, rows, sample_rate, format="WAV", subtype="PCM_16")
    return write_atomic(path, content.getvalue())

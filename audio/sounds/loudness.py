"""How loud a clip is, and one loudness for all clips.

Letters: C channels, L samples in time.
"""

from __future__ import annotations

import math

import torch
import torchaudio
from torch import Tensor

PEAK = 0.999  # of full scale; no gain raises a clip above it
SHORTEST = 0.4  # seconds: one block of ITU-R BS.1770
HEADROOM = 4.0  # torchaudio's filters cut off what leaves [-1, 1], so they are given the clip divided by this


def rms_db(clip: Tensor) -> float:
    """Root mean square over all channels and samples (C, L), in dB of full scale; -inf for digital silence."""
    power = float(clip.double().square().mean())
    return 10 * math.log10(power) if power > 0 else -math.inf


def lufs(clip: Tensor, sample_rate: int) -> float:
    """Integrated loudness of (C, L) by ITU-R BS.1770-4, C at most 2; -inf where every block is under the gate.

    At least `SHORTEST` seconds are needed, or ValueError. The gate lies at -70 LUFS of the clip divided by `HEADROOM`,
    that is at -58 LUFS.
    """
    if clip.shape[-1] < SHORTEST * sample_rate:
        raise ValueError(f"a clip of {clip.shape[-1] / sample_rate:.3g} s has no loudness; needed: {SHORTEST} s")
    measured = float(torchaudio.functional.loudness(clip.double() / HEADROOM, sample_rate))
    return measured + 20 * math.log10(HEADROOM) if math.isfinite(measured) else -math.inf


def to_loudness(clip: Tensor, sample_rate: int, target: float) -> Tensor:
    """The clip (C, L) at `target` LUFS, or as near to it as a peak of `PEAK` allows; silence stays as it is."""
    measured = lufs(clip, sample_rate)
    if not math.isfinite(measured):
        return clip
    gain = min(10 ** ((target - measured) / 20), PEAK / float(torch.amax(clip.abs())))
    return clip * gain

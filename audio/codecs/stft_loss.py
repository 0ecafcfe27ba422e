"""Distance of spectrograms at several resolutions: a loss that hears what an error of samples does not.

Yamamoto et al. 2020 (arXiv 1910.11480), eqs. 4 to 6: at each resolution, spectral convergence (the error relative to
the reference, which peaks decide) plus the error of log magnitudes (which quiet parts decide).

Letters: B batch, C channels, L samples, T frames, F frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from audio.sounds.fourier import power_of

MIN_POWER = 1e-7  # of a bin, window not normalised: below, the square root and the logarithm stay constant


@dataclass(frozen=True)
class Resolution:
    """A short-time Fourier transform: `n_fft` samples under a Hann window every `hop` samples."""

    n_fft: int
    hop: int

    @property
    def shortest(self) -> int:
        """Samples that a clip must have, so that its ends can be mirrored."""
        return self.n_fft // 2 + 1


RESOLUTIONS = tuple(Resolution(n_fft, n_fft // 4) for n_fft in (2048, 1024, 512, 256, 128))


def multi_resolution_stft_loss(
    decoded: Tensor, reference: Tensor, resolutions: tuple[Resolution, ...] = RESOLUTIONS
) -> Tensor:
    """Mean over resolutions of spectral convergence plus log-magnitude error, a scalar; 0 for equal signals.

    (B, C, L) twice. Resolutions too long for the clips are left out. The gradient is finite everywhere, in silence too.
    ValueError for other shapes than each other's, and for clips that are shorter than every resolution asks.
    """
    if decoded.shape != reference.shape:
        raise ValueError(f"signals of shapes {tuple(decoded.shape)} and {tuple(reference.shape)}; needed: the same")
    fitting = [each for each in resolutions if each.shortest <= decoded.shape[-1]]
    if not fitting:
        least = min(each.shortest for each in resolutions)
        raise ValueError(f"signals of {decoded.shape[-1]} samples; needed: {least} or more")
    return torch.stack([_distance(decoded, reference, each) for each in fitting]).mean()


def magnitudes(signals: Tensor, resolution: Resolution) -> Tensor:
    """|STFT| (B, C, L) -> (B * C, F, T), not below the square root of `MIN_POWER`."""
    window = torch.hann_window(resolution.n_fft, device=signals.device, dtype=signals.dtype)
    flat = rearrange(signals, "b c l -> (b c) l")
    spectrum = torch.stft(flat, resolution.n_fft, resolution.hop, window=window, return_complex=True)
    return power_of(spectrum).clamp_min(MIN_POWER).sqrt()  # abs() has no slope at 0


def mid_side(media: Tensor) -> Tensor:
    """Stereo (B, 2, L) as ((left + right), (left - right)) / sqrt(2); other channels as they are."""
    if media.shape[1] != 2:
        return media
    left, right = media.unbind(1)
    return torch.stack([left + right, left - right], dim=1) * 0.5**0.5


def _distance(decoded: Tensor, reference: Tensor, resolution: Resolution) -> Tensor:
    """The distance over the whole batch, so that a silent clip of it does not divide by nothing."""
    made, wanted = magnitudes(decoded, resolution), magnitudes(reference, resolution)
    convergence = torch.linalg.vector_norm(wanted - made) / torch.linalg.vector_norm(wanted)
    return convergence + (wanted.log() - made.log()).abs().mean()

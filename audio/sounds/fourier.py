"""Short-time spectra of signals, back to signals, and their power.

Letters: L samples, T frames, F frequencies.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad


def power_of(spectrum: Tensor) -> Tensor:
    """|z|^2 of complex numbers, without the square roots of `abs`, which take about as long as the transform."""
    return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)


class ShortTimeFourier(nn.Module):
    """Spectra of exactly L / hop frames, and signals of spectra.

    Zeros stand before and after the samples, (n_fft - hop) / 2 of them, so that frame i has samples i * hop to
    (i + 1) * hop in its middle. Scaled so that a sine at full scale, in the middle of a bin, has magnitude 1 there.
    """

    def __init__(self, n_fft: int, hop: int):
        super().__init__()
        self.n_fft, self.hop, self.margin = n_fft, hop, (n_fft - hop) // 2
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.scale = 2 / self.window.sum().item()

    def forward(self, signal: Tensor) -> Tensor:
        """(..., L) -> complex (..., T, F)."""
        frames = pad(signal, (self.margin, self.margin)).unfold(-1, self.n_fft, self.hop)
        return torch.fft.rfft(frames * (self.window * self.scale))

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Complex (..., T, F) -> (..., L): the signal whose spectrum is nearest (Griffin and Lim 1984, eq. 6)."""
        frames = torch.fft.irfft(spectrum, n=self.n_fft) * (self.window / self.scale)
        weight = self.window.square().expand(spectrum.shape[-2], self.n_fft)
        return self._overlap(frames) / self._overlap(weight)

    def _overlap(self, frames: Tensor) -> Tensor:
        """Frames (..., T, n_fft) added up where they stand, without the margins: (..., L)."""
        parts = rearrange(frames, "... t (part hop) -> part ... t hop", hop=self.hop)
        count = len(parts)
        out = sum(pad(part, (0, 0, place, count - 1 - place)) for place, part in enumerate(parts))
        return rearrange(out, "... t hop -> ... (t hop)")[..., self.margin : self.margin + frames.shape[-2] * self.hop]

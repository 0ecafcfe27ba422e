"""Sample rates: band-limited resampling by a windowed sinc, of any two rates whose filter fits into memory.

For rates of a small ratio in lowest terms (48 kHz, 44.1 kHz) torchaudio convolves with all phases of the filter at
once: new x (old + taps) weights, most of them zero where the ratio is large. Above `MAX_DENSE` weights a table of
new x taps takes the place of that kernel: the same filter, at the price of its taps. Its weights are computed in double
precision, and it agrees to 2e-6 of full scale with torchaudio in double precision; torchaudio's kernel in single
precision errs by up to 1e-3 there.

Letters: L samples in time, n outputs, P phases (new, in lowest terms), K taps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torchaudio
from torch import Tensor

from audio.sounds.sound import Sound

MAX_DENSE = 2**20  # weights of torchaudio's kernel; 44056 Hz into 44100 Hz would have 123 million
MAX_TABLE = 2**25  # weights of the table, 128 MiB
ROWS = 2**14  # outputs, or phases, that are computed at once


@dataclass(frozen=True)
class Resampling:
    """A windowed sinc in torchaudio's terms: its `resampling_method`, `lowpass_filter_width`, `rolloff` and `beta`."""

    method: str = "sinc_interp_hann"
    width: int = 6
    rolloff: float = 0.99
    beta: float | None = None

    def __call__(self, waveform: Tensor, rate: int, to: int) -> Tensor:
        """Samples (..., L) at `rate` Hz -> (..., ceil(L to / rate)) at `to` Hz; ValueError for an impractical ratio."""
        if rate == to:
            return waveform
        old, new = self.ratio(rate, to)
        if new * (old + 2 * self.reach(old, new)) > MAX_DENSE:
            return self._by_table(waveform, old, new)
        return torchaudio.functional.resample(
            waveform,
            old,
            new,
            lowpass_filter_width=self.width,
            rolloff=self.rolloff,
            resampling_method=self.method,
            beta=self.beta,
        )

    def ratio(self, rate: int, to: int) -> tuple[int, int]:
        """Both rates in lowest terms; ValueError for a ratio whose filter is larger than `MAX_TABLE`."""
        divisor = math.gcd(rate, to)
        old, new = rate // divisor, to // divisor
        weights = 2 * new * self.reach(old, new)
        if weights > MAX_TABLE:
            raise ValueError(
                f"{rate} Hz into {to} Hz is a ratio of {old}:{new}, whose filter has {weights} weights (at most "
                f"{MAX_TABLE}); resample it to a common rate (44100, 48000) first"
            )
        return old, new

    def reach(self, old: int, new: int) -> int:
        """Samples on each side of a moment that the filter takes, at the old rate."""
        return math.ceil(self.width * old / (min(old, new) * self.rolloff)) + 1

    def _by_table(self, waveform: Tensor, old: int, new: int) -> Tensor:
        """Output j lies at sample j old / new: the taps around the sample before it, weighted by its phase."""
        length, reach = waveform.shape[-1], self.reach(old, new)
        table = _table(self, old, new).to(waveform)
        rows = torch.nn.functional.pad(waveform.reshape(-1, length), (reach, reach)).unfold(-1, 2 * reach, 1)
        parts = []
        for place in torch.arange(-(-length * new // old)).split(ROWS):
            before, phase = place * old // new, place * old % new
            parts.append(torch.einsum("rnk,nk->rn", rows[:, before + 1], table[phase]))
        return torch.cat(parts, dim=-1).reshape(*waveform.shape[:-1], -1)

    def weights(self, offsets: Tensor, old: int, new: int) -> Tensor:
        """The filter at offsets in samples of the old rate, any shape, float64."""
        cutoff = min(old, new) * self.rolloff / old
        t = (offsets * cutoff).clamp(-self.width, self.width)
        if self.method == "sinc_interp_hann":
            window = torch.cos(t * math.pi / self.width / 2).square()
        else:
            beta = torch.tensor(self.beta, dtype=torch.float64)
            window = torch.special.i0(beta * (1 - (t / self.width).square()).sqrt()) / torch.special.i0(beta)
        return torch.special.sinc(t) * window * cutoff


@lru_cache(maxsize=2)
def _table(method: Resampling, old: int, new: int) -> Tensor:
    """Weights (P, K) float32 of the samples from reach - 1 before to reach after the one at or before an output."""
    reach = method.reach(old, new)
    taps = torch.arange(1 - reach, reach + 1, dtype=torch.float64)
    phases = torch.arange(new, dtype=torch.float64) / new
    return torch.cat([method.weights(taps - part[:, None], old, new).float() for part in phases.split(ROWS)])


HANN = Resampling()  # torchaudio's default
KAISER_BEST = Resampling("sinc_interp_kaiser", 64, 0.9475937167399596, 14.769656459379492)  # as librosa's


def resample(sound: Sound, rate: int) -> Sound:
    """The sound at `rate`, ceil(n * rate / sample_rate) samples long, by `KAISER_BEST`; the same where the rates agree.

    Raises ValueError for rates of so large a ratio in lowest terms that the filter would not fit into memory.
    """
    if rate == sound.sample_rate:
        return sound
    old, new = KAISER_BEST.ratio(sound.sample_rate, rate)
    length = -(-sound.samples.shape[-1] * new // old)
    padded = torch.nn.functional.pad(sound.samples, (0, old))  # torchaudio rounds long lengths; ours is exact
    return Sound(KAISER_BEST(padded, sound.sample_rate, rate)[..., :length], rate)

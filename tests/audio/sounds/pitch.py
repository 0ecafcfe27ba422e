"""The pitch of a note by its autocorrelation."""

import numpy as np


def pitch_of(samples: np.ndarray, rate: int, low: float = 50.0, high: float = 1400.0) -> float:
    """Hz of the samples (L,): the inverse of the shortest lag at which they are nearly as alike as they ever are.

    Autocorrelation by FFT, divided by the energies of the two parts that overlap; the peak is that of a parabola.
    """
    x = np.asarray(samples, dtype=np.float64)
    power = np.abs(np.fft.rfft(x, 2 * len(x))) ** 2
    lags = np.arange(int(rate / low) + 2)
    energy = np.concatenate([[0.0], np.cumsum(x**2)])
    both = energy[len(x) - lags] * (energy[-1] - energy[lags])
    alike = np.fft.irfft(power)[lags] / np.sqrt(both)
    peaks = [k for k in lags[int(rate / high) : -1] if alike[k - 1] <= alike[k] >= alike[k + 1]]
    best = next(k for k in peaks if alike[k] > 0.95 * max(alike[k] for k in peaks))
    before, at, after = alike[best - 1 : best + 2]
    return rate / (best + 0.5 * (before - after) / (before - 2 * at + after))

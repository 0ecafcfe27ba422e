"""Instrument notes by formula: twelve timbres, each by another synthesis, that need no recording.

A timbre is a function of a `Note` and a NumPy generator, which gives phases and noise. Velocity makes a note louder and
brighter. Partials that the sample rate cannot hold are left out. All timbres are brought to the same level, so that
loudness does not name them.

Letters: C channels (1 or 2), L samples in time, P partials, f0 the pitch in Hz, R the sample rate in Hz.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy  # scipy.signal, most of a second, is imported by its first use

USABLE = 0.48  # of the sample rate: partials above are left out, so that an onset does not push them over Nyquist
RMS = 0.1  # of a note at full velocity, unless its peak would pass the ceiling
PEAK_CEILING = 0.95
VELOCITY_DB = 18.0  # from the softest to the loudest note
SUSTAINED = 0.75  # share of a note for which its key is held, where the timbre sounds on
FADE_SECONDS = 0.03  # at the end of every note
DC_CORNER_HZ = 20.0
MIDDLE = 293.66  # Hz, D4, in the middle of the keys


@dataclass(frozen=True)
class Note:
    """What is played.

    f0           pitch, Hz
    velocity     0 (softest) to 1: loudness and brightness
    num_samples  L
    sample_rate  R, Hz
    """

    f0: float
    velocity: float
    num_samples: int
    sample_rate: int

    @property
    def time(self) -> np.ndarray:
        """Seconds since the key was struck (L,)."""
        return np.arange(self.num_samples) / self.sample_rate

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.num_samples / self.sample_rate

    @property
    def drum(self) -> float:
        """By what a drum's frequencies are multiplied: its skin follows the pitch only by half, in octaves."""
        return (self.f0 / MIDDLE) ** 0.5


# Building blocks


def damped_sines(note: Note, frequencies: np.ndarray, amplitudes: np.ndarray, decays: np.ndarray, phases: np.ndarray):
    """Sum over P partials of a exp(-d t) sin(2 pi f t + phase): (L,). Arrays (P,); f in Hz, d in 1/s.

    With t = (k r + j) / R every partial is a product of a part of r and a part of j, so the sum is one product of
    matrices (r, P) (P, j) and takes 2 sqrt(L) exponentials a partial instead of L.
    """
    kept = frequencies < USABLE * note.sample_rate
    pole = (2j * np.pi * frequencies[kept] - decays[kept]) / note.sample_rate
    block = int(np.ceil(note.num_samples**0.5))
    coarse = (amplitudes * np.exp(1j * phases))[kept] * np.exp(np.outer(block * np.arange(block), pole))
    fine = np.exp(np.outer(pole, np.arange(block)))
    return (coarse @ fine).imag.ravel()[: note.num_samples]


def phase_modulation(note: Note, carrier: float, modulator: float, index: Callable[[np.ndarray], np.ndarray]):
    """sin(2 pi fc t + I(t) sin(2 pi fm t)), (L,): Chowning 1973, eq. 1. fc and fm in Hz, `index` gives I of seconds.

    Made at twice the rate and low-passed: sidebands up to 1.5 R then fold to where they are removed, and the index is
    kept so low that none lies above (Carson's rule).
    """
    time = np.arange(2 * note.num_samples) / (2 * note.sample_rate)
    most = max(0.0, (1.5 * note.sample_rate - carrier) / modulator - 2)
    depth = np.minimum(index(time), most)
    wave = np.sin(2 * np.pi * carrier * time + depth * np.sin(2 * np.pi * modulator * time))
    return scipy.signal.resample_poly(wave, 1, 2, window=halving_filter())


@cache
def halving_filter() -> np.ndarray:
    """The low-pass before every second sample is left, 127 taps: -60 dB at R / 2."""
    return scipy.signal.firwin(127, 0.47, window=("kaiser", 6.0))


def biquad(samples: np.ndarray, kind: str, frequency: float, q: float, sample_rate: int) -> np.ndarray:
    """A second-order "low", "high" or "band" pass (Bristow-Johnson's formulas) over samples (L,); frequency in Hz."""
    omega = 2 * np.pi * min(frequency, 0.45 * sample_rate) / sample_rate
    cosine, alpha = np.cos(omega), np.sin(omega) / (2 * q)
    half = {"low": (1 - cosine) / 2, "high": (1 + cosine) / 2, "band": alpha}[kind]
    numerator = {"low": [half, 2 * half, half], "high": [half, -2 * half, half], "band": [half, 0.0, -half]}[kind]
    return scipy.signal.lfilter(numerator, [1 + alpha, -2 * cosine, 1 - alpha], samples)


def attack(note: Note, seconds: float) -> np.ndarray:
    """A rise from 0 to 1 along half a cosine (L,)."""
    return 0.5 - 0.5 * np.cos(np.pi * np.minimum(note.time / seconds, 1))


def adsr(note: Note, rise: float, fall: float, level: float, release: float) -> np.ndarray:
    """Attack, decay to the sustain level, release when the key is let go (L,); times in seconds."""
    time = note.time
    sustained = level + (1 - level) * np.exp(-np.maximum(time - rise, 0) / fall)
    return attack(note, rise) * sustained * np.exp(-np.maximum(time - SUSTAINED * note.seconds, 0) / release)


def vibrato_phase(note: Note, hertz: float, depth: float, start: float) -> np.ndarray:
    """The phase (L,) of a pitch that swings by the share `depth`, `hertz` times a second, from the phase `start`."""
    swing = depth * note.f0 / hertz * np.sin(2 * np.pi * hertz * note.time + start)
    return 2 * np.pi * note.f0 * note.time + swing


# Timbres: a note and a generator -> (L,), of any level


def piano(note: Note, rng: np.random.Generator) -> np.ndarray:
    """Additive: stiff strings, f_n = n f0 sqrt(1 + B n^2) (Fletcher 1964), two a note and slightly out of tune."""
    n = np.arange(1, 25)
    stiff = n * note.f0 * np.sqrt(1 + 4e-4 * n**2)
    struck = np.abs(np.sin(np.pi * n / 7.3)) / n**0.5  # a hammer at 1/7.3 of the string
    amplitudes = struck * np.exp(-n / (2 + 7 * note.velocity))
    decays = 2.5 * (note.f0 / MIDDLE) ** 0.5 * (1 + 0.35 * n)
    phases = rng.uniform(0, 2 * np.pi, (2, len(n)))
    flat = damped_sines(note, stiff * (1 - 3e-4), amplitudes, decays, phases[0])
    sharp = damped_sines(note, stiff * (1 + 3e-4), amplitudes, decays, phases[1])
    return (flat + sharp) * attack(note, 0.004)


def electric_piano(note: Note, rng: np.random.Generator) -> np.ndarray:
    """FM, 1:1 for the body and 14:1 for the tine, whose index and level decay faster."""
    body = phase_modulation(note, note.f0, note.f0, lambda time: (0.4 + 1.4 * note.velocity) * np.exp(-2 * time))
    tine = phase_modulation(note, note.f0, 14 * note.f0, lambda time: 0.2 + 0.5 * note.velocity * np.exp(-6 * time))
    tremolo = 1 + 0.25 * np.sin(2 * np.pi * 5.5 * note.time + rng.uniform(0, 2 * np.pi))
    return (body * np.exp(-1.4 * note.time) + 0.7 * tine * np.exp(-5 * note.time)) * tremolo * attack(note, 0.004)


def organ(note: Note, rng: np.random.Generator) -> np.ndarray:
    """Additive: drawbars 8', 4', 2 2/3', 2', 1 1/3' and 1', as loud from key to release."""
    harmonics = np.array([1, 2, 3, 4, 6, 8])
    drawbars = np.array([1.0, 0.9, 0.6, 0.8, 0.5, 0.7])
    amplitudes = drawbars * (0.35 + 0.65 * note.velocity) ** np.log2(harmonics)
    phases = rng.uniform(0, 2 * np.pi, len(harmonics))
    tone = damped_sines(note, harmonics * note.f0, amplitudes, np.zeros(len(harmonics)), phases)
    return tone * adsr(note, 0.008, 1.0, 1.0, 0.02)


def clarinet(note: Note, rng: np.random.Generator) -> np.ndarray:
    """Additive: a closed pipe's odd harmonics, under an ADSR envelope."""
    n = np.arange(1, 20, 2)
    amplitudes = np.exp(-n / (4 + 9 * note.velocity)) / n**0.5
    tone = damped_sines(note, n * note.f0, amplitudes, np.zeros(len(n)), rng.uniform(0, 2 * np.pi, len(n)))
    return tone * adsr(note, 0.05, 0.15, 0.75, 0.06)


def flute(note: Note, rng: np.random.Generator) -> np.ndarray:
    """A sine and two weak harmonics with vibrato, and breath: noise through a band-pass above the pitch."""
    start = rng.uniform(0, 2 * np.pi)
    phase = vibrato_phase(note, 5.0, 0.004, start)
    tone = np.sin(phase) + (0.1 + 0.3 * note.velocity) * np.sin(2 * phase) + 0.15 * note.velocity * np.sin(3 * phase)
    tone *= 1 + 0.15 * np.sin(2 * np.pi * 5.0 * note.time + start)
    breath = biquad(rng.standard_normal(note.num_samples), "band", 1500 + 3 * note.f0, 0.7, note.sample_rate)
    return (tone + (0.1 + 0.1 * note.velocity) * breath) * adsr(note, 0.09, 0.3, 0.85, 0.05)


def plucked_string(note: Note, rng: np.random.Generator) -> np.ndarray:
    """Karplus and Strong 1983: noise in a loop of one period whose two-point mean takes the highs away.

    The loop y[t] = x[t] + g (h * y)[t - N] is a comb filter. The mean delays by 1/2 sample and a linear interpolation
    by what is left of the period R / f0, so that the string is in tune (Jaffe and Smith 1983).
    """
    period = note.sample_rate / note.f0 - 0.5
    whole = int(period)
    taps = np.convolve([0.5, 0.5], [1 - (period - whole), period - whole])
    gain = 10 ** (-3 / (2.5 * note.f0))  # -60 dB in 2.5 s
    pluck = np.zeros(note.num_samples)
    burst = rng.uniform(-1, 1, min(whole, note.num_samples))
    pluck[: len(burst)] = burst - burst.mean()
    pluck = biquad(pluck, "low", note.f0 * (4 + 14 * note.velocity), 0.7, note.sample_rate)
    loop = np.concatenate([[1.0], np.zeros(whole - 1), -gain * taps])
    return scipy.signal.lfilter([1.0], loop, pluck)


def synth_bass(note: Note, rng: np.random.Generator) -> np.ndarray:
    """Subtractive, an octave below: a saw (partials 1/n) through a resonant low-pass whose cutoff falls.

    The moving filter is a cross-fade along five fixed ones, spaced evenly in octaves.
    """
    pitch = note.f0 / 2
    n = np.arange(1, int(USABLE * note.sample_rate / pitch) + 1)
    saw = damped_sines(note, n * pitch, 1 / n, np.zeros(len(n)), np.full(len(n), rng.choice([0.0, np.pi])))
    cutoffs = pitch * np.geomspace(2.5, 8 + 24 * note.velocity, 5)
    place = 4 * np.exp(-note.time / 0.22)
    bank = [biquad(saw, "low", cutoff, 2.5, note.sample_rate) for cutoff in cutoffs]
    swept = sum(np.maximum(1 - np.abs(place - k), 0) * filtered for k, filtered in enumerate(bank))
    return swept * adsr(note, 0.006, 0.4, 0.5, 0.05)


def bell(note: Note, rng: np.random.Generator) -> np.ndarray:
    """FM at the inharmonic ratio 1:1.4, the index and the level decaying together (Chowning 1973, fig. 12)."""
    strike = phase_modulation(note, note.f0, 1.4 * note.f0, lambda time: (2 + 6 * note.velocity) * np.exp(-1.8 * time))
    shimmer = 1 + 0.1 * np.sin(2 * np.pi * 3.0 * note.time + rng.uniform(0, 2 * np.pi))
    return strike * shimmer * np.exp(-2.0 * note.time) * attack(note, 0.002)


def marimba(note: Note, rng: np.random.Generator) -> np.ndarray:
    """Additive: a struck bar, its overtones tuned to 1 : 3.9 : 9.2, and a mallet's thump."""
    ratios = np.array([1.0, 3.9, 9.2])
    amplitudes = np.array([1.0, 0.1 + 0.5 * note.velocity, 0.3 * note.velocity])
    decays = np.array([7.0, 20.0, 45.0]) * (note.f0 / MIDDLE) ** 0.5
    bar = damped_sines(note, ratios * note.f0, amplitudes, decays, rng.uniform(0, 2 * np.pi, 3))
    return bar * attack(note, 0.002)


def kick(note: Note, rng: np.random.Generator) -> np.ndarray:
    """A sine whose frequency falls exponentially, from higher with a harder stroke, and a click of the beater."""
    low, high, fall = 60 * note.drum, (150 + 200 * note.velocity) * note.drum, 0.035
    phase = 2 * np.pi * (low * note.time + (high - low) * fall * (1 - np.exp(-note.time / fall)))
    click = biquad(rng.standard_normal(note.num_samples), "low", 1500, 0.7, note.sample_rate)
    click *= np.exp(-note.time / 0.004) * (0.2 + 0.6 * note.velocity)
    return (np.sin(phase) * np.exp(-6 * note.time) + click) * attack(note, 0.002)


def snare(note: Note, rng: np.random.Generator) -> np.ndarray:
    """Two modes of a skin under band-passed noise of the wires, which velocity brings out."""
    modes = np.array([185.0, 330.0]) * note.drum
    skin = damped_sines(note, modes, np.array([1.0, 0.6]), np.array([16.0, 22.0]), rng.uniform(0, 2 * np.pi, 2))
    noise = rng.standard_normal(note.num_samples)
    wires = biquad(noise, "band", (1800 + 1200 * note.velocity) * note.drum**0.5, 0.5, note.sample_rate)
    return (skin + (0.7 + 0.8 * note.velocity) * wires * np.exp(-9 * note.time)) * attack(note, 0.001)


def hi_hat(note: Note, rng: np.random.Generator) -> np.ndarray:
    """Noise through a high-pass, twice; velocity opens the cymbals, so that they sound longer."""
    corner = (4500 + 1500 * note.velocity) * note.drum**0.5
    noise = rng.standard_normal(note.num_samples)
    for _ in range(2):
        noise = biquad(noise, "high", corner, 0.9, note.sample_rate)
    return noise * np.exp(-note.time * (22 - 12 * note.velocity)) * attack(note, 0.001)


@dataclass(frozen=True)
class Timbre:
    """How an instrument is made, and at which multiple of f0 its pitch is heard (None: it has no clear pitch)."""

    make: Callable[[Note, np.random.Generator], np.ndarray]
    octave: float | None = 1.0


TIMBRES: dict[str, Timbre] = {
    "piano": Timbre(piano),
    "electric piano": Timbre(electric_piano),
    "organ": Timbre(organ),
    "clarinet": Timbre(clarinet),
    "flute": Timbre(flute),
    "plucked string": Timbre(plucked_string),
    "synth bass": Timbre(synth_bass, octave=0.5),
    "marimba": Timbre(marimba),
    "bell": Timbre(bell, octave=None),
    "kick": Timbre(kick, octave=None),
    "snare": Timbre(snare, octave=None),
    "hi-hat": Timbre(hi_hat, octave=None),
}


def render(timbre: str, note: Note, rng: np.random.Generator) -> np.ndarray:
    """A note of one of `TIMBRES` (L,) float64: without DC, faded to zero at its end, its peak below 1.

    The level follows velocity, by 18 dB from 0 to 1, and no timbre is louder than another but where peaks forbid.
    Raises ValueError for a timbre that is not there.
    """
    if timbre not in TIMBRES:
        raise ValueError(f"timbre is {timbre!r}; allowed: {list(TIMBRES)}")
    samples = TIMBRES[timbre].make(note, rng)
    pole = 1 - 2 * np.pi * DC_CORNER_HZ / note.sample_rate
    fade = _fade(note)
    samples = scipy.signal.lfilter([1, -1], [1, -pole], samples) * fade
    samples -= samples.mean() / fade.mean() * fade  # what the fade brought back
    gain = min(RMS / np.sqrt(np.mean(samples**2)), PEAK_CEILING / np.abs(samples).max())
    return samples * gain * 10 ** (VELOCITY_DB * (note.velocity - 1) / 20)


def _fade(note: Note) -> np.ndarray:
    left = (note.num_samples - 1) / note.sample_rate - note.time
    return 0.5 - 0.5 * np.cos(np.pi * np.minimum(left / FADE_SECONDS, 1))


def place(samples: np.ndarray, pan: float) -> np.ndarray:
    """Samples (L,) in the stereo field, (2, L): pan from -1 (left) to 1 (right), of the same power everywhere."""
    angle = (pan + 1) * np.pi / 4
    return np.stack([np.cos(angle) * samples, np.sin(angle) * samples])

"""A codec without training: a clip's spectrum in mel bands, and where its sound comes from, frame by frame.

A frame has the power of M mel bands in dB, summed over the channels, and for stereo the balance of K wide bands,
(left - right) / (left + right). Phases are not kept. The decoder finds a spectrum that has those bands, by
multiplicative updates (Lee and Seung 2001), and makes a signal of it with the fast algorithm of Griffin and Lim
(Perraudin et al. 2013), in which the spectrum may move as long as its bands stay; the balance shares the signal out
between left and right. No step draws anything, and clips are decoded one by one: a clip never depends on its batch.

Letters: B batch, C channels (1 or 2), L samples, Z latent channels, T frames, F frequencies, M mel bands, K balance
bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torchaudio.functional
from einops import rearrange
from torch import Tensor, nn

from audio.codecs.oobleck import frames_of
from audio.sounds.fourier import ShortTimeFourier, power_of

CEILING = 1.25  # of a latent, in halves of floor_db: +10 dB, so that a strange latent cannot become infinite
ENCODED_AT_ONCE = 8  # clips: their spectra stay in the processor's cache
SPECTRUM_UPDATES = 30
MOMENTUM = 0.99  # alpha of Perraudin et al. 2013
FREE_FROM = 0.25  # share of the iterations after which magnitudes follow the signal
LARGEST_GAIN = 4.0  # of a magnitude, when its band is too quiet
TINY = 1e-12


@dataclass(frozen=True)
class SpectralConfig:
    """What a `SpectralCodec` keeps of a clip, and how hard it works to undo that.

    bands                   M, mel bands
    balance_bands           K, wide bands with a balance of their own; not used for mono
    n_fft                   samples of a frame's Hann window; a multiple of hop
    hop                     samples from frame to frame, even
    floor_db                power that counts as silence, in dB under a sine at full scale
    griffin_lim_iterations  of the decoder
    """

    bands: int = 64
    balance_bands: int = 1
    n_fft: int = 1024
    hop: int = 256
    floor_db: float = -60.0
    griffin_lim_iterations: int = 24

    def __post_init__(self):
        for name in ("bands", "balance_bands", "hop", "griffin_lim_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"tokenizer.{name} is {getattr(self, name)!r}; allowed: 1 or more")
        if self.balance_bands > self.bands:
            raise ValueError(
                f"tokenizer.balance_bands is {self.balance_bands}; allowed: at most tokenizer.bands, {self.bands}"
            )
        if self.hop % 2:
            raise ValueError(f"tokenizer.hop is {self.hop}; allowed: even numbers")
        if self.n_fft % self.hop or self.n_fft < 2 * self.hop:
            raise ValueError(f"tokenizer.n_fft is {self.n_fft}; allowed: 2, 3, ... times the hop of {self.hop}")
        if not -math.inf < self.floor_db < 0:
            raise ValueError(f"tokenizer.floor_db is {self.floor_db}; allowed: finite numbers below 0")


class SpectralCodec(nn.Module):
    """The codec as a `core.latents.tokenizer.KLNetwork`; its posterior has no width.

    A latent has M bands, -1 at silence and about 1 at full scale, then K balances from -1 (right) to 1 (left); with
    C = 1, the bands only. ValueError, naming tokenizer.bands, for bands that have no frequency of their own.
    """

    def __init__(self, config: SpectralConfig, sample_rate: int, channels: int):
        super().__init__()
        if channels not in (1, 2):
            raise ValueError(f"data.channels is {channels}; allowed with the spectral tokenizer: 1 or 2")
        self.config, self.sample_rate, self.in_channels, self.hop = config, sample_rate, channels, config.hop
        self.latent_channels = config.bands + (config.balance_bands if channels == 2 else 0)
        self.fourier = ShortTimeFourier(config.n_fft, config.hop)
        self.floor = 10 ** (config.floor_db / 10)
        self.register_buffer("mel", _mel_filters(config, sample_rate), persistent=False)
        self.register_buffer("wide", _wide_filters(config, sample_rate), persistent=False)

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, int]:
        """(C, L) -> (Z, L / hop); ValueError for other channels, or a length not in whole frames."""
        return frames_of(media_shape, self.in_channels, self.latent_channels, self.hop)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, L) in [-1, 1] -> the latent and zeros, each (B, Z, T)."""
        self.latent_shape(tuple(media.shape[1:]))
        mean = torch.cat([self._encode(clips) for clips in media.split(ENCODED_AT_ONCE)])
        return mean, torch.zeros_like(mean)

    def _encode(self, media: Tensor) -> Tensor:
        spectrum = self.fourier(media)
        power = power_of(spectrum)
        values = [self._to_level(power.sum(1) @ self.mel)]
        if self.in_channels == 2:
            left, right = (power @ self.wide).unbind(1)
            values.append((left - right) / (left + right + self.floor))
        return rearrange(torch.cat(values, dim=-1), "b t z -> b z t")

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, T) of any values -> (B, C, L), about [-1, 1] and not clamped."""
        return torch.stack([self._decode(frames) for frames in rearrange(latents, "b z t -> b t z")])

    def _decode(self, frames: Tensor) -> Tensor:
        """(T, Z) -> (C, L)."""
        spectrum = self._sound(self._to_power(frames[:, : self.config.bands]))
        if self.in_channels == 1:
            return self.fourier.inverse(spectrum[None])
        balance = frames[:, self.config.bands :].clamp(-1, 1) @ self.wide.T
        shares = torch.stack([1 + balance, 1 - balance]).clamp_min(0) / 2
        return self.fourier.inverse(spectrum * shares.sqrt())

    def _to_level(self, power: Tensor) -> Tensor:
        """Power -> -1 at silence, 1 at full scale, linear in dB above the floor; `_to_power` undoes it."""
        return 1 - 2 * 10 * (power + self.floor).log10() / self.config.floor_db

    def _to_power(self, level: Tensor) -> Tensor:
        decibels = (1 - level.clamp(-1, CEILING)) / 2 * self.config.floor_db
        return (10 ** (decibels / 10) - self.floor).clamp_min(0)

    def _spectrum(self, bands: Tensor) -> Tensor:
        """Power (T, F) with nearly the bands (T, M), none below 0, from a smooth start by Lee and Seung's updates."""
        wanted = bands @ self.mel.T
        power = (bands / self.mel.sum(0)) @ self.mel.T + TINY
        for _ in range(SPECTRUM_UPDATES):
            power = power * wanted / ((power @ self.mel) @ self.mel.T + TINY)
        return power

    def _sound(self, bands: Tensor) -> Tensor:
        """A complex spectrum (T, F), nearly that of a signal, whose power has the bands (T, M)."""
        iterations = self.config.griffin_lim_iterations
        magnitude = self._spectrum(bands).sqrt()
        spectrum, last = torch.complex(magnitude, torch.zeros_like(magnitude)), 0.0
        for iteration in range(iterations):
            found = self.fourier(self.fourier.inverse(spectrum))
            if iteration >= FREE_FROM * iterations:
                magnitude = self._fit(power_of(found).sqrt(), bands)
            ahead = found - MOMENTUM / (1 + MOMENTUM) * last
            spectrum, last = ahead * (magnitude / (power_of(ahead).sqrt() + TINY)), found
        return spectrum

    def _fit(self, magnitude: Tensor, bands: Tensor) -> Tensor:
        """Magnitudes (T, F) made louder or softer, each by what the bands around it lack."""
        lacking = bands / (magnitude.square() @ self.mel + TINY)
        gain = lacking.sqrt() @ self.mel.T / self.mel.sum(1).clamp_min(TINY)
        return magnitude * gain.clamp(max=LARGEST_GAIN)


def _mel_filters(config: SpectralConfig, sample_rate: int) -> Tensor:
    """Triangles (F, M), evenly spaced in mel from 0 to half the sample rate, 1 at their tips."""
    spacing = _mel(torch.tensor(sample_rate / 2)).item() / (config.bands + 1)
    lowest = 700 * math.expm1(spacing / 1127)
    if lowest < sample_rate / config.n_fft / 2:
        raise ValueError(
            f"tokenizer.bands is {config.bands}: the lowest are narrower than the {sample_rate / config.n_fft:g} Hz "
            f"between frequencies; allowed: fewer bands, or a larger tokenizer.n_fft than {config.n_fft}"
        )
    bins = config.n_fft // 2 + 1
    return torchaudio.functional.melscale_fbanks(bins, 0.0, sample_rate / 2, config.bands, sample_rate)


def _wide_filters(config: SpectralConfig, sample_rate: int) -> Tensor:
    """Triangles (F, K) over the whole range in mel, whose sum is 1 everywhere."""
    frequencies = torch.linspace(0, sample_rate / 2, config.n_fft // 2 + 1)
    place = _mel(frequencies) / _mel(frequencies[-1]) * (config.balance_bands - 1)
    return (1 - (place[:, None] - torch.arange(config.balance_bands)).abs()).clamp_min(0)


def _mel(frequencies: Tensor) -> Tensor:
    """Of Hz; O'Shaughnessy 1987, as HTK has it."""
    return 1127 * torch.log1p(frequencies / 700)

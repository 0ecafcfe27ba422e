"""Numbers to listen by: how near decoded clips are to what was encoded.

A waveform's signal-to-noise ratio says how exactly samples come back, which a codec that makes up phases does not try;
distances of spectrograms say how alike two clips sound. One front end whatever the codec: mel bands in dB per channel.

Letters: B batch, C channels, L samples, M mel bands, F frequencies, T frames.
"""

from __future__ import annotations

import math

import torch
import torchaudio.functional
from einops import rearrange
from torch import Tensor

from audio.codecs.stft_loss import RESOLUTIONS, multi_resolution_stft_loss
from audio.sounds.fourier import power_of

WINDOW_SECONDS = 0.064  # of the mel front end, about: a power of two of samples
MEL_BANDS = 64
FLOOR_DB = -80.0  # below a sine at full scale: what is quieter counts as silence
SMALLEST = 1e-10  # energy of an error that counts as none: ratios end at about 100 dB above a clip's own energy


def snr_db(reference: Tensor, decoded: Tensor) -> Tensor:
    """10 log10(|x|^2 / |x - y|^2) over a clip's channels and samples: two (B, C, L) -> (B,) in dB."""
    _check(reference, decoded)
    x, y = reference.flatten(1).double(), decoded.flatten(1).double()
    return _ratio_db(x.square().sum(1), (x - y).square().sum(1))


def si_snr_db(reference: Tensor, decoded: Tensor) -> Tensor:
    """Scale-invariant: the part of y along x against the rest (Le Roux et al. 2019, eq. 3).

    Two (B, C, L) -> (B,) in dB. A clip decoded at another level loses nothing. The mean is not removed.
    """
    _check(reference, decoded)
    x, y = reference.flatten(1).double(), decoded.flatten(1).double()
    along = (x * y).sum(1, keepdim=True) / x.square().sum(1, keepdim=True).clamp_min(SMALLEST) * x
    return _ratio_db(along.square().sum(1), (y - along).square().sum(1))


def log_mel_distance_db(reference: Tensor, decoded: Tensor, sample_rate: int) -> Tensor:
    """Mean absolute difference of log-mels over channels, bands and frames: two (B, C, L) -> (B,) in dB."""
    _check(reference, decoded)
    return (log_mel_db(reference, sample_rate) - log_mel_db(decoded, sample_rate)).abs().mean(1)


def log_mel_correlation(reference: Tensor, decoded: Tensor, sample_rate: int) -> Tensor:
    """Pearson's correlation of the log-mels of two clips, of all channels, bands and frames: two (B, C, L) -> (B,).

    0 where a clip is silence, which goes with nothing.
    """
    _check(reference, decoded)
    x, y = (log_mel_db(each, sample_rate).double() for each in (reference, decoded))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)).clamp_min(SMALLEST)


def spectral_distance(reference: Tensor, decoded: Tensor) -> Tensor:
    """The multi-resolution distance of `audio.codecs.stft_loss`, clip by clip: two (B, C, L) -> (B,)."""
    _check(reference, decoded)
    pairs = zip(decoded.float().split(1), reference.float().split(1), strict=True)
    return torch.stack([multi_resolution_stft_loss(made, wanted, RESOLUTIONS) for made, wanted in pairs])


def log_mel_db(media: Tensor, sample_rate: int) -> Tensor:
    """Mel bands in dB under a sine at full scale, not below `FLOOR_DB`: (B, C, L) -> (B, C * M * T)."""
    n_fft = 2 ** round(math.log2(WINDOW_SECONDS * sample_rate))
    window = torch.hann_window(n_fft, device=media.device)
    flat = rearrange(media.float(), "b c l -> (b c) l")
    options = {"hop_length": n_fft // 4, "window": window, "pad_mode": "constant", "return_complex": True}
    power = power_of(torch.stft(flat, n_fft, **options) * (2 / window.sum()))
    filters = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, MEL_BANDS, sample_rate)
    mel = torch.einsum("nft,fm->nmt", power, filters.to(power))
    decibels = 10 * mel.clamp_min(10 ** (FLOOR_DB / 10)).log10()
    return rearrange(decibels, "(b c) m t -> b (c m t)", c=media.shape[1])


def _ratio_db(signal: Tensor, noise: Tensor) -> Tensor:
    return 10 * (signal.clamp_min(SMALLEST).log10() - noise.clamp_min(SMALLEST).log10())


def _check(reference: Tensor, decoded: Tensor) -> None:
    if reference.shape != decoded.shape or reference.ndim != 3:
        raise ValueError(
            f"clips of shapes {tuple(reference.shape)} and {tuple(decoded.shape)}; needed: (B, C, L), both the same"
        )

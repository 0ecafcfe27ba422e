"""Resampling: tones, lengths, and the table of a large ratio against torchaudio's kernel."""

import pytest
import torch
import torchaudio
from torch.testing import assert_close

from audio.sounds.files import AudioFacts
from audio.sounds.resampling import HANN, KAISER_BEST, MAX_DENSE, resample
from audio.sounds.sound import Sound


def tone(rate, seconds=1.0):
    """1 kHz at a rate, (1, L) float64."""
    return torch.sin(2 * torch.pi * 1000 * torch.arange(round(seconds * rate), dtype=torch.float64) / rate)[None]


@pytest.mark.parametrize(("old", "new"), [(48000, 44100), (44056, 44100), (44101, 44100), (11127, 16000)])
def test_a_resampled_tone_is_the_tone_at_the_new_rate(old, new):
    """Also where the rates share no small ratio, which a kernel of all phases has no memory for."""
    got = resample(Sound(tone(old), old), new)
    assert got.sample_rate == new
    wanted = tone(new)
    assert got.samples.shape == wanted.shape
    assert_close(got.samples[:, 500:-500], wanted[:, 500:-500], atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 7, 1000, 8001])
def test_the_resampled_length_is_the_ceiling(length):
    for old, new in ((8000, 44100), (48000, 44100), (44100, 16000), (44101, 44100), (44056, 8000)):
        got = resample(Sound(torch.zeros(1, length), old), new).samples.shape[1]
        assert got == -(-length * new // old) == AudioFacts(length, old, 1).frames_at(new)


@pytest.mark.parametrize("filters", [HANN, KAISER_BEST])
def test_the_table_is_torchaudio_s_filter(filters):
    """In double precision: torchaudio computes the kernel in that of the samples, and single precision shows here."""
    signal = torch.rand(2, 3, 5000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for old, new in ((2003, 2000), (2000, 2003), (1100, 999)):
        assert new * (old + 2 * filters.reach(old, new)) > MAX_DENSE
        wanted = torchaudio.functional.resample(
            signal.double(),
            old,
            new,
            lowpass_filter_width=filters.width,
            rolloff=filters.rolloff,
            resampling_method=filters.method,
            beta=filters.beta,
        )
        assert_close(filters(signal, old, new).double(), wanted, atol=2e-6, rtol=0)


def test_a_filter_that_does_not_fit_into_memory_is_refused():
    for filters, rate in ((KAISER_BEST, 999_983), (HANN, 2**31 - 1)):
        with pytest.raises(ValueError, match=rf"{rate} Hz into 44100 Hz is a ratio of {rate}:44100, whose filter"):
            filters(torch.zeros(1, 100), rate, 44100)

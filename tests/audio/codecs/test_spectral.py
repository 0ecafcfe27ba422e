import math

import pytest
import torch

from audio.codecs.spectral import SpectralCodec, SpectralConfig
from audio.datasets.notes import NotesConfig, NotesDataset
from audio.sounds.fourier import ShortTimeFourier
from audio.sounds.quality import log_mel_distance_db, snr_db
from audio.sounds.sound import ClipFormat
from audio.sounds.synthesis import TIMBRES
from tests.audio.sounds.pitch import pitch_of

RATE, SAMPLES = 16000, 16384
CLIP = ClipFormat(RATE, 2, SAMPLES, 256)


@pytest.fixture(scope="module")
def codec() -> SpectralCodec:
    return SpectralCodec(SpectralConfig(), RATE, 2)


@pytest.fixture(scope="module")
def notes() -> NotesDataset:
    return NotesDataset(NotesConfig(split="heldout", num_notes=5 * 2 * len(TIMBRES)), CLIP)


@pytest.fixture(scope="module")
def decoded(codec, notes) -> torch.Tensor:
    return round_trip(codec, notes.media)


def round_trip(codec: SpectralCodec, media: torch.Tensor) -> torch.Tensor:
    return codec.decode(codec.moments(media)[0])


def note(pitch: float = 440.0, left: float = 1.0, right: float = 1.0, level: float = 0.3) -> torch.Tensor:
    """Six harmonics that fade, (1, 2, L)."""
    time = torch.arange(SAMPLES) / RATE
    wave = sum(torch.sin(2 * math.pi * n * pitch * time) / n**1.5 for n in range(1, 7)) * torch.exp(-2 * time)
    return level * torch.stack([left * wave, right * wave])[None]


def heard_pitch(media: torch.Tensor) -> float:
    return pitch_of(media.sum(0)[2000:10000].numpy(), RATE)


def level_db(media: torch.Tensor) -> torch.Tensor:
    return 10 * media.square().mean(-1).log10()


# --- round trips


def test_a_note_keeps_pitch_level_and_place(codec):
    media = note(440.0, left=1.0, right=0.25)
    heard = round_trip(codec, media)
    assert heard.shape == media.shape
    assert heard_pitch(heard[0]) == pytest.approx(440, rel=0.01)
    torch.testing.assert_close(level_db(heard), level_db(media), atol=0.5, rtol=0)


def test_the_envelope_of_a_note_is_kept(codec):
    media = note()
    media[..., :4096] = 0
    heard = round_trip(codec, media)
    before, after = (clips.mean(1).unfold(-1, 1024, 1024).square().mean(-1) for clips in (media, heard))
    assert (after[0, :3] < 1e-3 * after[0, 5]).all()
    torch.testing.assert_close(after[0, 5:].log10(), before[0, 5:].log10(), atol=0.1, rtol=0)


def test_every_instrument_keeps_its_spectrum(notes, decoded):
    """The bound is about twice the mean distance; an untrained or broken decoder has above 10 dB."""
    distance = log_mel_distance_db(notes.media, decoded, RATE)
    assert distance.mean() < 1.2
    assert distance.max() < 3


def test_pitched_instruments_keep_their_pitch_and_place(notes, decoded):
    for index in range(len(notes)):
        facts = notes.describe(index)
        octave = TIMBRES[facts.timbre].octave
        if octave is not None and octave * facts.f0 > 80:  # below, 64 bands do not part the harmonics
            assert heard_pitch(decoded[index]) == pytest.approx(octave * facts.f0, rel=0.03), facts
        torch.testing.assert_close(level_db(decoded[index]), level_db(notes.media[index]), atol=0.5, rtol=0)


def test_a_second_round_trip_changes_little(codec, notes, decoded):
    once, twice = codec.moments(decoded)[0], codec.moments(round_trip(codec, decoded[:4]))[0]
    first = codec.moments(notes.media)[0]
    assert (twice - once[:4]).abs().mean() < 1.2 * (once - first).abs().mean()


def test_silence_stays_silent(codec):
    mean, std = codec.moments(torch.zeros(1, 2, SAMPLES))
    assert (mean[:, :64] == -1).all() and (mean[:, 64:] == 0).all() and (std == 0).all()
    assert codec.decode(mean).abs().max() < 1e-6


def test_each_side_alone_stays_on_its_side(codec):
    right = round_trip(codec, note(left=0.0))
    assert right[:, 0].square().mean() < 1e-4 * right[:, 1].square().mean()


def test_balances_by_band_part_low_from_high():
    low, high = note(200.0, right=0.0), note(3000.0, left=0.0)
    filtered = SpectralCodec(SpectralConfig(balance_bands=4), RATE, 2)
    heard = round_trip(filtered, low + high)
    spectrum = torch.fft.rfft(heard[0]).abs().square()
    edge = 2000 * SAMPLES // RATE
    assert spectrum[0, :edge].sum() > 10 * spectrum[1, :edge].sum()
    assert spectrum[1, edge:].sum() > 10 * spectrum[0, edge:].sum()


def test_mono(notes):
    codec, media = SpectralCodec(SpectralConfig(), RATE, 1), notes.media[:6, :1]
    heard = round_trip(codec, media)
    assert codec.latent_shape((1, SAMPLES)) == (64, 64)
    assert heard.shape == media.shape
    assert log_mel_distance_db(media, heard, RATE).mean() < 1.5


# --- latents


def test_shapes_and_range(codec, notes):
    mean, std = codec.moments(notes.media)
    assert codec.latent_shape((2, SAMPLES)) == (65, 64) == mean.shape[1:]
    assert (codec.hop, codec.sample_rate, codec.in_channels, codec.latent_channels) == (256, RATE, 2, 65)
    assert (std == 0).all()
    assert mean.min() >= -1 and mean.max() <= 1.05
    assert mean[:, 64:].abs().max() <= 1


def test_a_latent_is_linear_in_decibels(codec):
    loud, soft = (codec.moments(note(level=level))[0][:, :64] for level in (0.8, 0.08))
    twenty_db = 2 * 20 / -codec.config.floor_db
    above = soft > -1 + twenty_db
    assert above.sum() > 50
    torch.testing.assert_close((loud - soft)[above], torch.full_like(soft[above], twenty_db), atol=5e-3, rtol=0)


def test_frame_i_stands_for_its_own_samples(codec):
    media = torch.zeros(1, 2, SAMPLES)
    media[..., 20 * 256 + 128] = 0.9
    frames = codec.moments(media)[0][0, :64].mean(0)
    assert frames.argmax() == 20
    torch.testing.assert_close(frames[18:20], frames[21:23].flip(0), atol=1e-4, rtol=0)
    assert (frames[:18] == -1).all() and (frames[23:] == -1).all()


def test_strange_latents_give_finite_sound(codec):
    latents = 3 * torch.randn(2, 65, 8, generator=torch.Generator().manual_seed(0))
    assert codec.decode(latents).isfinite().all()
    assert codec.decode(torch.full((1, 65, 1), 100.0)).isfinite().all()


# --- independence


def test_a_clip_does_not_depend_on_its_batch(codec, notes, decoded):
    latents = codec.moments(notes.media)[0]
    for index in (0, 7, 13):
        assert snr_db(decoded[index : index + 1], codec.decode(latents[index : index + 1])).item() > 80
    alone = codec.moments(notes.media[7:8])[0]
    torch.testing.assert_close(alone[0], latents[7], atol=1e-5, rtol=0)


def test_decoding_draws_nothing(codec, notes, decoded):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(round_trip(codec, notes.media[:2]), decoded[:2])
    assert torch.equal(torch.get_rng_state(), before)


# --- the transform


@pytest.mark.parametrize(("n_fft", "hop"), [(1024, 256), (512, 256), (768, 256), (64, 2)])
def test_the_inverse_undoes_the_transform(n_fft: int, hop: int):
    fourier = ShortTimeFourier(n_fft, hop)
    signal = torch.randn(2, 3, 8 * hop, generator=torch.Generator().manual_seed(0))
    spectrum = fourier(signal)
    assert spectrum.shape == (2, 3, 8, n_fft // 2 + 1)
    torch.testing.assert_close(fourier.inverse(spectrum), signal, atol=1e-4, rtol=0)


def test_a_sine_at_full_scale_has_magnitude_one():
    fourier = ShortTimeFourier(1024, 256)
    tone = torch.sin(2 * math.pi * 100 / 1024 * torch.arange(SAMPLES))
    assert fourier(tone)[30].abs().max().item() == pytest.approx(1, abs=1e-3)


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": 0}, "tokenizer.bands is 0"),
        ({"balance_bands": 0}, "tokenizer.balance_bands is 0"),
        ({"balance_bands": 65}, "tokenizer.balance_bands is 65; allowed: at most tokenizer.bands, 64"),
        ({"hop": 255}, "tokenizer.hop is 255; allowed: even"),
        ({"n_fft": 1000}, "tokenizer.n_fft is 1000"),
        ({"n_fft": 256}, "tokenizer.n_fft is 256; allowed: 2, 3"),
        ({"floor_db": 0.0}, "tokenizer.floor_db is 0.0"),
        ({"floor_db": -math.inf}, "tokenizer.floor_db is -inf"),
        ({"griffin_lim_iterations": 0}, "tokenizer.griffin_lim_iterations is 0"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SpectralConfig(**options)


def test_bands_without_a_frequency_are_refused():
    with pytest.raises(ValueError, match=r"tokenizer.bands is 128"):
        SpectralCodec(SpectralConfig(bands=128, n_fft=512), RATE, 2)


@pytest.mark.parametrize(("bands", "n_fft"), [(96, 1024), (128, 2048), (32, 512)])
def test_every_band_that_is_allowed_hears_something(bands: int, n_fft: int):
    assert (SpectralCodec(SpectralConfig(bands=bands, n_fft=n_fft), RATE, 2).mel.sum(0) > 0).all()


def test_clips_that_do_not_fit_are_refused(codec):
    with pytest.raises(ValueError, match=r"1 channels \(data.channels\); the tokenizer takes 2"):
        codec.moments(torch.zeros(1, 1, SAMPLES))
    for samples in (0, 100, SAMPLES + 1):
        with pytest.raises(ValueError, match=f"{samples} samples; the tokenizer takes whole frames of 256"):
            codec.latent_shape((2, samples))
    with pytest.raises(ValueError, match=r"data.channels is 6"):
        SpectralCodec(SpectralConfig(), RATE, 6)

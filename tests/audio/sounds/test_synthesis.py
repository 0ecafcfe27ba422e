"""Each timbre is in tune, below full scale, without DC and without aliases; velocity and place do what they say."""

import numpy as np
import pytest

from audio.sounds.synthesis import (
    PEAK_CEILING,
    TIMBRES,
    USABLE,
    VELOCITY_DB,
    Note,
    attack,
    biquad,
    damped_sines,
    phase_modulation,
    place,
    render,
)
from core.draws import numpy_rng
from tests.audio.sounds.pitch import pitch_of

RATE, LENGTH = 16000, 16384
LOW, HIGH = 130.81, 659.26  # Hz: C3 and E5
PITCHED = [name for name, timbre in TIMBRES.items() if timbre.octave]
NOISELESS = ["piano", "electric piano", "organ", "clarinet", "synth bass", "bell", "marimba"]


def played(name, f0=293.66, velocity=0.7, *, rate=RATE, seed=0, length=LENGTH):
    return render(name, Note(f0, velocity, length, rate), numpy_rng("test", seed))


def centroid(samples):
    """Mean frequency, weighted by magnitude, Hz."""
    spectrum = np.abs(np.fft.rfft(samples))
    return float((spectrum * np.fft.rfftfreq(len(samples), 1 / RATE)).sum() / spectrum.sum())


@pytest.mark.parametrize("name", TIMBRES)
@pytest.mark.parametrize(("f0", "velocity"), [(LOW, 0.0), (LOW, 1.0), (HIGH, 0.0), (HIGH, 1.0)])
def test_notes_are_sane(name, f0, velocity):
    samples = played(name, f0, velocity)
    rms = np.sqrt(np.mean(samples**2))
    assert samples.shape == (LENGTH,) and np.isfinite(samples).all()
    assert np.abs(samples).max() <= PEAK_CEILING and rms > 0.005
    assert abs(samples.mean()) < 1e-6 * rms
    assert abs(samples[0]) < 0.2 * np.abs(samples).max()  # no click
    assert samples[-1] == pytest.approx(0, abs=1e-9) and np.abs(samples[-80:]).max() < 0.1 * np.abs(samples).max()


@pytest.mark.parametrize("name", PITCHED)
@pytest.mark.parametrize("f0", [LOW, 293.66, HIGH])
def test_pitch_is_the_one_asked_for(name, f0):
    assert pitch_of(played(name, f0)[1600:9600], RATE, high=900) == pytest.approx(f0 * TIMBRES[name].octave, rel=0.01)


@pytest.mark.parametrize("name", NOISELESS)
def test_nothing_is_mirrored_at_nyquist(name):
    """Where the same note at twice the rate has no energy, a partial would have to be an alias."""
    f0 = 1244.5  # Hz: most partials lie above 8 kHz
    window = np.hanning(LENGTH)
    spectrum = np.abs(np.fft.rfft(played(name, f0, 1.0) * window))
    double = np.abs(np.fft.rfft(played(name, f0, 1.0, rate=2 * RATE, length=2 * LENGTH) * np.hanning(2 * LENGTH)))
    near = np.array([double[max(0, k - 12) : k + 13].max() for k in range(len(spectrum))])
    nothing = near < 1e-3 * double.max()
    assert nothing.sum() > 1000
    assert spectrum[nothing].max() < 2e-3 * spectrum.max()


def test_the_alias_test_sees_an_alias():
    """A saw sampled without a limit has partials where the same saw at twice the rate has none."""
    f0, time = 1244.5, np.arange(LENGTH) / RATE
    spectrum = np.abs(np.fft.rfft((2 * (time * f0 % 1) - 1) * np.hanning(LENGTH)))
    mirrored = RATE - 7 * f0  # Hz, of the seventh partial, 8711 Hz
    near = round(mirrored * LENGTH / RATE)
    assert spectrum[near - 2 : near + 3].max() > 0.05 * spectrum.max()
    clean = np.abs(np.fft.rfft(played("synth bass", 2 * f0, 1.0) * np.hanning(LENGTH)))
    assert clean[near - 2 : near + 3].max() < 1e-3 * clean.max()


@pytest.mark.parametrize("name", TIMBRES)
def test_velocity_makes_louder_and_brighter(name):
    soft, loud = played(name, velocity=0.3), played(name, velocity=1.0)
    gained = 20 * np.log10(np.sqrt(np.mean(loud**2) / np.mean(soft**2)))
    assert gained == pytest.approx(0.7 * VELOCITY_DB, abs=4)  # less where the peak is at the ceiling
    levels = [np.sqrt(np.mean(played(name, velocity=v) ** 2)) for v in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert levels == sorted(levels)
    assert centroid(loud) > 1.02 * centroid(soft)


@pytest.mark.parametrize("name", TIMBRES)
def test_a_note_is_a_function_of_its_generator(name):
    assert np.array_equal(played(name), played(name))
    assert not np.array_equal(played(name), played(name, velocity=0.6))
    if name != "synth bass":  # its only chance is its sign
        assert not np.array_equal(played(name), played(name, seed=1))


def test_timbres_are_of_one_level():
    levels = [20 * np.log10(np.sqrt(np.mean(played(name) ** 2))) for name in TIMBRES]
    assert max(levels) - min(levels) < 5


@pytest.mark.parametrize("name", TIMBRES)
@pytest.mark.parametrize(("rate", "length"), [(8000, 801), (44100, 30001)])
def test_other_rates_and_lengths(name, rate, length):
    samples = played(name, HIGH, 1.0, rate=rate, length=length)
    assert samples.shape == (length,) and np.isfinite(samples).all() and np.abs(samples).max() <= PEAK_CEILING


def test_unknown_timbre_is_refused():
    with pytest.raises(ValueError, match=r"timbre is 'kazoo'; allowed: \['piano'"):
        played("kazoo")


# building blocks


def test_damped_sines_are_the_sum_they_claim_to_be():
    note = Note(100.0, 1.0, 1001, RATE)
    f, a, d, p = np.array([440.0, 1234.5, 7900.0]), np.array([1.0, 0.5, 9.0]), np.array([0.0, 3.0, 0.0]), np.ones(3)
    kept = f < USABLE * RATE
    assert kept.tolist() == [True, True, False]
    parts = [a[k] * np.exp(-d[k] * note.time) * np.sin(2 * np.pi * f[k] * note.time + p[k]) for k in range(2)]
    assert damped_sines(note, f, a, d, p) == pytest.approx(sum(parts), abs=1e-10)


def test_phase_modulation_has_bessel_sidebands():
    """sin(a + I sin b) = sum_k J_k(I) sin(a + k b): J_0(1.5) = 0.5118, J_1 = 0.5579, J_2 = 0.2321."""
    note = Note(1000.0, 1.0, RATE, RATE)
    wave = phase_modulation(note, 2000.0, 500.0, lambda time: np.full_like(time, 1.5))
    magnitudes = np.abs(np.fft.rfft(wave)) / (RATE / 2)
    heard = [magnitudes[2000 + 500 * k] for k in (-2, -1, 0, 1, 2)]
    assert heard == pytest.approx([0.2321, 0.5579, 0.5118, 0.5579, 0.2321], abs=0.005)


@pytest.mark.parametrize(
    ("kind", "passed", "stopped"), [("low", 0, RATE // 2), ("high", RATE // 2, 0), ("band", 1000, 0)]
)
def test_biquads_pass_and_stop(kind, passed, stopped):
    impulse = np.zeros(RATE)
    impulse[0] = 1
    response = np.abs(np.fft.rfft(biquad(impulse, kind, 1000.0, 0.7071, RATE)))
    assert response[passed] == pytest.approx(1, abs=1e-3) and response[stopped] == pytest.approx(0, abs=1e-3)
    if kind != "band":
        assert response[1000] == pytest.approx(0.7071, abs=1e-3)  # Butterworth: -3 dB at the corner


def test_attack_rises_from_zero_to_one():
    rise = attack(Note(100.0, 1.0, 161, RATE), 0.005)
    assert rise[0] == 0 and rise[40] == pytest.approx(0.5) and (rise[80:] == 1).all()


@pytest.mark.parametrize(("pan", "left", "right"), [(-1, 1, 0), (0, 0.5, 0.5), (1, 0, 1), (0.5, 0.1464, 0.8536)])
def test_place_keeps_power(pan, left, right):
    samples = played("organ")
    energies = (place(samples, pan) ** 2).sum(1) / (samples**2).sum()
    assert energies == pytest.approx([left, right], abs=1e-4) and energies.sum() == pytest.approx(1)

"""Protocols: where windows lie, what fills them, how samples are rounded; and the measures of pairs in closed form."""

import math

import numpy as np
import pytest
import torch

from audio.encoders.protocols import (
    FADTK,
    ONE_WINDOW,
    Resampling,
    WindowProtocol,
    clap_score,
    find_protocol,
    kl_of_classes,
    kl_of_mean_classes,
    laion_int16,
    pcm16,
)
from audio.sounds.sound import Sound
from tests.audio.networks import clip

RATE = 48_000


# --- windows


@pytest.mark.parametrize(
    ("samples", "rate", "count"),
    [(480_000, 48_000, 10), (440_320, 44_100, 10), (480_001, 48_000, 11), (1, 48_000, 1), (48_000, 48_000, 1)],
)
def test_fadtk_starts_a_window_every_second_until_the_clip_ends(samples, rate, count):
    sound = Sound(torch.full((1, samples), 0.25), rate)
    waveform = FADTK.waveform(sound, RATE, "it")
    windows = FADTK.windows(waveform, RATE)
    assert len(waveform) == math.ceil(samples * RATE / rate)
    assert len(windows) == count
    assert {len(window) for window in windows} == {480_000}
    for i, window in enumerate(windows):
        own = min(len(waveform) - i * RATE, 480_000)
        assert torch.equal(window[:own], waveform[i * RATE : i * RATE + own])
        assert not window[own:].any()


def test_a_clip_of_9_985_s_has_zeros_in_all_ten_windows_and_one_of_10_s_in_nine():
    def padded(samples, rate):
        waveform = FADTK.waveform(Sound(torch.ones(1, samples), rate), RATE, "it")
        return sum(bool(window[-1] == 0) for window in FADTK.windows(waveform, RATE))

    assert padded(440_320, 44_100) == 10
    assert padded(480_000, 48_000) == 9


def test_one_window_is_the_central_ten_seconds_of_a_longer_clip():
    ramp = torch.arange(12 * RATE, dtype=torch.float32) / 1e6
    (window,) = ONE_WINDOW.windows(ramp, RATE)
    assert torch.equal(window, ramp[RATE : 11 * RATE])
    (odd,) = ONE_WINDOW.windows(ramp[:480_003], RATE)
    assert torch.equal(odd, ramp[1:480_001])


@pytest.mark.parametrize("samples", [1, 1000, 480_000])
def test_one_window_leaves_a_shorter_clip_to_the_network(samples):
    waveform = torch.rand(samples)
    (window,) = ONE_WINDOW.windows(waveform, RATE)
    assert torch.equal(window, waveform)


def test_channels_are_averaged_and_a_clip_at_the_network_s_rate_is_not_filtered():
    sound = Sound(torch.tensor([[0.5, -0.25, 0.0], [0.25, 0.25, 1.0]]), RATE)
    assert ONE_WINDOW.waveform(sound, RATE, "it").tolist() == [0.375, 0.0, 0.5]


@pytest.mark.parametrize("protocol", [ONE_WINDOW, FADTK])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 96_000])
def test_a_tone_keeps_its_height_and_phase_at_any_usual_rate(protocol, rate):
    seconds = torch.arange(rate, dtype=torch.float64) / rate
    heard = protocol.waveform(Sound((0.5 * torch.sin(2 * math.pi * 440 * seconds)).float()[None], rate), RATE, "it")
    expected = 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(RATE, dtype=torch.float64) / RATE)
    inner = slice(2000, -2000)  # the filters see zeros beyond the ends
    torch.testing.assert_close(heard[inner].double(), expected[inner], atol=2e-3, rtol=0)


def test_the_two_protocols_filter_differently():
    sound = Sound(0.3 * clip(0.2, 44_100).samples, 44_100)
    plain = WindowProtocol("plain", hop_seconds=1.0, resampling=FADTK.resampling)
    sharp, soft = plain.waveform(sound, RATE, "it"), ONE_WINDOW.waveform(sound, RATE, "it")
    assert (sharp - soft).abs().max() > 1e-2
    assert sharp.abs().max() < 1
    assert (sharp - FADTK.waveform(sound, RATE, "it")).abs().max() <= 0.5 / 32768 + 1e-7


# --- rounding


def test_16_bit_files_hold_multiples_of_2_to_the_minus_15_and_clip():
    given = torch.tensor([0.0, 0.4 / 32768, 0.6 / 32768, -0.6 / 32768, 12345 / 32768, 1.0, 1.7, -1.0, -1.2])
    assert (pcm16(given) * 32768).tolist() == [0, 0, 1, -1, 12345, 32767, 32767, -32768, -32768]


def test_laion_s_quantisation_cuts_towards_zero():
    given = torch.tensor([0.0, 0.99 / 32767, -0.99 / 32767, 1.5 / 32767, 1.0, -3.0])
    assert (laion_int16(given).double() * 32767).round().tolist() == [0, 0, 0, 1, 32767, -32767]
    levels = torch.arange(-32768, 32768)  # after a 16-bit file it takes a step of every sample but 0
    after = (laion_int16(levels / 32768).double() * 32767).round().long()
    assert torch.equal(after, levels.sign() * (levels.abs() - 1).clamp_min(0))


def test_fadtk_rounds_samples_and_features_and_one_window_does_not():
    sound, features = clip(0.1, RATE), torch.tensor([[1 / 3, 1000.123]])
    assert torch.equal(FADTK.waveform(sound, RATE, "it"), pcm16(sound.samples[0]))
    assert torch.equal(ONE_WINDOW.waveform(sound, RATE, "it"), sound.samples[0])
    assert torch.equal(FADTK.rounded(features), features.half().float())
    assert FADTK.rounded(features).dtype == torch.float32
    assert torch.equal(ONE_WINDOW.rounded(features), features)


# --- words and refusals


def test_the_words_tell_protocols_apart():
    assert "sinc_interp_hann" in ONE_WINDOW.text and "central 10 s" in ONE_WINDOW.windows_text
    for said in ("fadtk", "sinc_interp_kaiser", "64", "0.9475937167399596", "14.769656459379492", "16-bit", "float16"):
        assert said in FADTK.text
    assert "every 1 s" in FADTK.windows_text and "zeros" in FADTK.windows_text
    assert find_protocol("fadtk") is FADTK
    with pytest.raises(ValueError, match=r"evaluation.protocol is 'fad'; allowed: one_window, fadtk"):
        find_protocol("fad")


def test_what_cannot_be_heard_is_refused_with_the_clip_s_name():
    bad = torch.zeros(2, 100)
    bad[1, 7] = math.nan
    with pytest.raises(ValueError, match="clip 3 of 8: 1 of its 200 samples are NaN or infinite"):
        ONE_WINDOW.waveform(Sound(bad, RATE), RATE, "clip 3 of 8")
    for samples in (torch.zeros(100), torch.zeros(2, 0), torch.zeros(1, 5, dtype=torch.int16)):
        with pytest.raises(ValueError, match=r"clip 3 is torch\..*needed: floating-point samples \(C, L\)"):
            ONE_WINDOW.waveform(Sound(samples, RATE), RATE, "clip 3")
    for rate in (0, -44_100, 44_100.5):
        with pytest.raises(ValueError, match="clip 3 has a sample rate of"):
            ONE_WINDOW.waveform(Sound(torch.zeros(1, 10), rate), RATE, "clip 3")


def test_a_rate_without_a_common_divisor_is_refused_before_it_fills_the_memory():
    assert Resampling()(torch.zeros(10), 44_099, 48_000).shape == (11,)
    with pytest.raises(ValueError, match="2147483647 Hz into 48000 Hz is a ratio of 2147483647:48000"):
        Resampling()(torch.zeros(10), 2**31 - 1, 48_000)


def test_a_window_has_a_length():
    for bad in ({"seconds": 0.0}, {"hop_seconds": 0.0}):
        with pytest.raises(ValueError, match="both must be above 0"):
            WindowProtocol("bad", **bad)


# --- measures


def test_the_clap_score_is_the_mean_cosine():
    audio = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    text = torch.tensor([[5.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    found = clap_score(audio, text)
    assert found.value == pytest.approx((1 - 1 + math.sqrt(0.5)) / 3)
    assert found.num_samples == 3
    assert clap_score(audio, audio).value == pytest.approx(1)
    one_prompt = clap_score(audio, text[:1].expand(3, 2))  # one text for all is no mistake
    assert one_prompt.value == pytest.approx((1 + 0 + math.sqrt(0.5)) / 3)


def test_the_clap_score_refuses_windows_for_clips_and_zeros():
    with pytest.raises(ValueError, match="a CLAP score pairs rows, got 10 and 1"):
        clap_score(torch.ones(10, 4), torch.ones(1, 4))
    with pytest.raises(ValueError, match="the text embedding of row 1 is zero"):
        clap_score(torch.ones(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="NaN or infinite, first at row 1"):
        clap_score(torch.tensor([[1.0], [math.inf]]), torch.ones(2, 1))
    with pytest.raises(ValueError, match="width 3 and 2"):
        clap_score(torch.ones(2, 3), torch.ones(2, 2))


def test_the_paired_kl_in_closed_form_and_in_its_direction():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.1, 0.8])
    found = kl_of_classes(np.log([q]) + 7, np.log([p]) - 2)  # logits up to a constant
    assert found.value == pytest.approx((p * np.log(p / q)).sum())
    assert found.value != pytest.approx((q * np.log(q / p)).sum(), rel=0.05)
    assert found.parameters["direction"] == "KL(reference || generated)"


def test_right_classes_for_wrong_clips_are_seen_by_the_paired_kl_only():
    reference = np.eye(4) * 6.0
    generated = reference[::-1]
    assert kl_of_mean_classes(generated, reference).value == pytest.approx(0, abs=1e-12)
    p = np.exp(reference[0]) / np.exp(reference[0]).sum()
    assert kl_of_classes(generated, reference).value == pytest.approx(6 * (p[0] - p[1]))
    assert kl_of_classes(generated, reference).parameters != kl_of_mean_classes(generated, reference).parameters


def test_the_kl_of_means_is_below_the_paired_one_and_takes_sets_of_any_size():
    rng = np.random.default_rng(0)
    generated, reference = rng.normal(size=(2, 40, 10)) * 2
    assert 0 < kl_of_mean_classes(generated, reference).value < kl_of_classes(generated, reference).value
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (reference[:7], generated))
    expected = (p.mean(0) * np.log(p.mean(0) / q.mean(0))).sum()
    assert kl_of_mean_classes(generated, reference[:7]).value == pytest.approx(expected)
    with pytest.raises(ValueError, match="the paired KL pairs rows, got 40 and 7"):
        kl_of_classes(generated, reference[:7])


def test_sure_classifiers_give_a_finite_kl():
    reference, generated = np.array([[2000.0, 0.0]]), np.array([[0.0, 2000.0]])
    assert kl_of_classes(generated, reference).value == pytest.approx(2000)
    assert kl_of_mean_classes(generated, reference).value == pytest.approx(2000)
    with pytest.raises(ValueError, match="logits of generated clips of 1 samples are NaN"):
        kl_of_classes(np.array([[np.nan, 0.0]]), reference)

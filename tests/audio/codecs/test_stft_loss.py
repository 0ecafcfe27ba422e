import math

import pytest
import torch

from audio.codecs.stft_loss import MIN_POWER, RESOLUTIONS, Resolution, magnitudes, mid_side, multi_resolution_stft_loss

ONE = (Resolution(256, 64),)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equal_signals_have_no_distance():
    clips = noise(2, 2, 4096)
    assert multi_resolution_stft_loss(clips, clips.clone()).item() == 0


def test_a_change_of_level_by_the_closed_form():
    """At half the level: spectral convergence 1/2, log magnitudes differ by log 2, whatever the signal."""
    clips = noise(2, 1, 8192)
    assert multi_resolution_stft_loss(clips / 2, clips).item() == pytest.approx(0.5 + math.log(2), rel=1e-3)


def test_symmetric_in_the_logarithm_relative_in_the_convergence():
    clips = noise(2, 1, 8192)
    louder, softer = (multi_resolution_stft_loss(2 * clips, clips), multi_resolution_stft_loss(clips, 2 * clips))
    assert louder.item() - softer.item() == pytest.approx(0.5, rel=1e-3)
    other = noise(2, 1, 8192, seed=1)
    there, back = (multi_resolution_stft_loss(clips, other), multi_resolution_stft_loss(other, clips))
    assert there.item() == pytest.approx(back.item(), rel=0.05)


def test_a_tone_at_another_pitch_is_further_than_one_with_another_phase():
    time = 2 * math.pi * torch.arange(8192)[None, None] / 16000
    tone, shifted, higher = (0.5 * torch.sin(f * time + phase) for f, phase in ((440, 0), (440, 2), (520, 0)))
    assert multi_resolution_stft_loss(shifted, tone) < 0.5 * multi_resolution_stft_loss(higher, tone)


@pytest.mark.parametrize("silent", ["decoded", "reference", "both"])
def test_the_gradient_is_finite_in_silence(silent: str):
    signals = {"decoded": noise(2, 2, 4096), "reference": noise(2, 2, 4096, seed=1)}
    for name in signals if silent == "both" else [silent]:
        signals[name] = torch.zeros(2, 2, 4096)
    decoded = signals["decoded"].requires_grad_()
    loss = multi_resolution_stft_loss(decoded, signals["reference"])
    loss.backward()
    assert math.isfinite(loss.item())
    assert decoded.grad.isfinite().all()
    if silent == "reference":
        assert decoded.grad.abs().sum() > 0


def test_the_gradient_is_finite_at_equal_signals():
    decoded = noise(1, 1, 4096).requires_grad_()
    multi_resolution_stft_loss(decoded, decoded.detach().clone()).backward()
    assert decoded.grad.isfinite().all()


def test_a_silent_clip_of_a_batch_costs_no_more_than_its_share():
    loud, silent = noise(1, 1, 4096), torch.zeros(1, 1, 4096)
    decoded = torch.cat([loud, silent + 1e-4 * noise(1, 1, 4096, seed=1)])
    assert multi_resolution_stft_loss(decoded, torch.cat([loud, silent])) < 2


def test_magnitudes_have_the_spectrum_of_a_tone():
    tone = torch.sin(2 * math.pi * 32 / 256 * torch.arange(4096))[None, None]
    found = magnitudes(tone, ONE[0])
    assert found.shape == (1, 129, 4096 // 64 + 1)
    assert (found[0, :, 20].argmax(), found[0, 32, 20].item()) == (32, pytest.approx(64, rel=1e-3))
    assert found.min() >= MIN_POWER**0.5 * (1 - 1e-6)


def test_resolutions_that_do_not_fit_are_left_out():
    clips, other = noise(1, 1, 200), noise(1, 1, 200, seed=1)
    fitting = tuple(each for each in RESOLUTIONS if each.n_fft <= 256)
    assert len(fitting) < len(RESOLUTIONS)
    assert multi_resolution_stft_loss(clips, other) == multi_resolution_stft_loss(clips, other, fitting)
    with pytest.raises(ValueError, match="signals of 50 samples; needed: 65 or more"):
        multi_resolution_stft_loss(clips[..., :50], other[..., :50])


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2, 4096\) and \(1, 1, 4096\)"):
        multi_resolution_stft_loss(noise(1, 2, 4096), noise(1, 1, 4096))


def test_mid_and_side_keep_the_energy():
    clips = noise(2, 2, 100)
    torch.testing.assert_close(mid_side(clips).square().sum(1), clips.square().sum(1))
    centred = clips[:, :1].expand(-1, 2, -1)
    assert mid_side(centred)[:, 1].abs().max() == 0
    assert mid_side(clips[:, :1]) is not None and torch.equal(mid_side(clips[:, :1]), clips[:, :1])

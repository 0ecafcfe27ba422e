import math

import pytest
import torch

from audio.sounds.quality import (
    FLOOR_DB,
    log_mel_correlation,
    log_mel_db,
    log_mel_distance_db,
    si_snr_db,
    snr_db,
    spectral_distance,
)

RATE = 16000


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_snr_of_a_known_error():
    clips = noise(3, 2, 8000)
    factor = torch.tensor([0.9, 0.99, 0.999])[:, None, None]
    assert snr_db(clips, factor * clips).tolist() == pytest.approx([20, 40, 60], abs=1e-2)


def test_the_scale_invariant_ratio_forgives_level_and_nothing_else():
    clips, error = noise(2, 1, 8000), noise(2, 1, 8000, seed=1)
    error -= (error * clips).sum(2, keepdim=True) / clips.square().sum(2, keepdim=True) * clips  # at right angles
    error *= 0.1 * clips.norm(dim=2, keepdim=True) / error.norm(dim=2, keepdim=True)
    for level in (1.0, 0.3):
        assert si_snr_db(clips, level * (clips + error)).tolist() == pytest.approx([20, 20], abs=1e-3)
    assert snr_db(clips, 0.3 * (clips + error)).max() < 4


def test_equal_and_silent_clips_give_finite_numbers():
    clips = torch.cat([noise(1, 2, 4096), torch.zeros(1, 2, 4096)])
    assert snr_db(clips, clips)[0] > 90
    for measure in (snr_db, si_snr_db, spectral_distance):
        assert measure(clips, clips).isfinite().all()
    assert log_mel_distance_db(clips, clips, RATE).tolist() == [0, 0]
    assert log_mel_correlation(clips, clips, RATE).tolist() == pytest.approx([1, 0])


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_log_mel_distance_of_a_change_of_level(rate: int):
    clips = noise(2, 2, 16000)
    assert log_mel_distance_db(clips, clips * 10 ** (-6 / 20), rate).tolist() == pytest.approx([6, 6], abs=0.01)
    assert log_mel_correlation(clips, clips * 0.5, rate).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_the_front_end_in_absolute_numbers():
    """A sine at full scale shows as about 0 dB in its band; silence as the floor."""
    tone = torch.sin(2 * math.pi * 1000 / RATE * torch.arange(RATE))[None, None]
    assert abs(log_mel_db(tone, RATE).max().item()) < 2.5
    assert (log_mel_db(torch.zeros(1, 1, RATE), RATE) == FLOOR_DB).all()


def test_unrelated_clips_are_far_and_each_clip_is_measured_alone():
    tone = 0.3 * torch.sin(2 * math.pi * 440 / RATE * torch.arange(RATE))[None, None].expand(1, 2, -1)
    clips, decoded = torch.cat([tone, tone]), torch.cat([tone, noise(1, 2, RATE)])
    distance, correlation = log_mel_distance_db(clips, decoded, RATE), log_mel_correlation(clips, decoded, RATE)
    assert distance[0] == 0 and distance[1] > 20
    assert correlation[0] > 0.999 and correlation[1] < 0.5
    spectral = spectral_distance(clips, decoded)
    assert spectral[0] == 0 and spectral[1] > 1
    assert torch.equal(spectral[1:], spectral_distance(clips[1:], decoded[1:]))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2, 100\) and \(1, 2, 99\)"):
        snr_db(noise(1, 2, 100), noise(1, 2, 99))
    with pytest.raises(ValueError, match="needed"):
        log_mel_distance_db(noise(2, 100), noise(2, 100), RATE)

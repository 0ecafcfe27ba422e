"""Microsoft's CLAP: recorded embeddings of its own code, its windows, and refusals by name."""

import numpy as np
import pytest
import torch
from torch import nn

from audio.encoders.ms_clap import MEL_FILTERS, SAMPLE_RATE, MsClapFeatures, spectrogram
from audio.encoders.protocols import FADTK, ONE_WINDOW, pcm16
from audio.sounds.sound import Sound
from core.storage.atomic import sha256_file
from tests.audio.networks import Other, clip, ms_clap_state, save_ms_clap
from tests.golden_files import load_golden

BIAS = "audio_encoder.base.htsat.layers.0.blocks.0.mlp.fc1.bias"
LINEAR = "audio_encoder.projection.linear1.weight"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return save_ms_clap(tmp_path_factory.mktemp("ms_clap") / "CLAP_weights_2023.pth")


@pytest.fixture(scope="module")
def features(file):
    return MsClapFeatures(file)


def test_embeddings_and_spectrograms_are_those_of_its_own_code(features, file):
    """Of clips that are shorter than a window, and so repeated as its loader repeats them."""
    golden, sizes = load_golden("ms_clap")
    rows = [golden[f"clip.{number}"].float()[None] / 32768 for number in range(sizes["clips"])]
    found = features([Sound(row, sizes["sample_rate"]) for row in rows])["embedding"]
    torch.testing.assert_close(found, golden["embedding"], rtol=0, atol=2e-4)
    length = sizes["seconds"] * sizes["sample_rate"]
    first = rows[0][0].repeat(length // len(rows[0][0]) + 1)[:length]
    power = spectrogram(first[None], features.filters)[0, :: sizes["spectrogram_step"]]
    torch.testing.assert_close(power, golden["spectrogram"], rtol=0, atol=1e-3)
    assert features.weights_sha256 == sha256_file(file)


def test_one_window_is_the_middle_seven_seconds(features):
    sound = clip(10.0, SAMPLE_RATE)
    inner = Sound(sound.samples[:, 3 * SAMPLE_RATE // 2 : 17 * SAMPLE_RATE // 2], SAMPLE_RATE)
    found = features([sound, clip(2.0, 16_000, channels=2, seed=1)])["embedding"]
    assert found.shape == (2, load_golden("ms_clap")[1]["d_proj"]) and found.dtype == torch.float32
    torch.testing.assert_close(features([inner])["embedding"], found[:1], rtol=0, atol=1e-5)
    assert "central 7 s" in features.preprocessing and features.protocol.name == ONE_WINDOW.name


def test_fadtk_gives_a_row_for_every_second_with_zeros_at_the_end(file):
    features = MsClapFeatures(file, FADTK)
    sound = clip(8.5, SAMPLE_RATE)
    found = features([sound, clip(1.0, SAMPLE_RATE, seed=3)])["embedding"]
    assert len(found) == 10 and torch.equal(found, found.half().float())
    waveform = pcm16(sound.samples[0])[4 * SAMPLE_RATE :]
    window = nn.functional.pad(waveform, (0, 7 * SAMPLE_RATE - len(waveform)))
    with torch.no_grad():
        expected = features.network(spectrogram(window[None], features.filters))
    torch.testing.assert_close(found[4:5], expected.half().float(), rtol=0, atol=2e-3)


def test_what_is_no_such_file_is_refused_by_name(file, tmp_path):
    width = ms_clap_state()[LINEAR].shape[1]
    cases = {
        "of another shape": {LINEAR: torch.zeros(12, width + 1)},
        f"it lacks {LINEAR}": {LINEAR: None},
        "it lacks htsat": {BIAS: None},
        "unknown audio_encoder.projection.extra": {"audio_encoder.projection.extra": torch.zeros(2)},
        "other mel filters": {MEL_FILTERS: torch.rand(513, 64)},
        "NaN": {BIAS: torch.full_like(ms_clap_state()[BIAS], np.nan)},
        "it lacks audio_encoder.base.htsat.layers.0": {
            name: None for name in ms_clap_state() if name.startswith("audio_encoder.base.htsat.layers.")
        },
    }
    for said, changes in cases.items():
        with pytest.raises(ValueError, match=said) as error:
            MsClapFeatures(save_ms_clap(tmp_path / "spoilt.pth", **changes))
        assert "spoilt.pth" in str(error.value)
    with pytest.raises(ValueError, match="was given no clip"):
        MsClapFeatures(file)([])
    with pytest.raises(ValueError, match="clip 0 of 1: 3 of its"):
        samples = clip(1.0, SAMPLE_RATE).samples.clone()
        samples[0, :3] = np.nan
        MsClapFeatures(file)([Sound(samples, SAMPLE_RATE)])


def test_foreign_objects_in_the_file_are_refused(tmp_path):
    path = tmp_path / "foreign.pth"
    torch.save({"model": ms_clap_state(), "more": Other()}, path)
    with pytest.raises(ValueError, match=r"foreign\.pth"):
        MsClapFeatures(path)

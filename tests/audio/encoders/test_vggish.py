"""VGGish in its real size with random weights: names, order of axes, front end by hand, and refusals."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from audio.encoders.protocols import FADTK, ONE_WINDOW
from audio.encoders.vggish import VggishFeatures, VggishNetwork, examples_of, mel_matrix
from audio.sounds.sound import Sound
from core.storage.atomic import sha256_file
from tests.audio.networks import Other, clip, save_vggish


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vggish") / "vggish-10086976.pth"
    save_vggish(path)
    return path


@pytest.fixture(scope="module")
def vggish(file):
    return VggishFeatures(file)


def mel_by_hand(frequency):
    return 1127 * math.log(1 + frequency / 700)


def log_mel_by_hand(samples):
    """(L,) at 16 kHz -> (T, 64), in NumPy and loops."""
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * i / 400) for i in range(400)])
    starts = range(0, len(samples) - 399, 160)
    magnitude = np.stack([np.abs(np.fft.rfft(samples[start : start + 400] * window, 512)) for start in starts])
    edges = np.linspace(mel_by_hand(125), mel_by_hand(7500), 66)
    weights = np.zeros((257, 64))
    for k in range(1, 257):
        m = mel_by_hand(k * 8000 / 256)
        for band in range(64):
            low, centre, high = edges[band : band + 3]
            weights[k, band] = max(0, min((m - low) / (centre - low), (high - m) / (high - centre)))
    return np.log(magnitude @ weights + 0.01)


def test_the_front_end_by_hand():
    samples = clip(2.5, 16_000).samples[0]
    found = examples_of(samples)
    expected = log_mel_by_hand(samples.double().numpy())
    assert found.shape == (2, 96, 64) and found.dtype == torch.float32
    np.testing.assert_allclose(found.flatten(0, 1).numpy(), expected[:192], rtol=0, atol=1e-5)


def test_silence_is_the_log_of_the_offset():
    assert torch.equal(examples_of(torch.zeros(16_000)), torch.full((1, 96, 64), math.log(0.01)))


def test_the_mel_bands_cover_125_to_7500_hz_and_leave_out_the_constant():
    weights, frequency = mel_matrix(), torch.linspace(0, 8000, 257)
    heard = frequency[weights.sum(dim=1) > 0]
    assert 125 < heard.min() < 160 and 7440 < heard.max() < 7500
    assert weights.max() <= 1 and (weights >= 0).all()


@pytest.mark.parametrize(
    ("samples", "count"), [(1, 1), (15_600, 1), (16_000, 1), (30_959, 1), (30_960, 2), (160_000, 10), (159_753, 10)]
)
def test_every_whole_example_is_taken_and_a_short_clip_is_filled_to_a_second(vggish, samples, count):
    sound = Sound(0.1 * torch.ones(1, samples), 16_000)
    assert len(vggish._examples(sound, "it")) == count  # (samples - 400) // 160 + 1 frames, 96 an example
    if samples < 16_000:
        filled = examples_of(functional.pad(sound.samples[0], (0, 16_000 - samples)))
        assert torch.equal(vggish._examples(sound, "it"), filled)


def test_the_network_is_torchvggish_s(vggish):
    state = vggish.network.state_dict()
    convolutions = [f"features.{i}.{kind}" for i in (0, 3, 6, 8, 11, 13) for kind in ("weight", "bias")]
    assert list(state) == convolutions + [f"embeddings.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")]
    x = examples_of(clip(1.0, 16_000).samples[0])[:, None]
    for index, pooled in ((0, True), (3, True), (6, False), (8, True), (11, False), (13, True)):
        x = functional.relu(
            functional.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1)
        )
        x = functional.max_pool2d(x, 2) if pooled else x
    assert x.shape == (1, 512, 6, 4)
    flat = torch.stack([x[0, :, i, j] for i in range(6) for j in range(4)]).flatten()[None]  # time, mel, channel
    for index in (0, 2):
        flat = functional.relu(
            functional.linear(flat, state[f"embeddings.{index}.weight"], state[f"embeddings.{index}.bias"])
        )
    last = functional.linear(flat, state["embeddings.4.weight"], state["embeddings.4.bias"])
    found = vggish([clip(1.0, 16_000)])["embedding"]
    torch.testing.assert_close(found, last, rtol=1e-4, atol=1e-4)
    assert (found < 0).any()  # no last ReLU


def test_examples_of_all_clips_come_in_order(vggish):
    sounds = [clip(2.0, 16_000), clip(1.0, 16_000, seed=1)]
    found = vggish(sounds)["embedding"]
    assert found.shape == (3, 128) and found.dtype == torch.float32
    torch.testing.assert_close(found[2:], vggish(sounds[1:])["embedding"], rtol=1e-4, atol=1e-4)
    assert torch.pdist(found).min() > 1e-2


def test_stereo_at_another_rate_is_mixed_and_resampled(vggish):
    sound = clip(1.2, 44_100, channels=2)
    mono = Sound(ONE_WINDOW.waveform(sound, 16_000, "it")[None], 16_000)
    assert torch.equal(vggish([sound])["embedding"], vggish([mono])["embedding"])


def test_the_protocols_round_and_say_so(file, vggish):
    fadtk, sound = VggishFeatures(file, FADTK), clip(1.0, 16_000)
    found = fadtk([sound])["embedding"]
    assert torch.equal(found, found.half().float())
    expected = vggish([Sound(FADTK.waveform(sound, 16_000, "it")[None], 16_000)])["embedding"]
    assert torch.equal(found, expected.half().float())
    assert fadtk.facts() != vggish.facts()
    assert "fadtk" in fadtk.facts()["preprocessing"] and "one_window" in vggish.facts()["preprocessing"]
    for said in ("16000 Hz", "no PCA", "no last ReLU", "64 mels 125 to 7500 Hz", "96 frames"):
        assert said in vggish.facts()["preprocessing"]
    assert vggish.facts()["weights_sha256"] == sha256_file(file)


def test_the_pca_is_left_out_and_nothing_else(tmp_path, file):
    assert "pproc.pca_means" in torch.load(file, weights_only=True)
    with torch.device("meta"):
        shapes = VggishNetwork().state_dict()
    small = {name: torch.zeros(1) for name in shapes}
    for change, said in (
        ({"embeddings.6.weight": torch.zeros(1)}, "it has the unknown embeddings.6.weight"),
        ({"features.0.bias": None}, "it lacks features.0.bias"),
        ({}, r"of another shape: embeddings.0.bias \(1,\), needed \(4096,\)"),
    ):
        state = {name: value for name, value in (small | change).items() if value is not None}
        torch.save(state, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=said):
            VggishFeatures(tmp_path / "other.pth")


def test_damaged_foreign_and_absent_files_are_refused(tmp_path, file):
    cut = tmp_path / "cut.pth"
    with file.open("rb") as whole:
        cut.write_bytes(whole.read(1_000_000))
    with pytest.raises(ValueError, match="damaged or not a PyTorch file"):
        VggishFeatures(cut)
    torch.save({"weight": torch.zeros(1), "other": Other()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="it holds more than tensors and plain values"):
        VggishFeatures(tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="config key 'vggish': there is no file"):
        VggishFeatures(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match=r"vggish-10086976\.pth"):
        VggishFeatures(root=tmp_path)


def test_a_file_of_another_hash_is_not_taken_from_the_registry(tmp_path):
    place = tmp_path / "vggish" / "vggish-10086976.pth"
    place.parent.mkdir()
    torch.save({}, place)
    with pytest.raises(ValueError, match="10086976"):
        VggishFeatures(root=tmp_path)


def test_a_bad_clip_is_named(vggish):
    with pytest.raises(ValueError, match="clip 1 of 2: 1 of its 1 samples are NaN"):
        vggish([clip(1.0, 16_000), Sound(torch.full((1, 1), math.nan), 16_000)])
    with pytest.raises(ValueError, match="vggish was given no clip"):
        vggish([])

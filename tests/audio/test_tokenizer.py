"""Tokenizers of sound: which network a config means, how latents are scaled, and that random weights are found out."""

import json

import pytest
import torch

from audio.codecs.scaling import ClipMeasurement, check_trained
from audio.data import clip_format
from audio.datasets.folder import FolderConfig, FolderDataset
from audio.datasets.notes import NotesConfig, NotesDataset
from audio.tokenizer import ConvOobleckConfig, SpectralTokenizerConfig, StableAudioConfig
from audio.train_tokenizer import ENTRY as TRAIN_TOKENIZER
from audio.train_tokenizer import AudioFitting
from core.draws import StepRandom
from core.latents.scaling import MeasuredLatents, Scaling
from tests.audio.audio_files import music, write_sound
from tests.end_to_end.toys.audio import HOP, RATE, save_vae

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return save_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def few_notes():
    config = NotesConfig(num_notes=36)
    return NotesDataset(config, clip_format(config, 256, 1))


def stable(vae, **options):
    return StableAudioConfig(path=str(vae), subfolder="", **options)


def test_stable_audio_codes_ten_seconds_as_215_frames():
    clip = clip_format(type("Data", (), {"sample_rate": 44100, "channels": 2, "seconds": 10.0}), 2048, 1)
    assert (clip.num_tokens, clip.num_samples) == (215, 440_320)


def test_scaled_latents_have_mean_0_and_deviation_1_in_each_channel(few_notes):
    tokenizer, known = SpectralTokenizerConfig(griffin_lim_iterations=1).build(16000, 2, CPU)
    assert known is None
    found = ClipMeasurement(tokenizer, few_notes).measure()
    scaled = tokenizer.scaled(Scaling.of(found.mean, found.std))
    latents = scaled.encode(few_notes.media, StepRandom(0, 0))
    torch.testing.assert_close(latents.mean((0, 2)), torch.zeros(65), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2)), torch.ones(65), atol=1e-2, rtol=0)
    moments = torch.stack(tokenizer.moments(few_notes.media))
    assert torch.equal(torch.stack(scaled.moments(few_notes.media)), moments)  # what a cache keeps is not scaled
    torch.testing.assert_close(scaled.decode(latents[:2]), tokenizer.decode(moments[0][:2]), atol=1e-3, rtol=0)


def test_constants_say_all_that_latents_depend_on(vae):
    tokenizer, _ = stable(vae).build(RATE, 2, CPU)
    constants = tokenizer.constants()
    assert (constants["kind"], constants["downsample"], constants["sample_rate"]) == ("stable_audio", HOP, RATE)
    assert constants["path"] == vae.name and len(constants["sha256"]) == 64
    other, _ = SpectralTokenizerConfig(bands=40).build(16000, 2, CPU)
    same, _ = SpectralTokenizerConfig(bands=40, decode_batch=3).build(16000, 2, CPU)
    assert other.constants()["sha256"] == same.constants()["sha256"] != constants["sha256"]
    changed, _ = SpectralTokenizerConfig(bands=41).build(16000, 2, CPU)
    assert changed.constants()["sha256"] != other.constants()["sha256"]


@pytest.mark.parametrize("seconds", [0.01, 0.05])
def test_chunks_equal_the_whole_clip(vae, seconds):
    sound = torch.from_numpy(music(1024 / RATE, RATE, 2))[None]
    whole, _ = stable(vae).build(RATE, 2, CPU)
    chunked, _ = stable(vae, chunk_seconds=seconds).build(RATE, 2, CPU)
    for a, b in zip(whole.moments(sound), chunked.moments(sound), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    latents = whole.moments(sound)[0]
    torch.testing.assert_close(whole.decode(latents), chunked.decode(latents), atol=1e-5, rtol=1e-5)


def test_numbers_in_the_config_win(vae):
    mean, std = [0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 4.0, 8.0]
    _, known = stable(vae, latent_mean=mean, latent_std=std).build(RATE, 2, CPU)
    assert known == Scaling(mean, [1.0, 0.5, 0.25, 0.125])


@pytest.mark.parametrize(
    ("rate", "channels", "words"),
    [(16000, 2, f"data.sample_rate is 16000; the tokenizer takes {RATE} Hz"), (RATE, 1, "data.channels is 1")],
)
def test_clips_of_another_format_are_refused(rate, channels, words, vae):
    with pytest.raises(ValueError, match=words):
        stable(vae).build(rate, channels, CPU)


def test_what_was_measured_is_kept_and_damage_is_named(few_notes, tmp_path):
    tokenizer, _ = SpectralTokenizerConfig(griffin_lim_iterations=1).build(16000, 2, CPU)
    first = ClipMeasurement(tokenizer, few_notes).cached(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_items": 7}))
    assert (
        ClipMeasurement(tokenizer, few_notes).cached(tmp_path).num_items == 7 != first.num_items
    )  # read, not measured again
    file.write_text("{")
    with pytest.raises(ValueError, match=r"latents-.*json is damaged, delete it"):
        ClipMeasurement(tokenizer, few_notes).cached(tmp_path)


def test_padding_is_not_measured(tmp_path):
    """A short file among others moves no statistic by the silence behind it."""
    write_sound(tmp_path / "a" / "long.wav", music(1.0, 16000, 2, seed=0), 16000)
    config = FolderConfig(root=str(tmp_path / "a"), seconds=0.512, sample_rate=16000, cache_dir=None, min_seconds=0.1)
    clip = clip_format(config, 256, 1)
    tokenizer, _ = SpectralTokenizerConfig(griffin_lim_iterations=1).build(16000, 2, CPU)
    write_sound(tmp_path / "a" / "short.wav", music(0.256, 16000, 2, seed=1), 16000)
    data = FolderDataset(config, clip)
    measurement = ClipMeasurement(tokenizer, data)
    whole = [tokenizer.moments(data.clip_at(index)[None])[0] for index in range(2)]
    parts = [measurement.without_padding(index, moment)[0] for index, moment in enumerate(whole)]
    assert sorted(part.shape[-1] for part in parts) == [16, 32]
    found = measurement.measure()
    torch.testing.assert_close(torch.tensor(found.mean), torch.cat(parts, dim=1).mean(1), atol=1e-5, rtol=1e-5)


def test_random_weights_are_found_out(vae, few_notes):
    trained, _ = SpectralTokenizerConfig(griffin_lim_iterations=4).build(16000, 2, CPU)
    assert ClipMeasurement(trained, few_notes).measure().correlation > 0.9
    random_vae = save_vae(vae.parent / "rate16k", sample_rate=16000)
    tokenizer, _ = stable(random_vae).build(16000, 2, CPU)
    found = ClipMeasurement(tokenizer, few_notes).measure()
    with pytest.raises(ValueError, match="Are its weights random"):
        check_trained(stable(random_vae), found)
    check_trained(stable(random_vae, allow_untrained=True), found)


def test_a_vae_trained_for_minutes_passes():
    check_trained(ConvOobleckConfig(), MeasuredLatents([0.0], [1.0], correlation=0.26, num_items=8))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    place = tmp_path_factory.mktemp("own")
    words = ["steps=2", "batch_size=2", "data.num_notes=60", "heldout_clips=6", "autoencoder.width=2", "device=cpu"]
    return TRAIN_TOKENIZER.main(TRAIN_TOKENIZER.config([*words, "autoencoder.latent_channels=3", f"runs_dir={place}"]))


def test_a_training_leaves_weights_numbers_a_picture_and_sounds(own):
    assert {file.name for file in own.iterdir()} == AudioFitting.files()
    metrics = json.loads((own / "metrics.json").read_text())
    assert metrics["spectral"]["log_mel_distance_db"] < metrics["conv_oobleck"]["log_mel_distance_db"]
    assert metrics["heldout_clips"] == 6


def test_our_own_vae_brings_its_scaling(own):
    tokenizer, known = ConvOobleckConfig(path=str(own)).build(16000, 2, CPU)
    saved = json.loads((own / "config.json").read_text())
    assert known.shift == saved["latent_mean"] and len(known.scale) == 3
    assert tokenizer.latent_shape((2, 16384)) == (3, 64)


def test_a_trained_tokenizer_is_not_overwritten(own):
    words = ["steps=1", "data.num_notes=60", f"runs_dir={own.parents[1]}"]
    with pytest.raises(ValueError, match="holds a trained tokenizer and is left as it is: overwrite=true"):
        TRAIN_TOKENIZER.main(TRAIN_TOKENIZER.config(words))

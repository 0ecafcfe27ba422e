"""CLAP from both formats: the same network whichever file it stood in, the right windows, and refusals by name.

LAION's file is written by an inverse map of its own, from transformers' names to LAION's: tests.audio.networks.
"""

import json
import shutil

import librosa
import numpy as np
import pytest
import torch
import transformers
from torch import nn

from audio.encoders.clap import LAION_PREPROCESSOR, ClapFeatures, ClapSource
from audio.encoders.protocols import FADTK, ONE_WINDOW, laion_int16, pcm16
from audio.sounds.sound import Sound
from core.storage.atomic import sha256_file
from tests.audio.networks import (
    TEXTS,
    Other,
    clap_config,
    clip,
    laion_state,
    own,
    random_network,
    rename_in_pickle,
    save_clap,
    save_laion,
    save_roberta_tokenizer,
)

CLIPS = [clip(10.0), clip(3.2, 44_100, channels=2, seed=1), clip(11.0, 16_000, seed=2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("clap")
    save_clap(place)
    return place


@pytest.fixture(scope="module")
def network(folder):
    return transformers.ClapModel.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def laion(tmp_path_factory, network):
    file = save_laion(tmp_path_factory.mktemp("laion") / "music.pt", network)
    save_roberta_tokenizer(file.parent)
    return file


@pytest.fixture(scope="module")
def from_folder(folder):
    return ClapFeatures(ClapSource("clap", folder))


@pytest.fixture(scope="module")
def from_laion(laion):
    return ClapFeatures(ClapSource("clap", laion))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


# --- features


def test_a_directory_gives_what_transformers_own_pipeline_gives(from_folder, folder, network):
    sound = clip(3.0)
    extractor = transformers.ClapFeatureExtractor.from_pretrained(folder)
    heard = extractor([sound.samples[0].numpy()], sampling_rate=48_000, return_tensors="pt")
    with torch.no_grad():
        states = network.audio_model(input_features=heard["input_features"].float()).pooler_output
        expected = nn.functional.normalize(network.audio_projection(states), dim=-1)
    found = from_folder([sound])
    assert found.keys() == {"embedding"}
    torch.testing.assert_close(found["embedding"], expected, rtol=0, atol=0)


def test_one_window_gives_one_row_a_clip_of_length_one(from_folder):
    found = from_folder(CLIPS)["embedding"]
    assert found.shape == (3, 512) and found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert torch.pdist(found).min() > 1e-3  # the clips are told apart
    for i, sound in enumerate(CLIPS):  # and do not depend on their neighbours
        torch.testing.assert_close(from_folder([sound])["embedding"][0], found[i], rtol=0, atol=1e-5)


def test_a_longer_clip_is_heard_in_its_middle(from_folder):
    sound = clip(12.0)
    inner = Sound(sound.samples[:, 48_000 : 11 * 48_000], 48_000)
    assert torch.equal(from_folder([sound])["embedding"], from_folder([inner])["embedding"])


def test_fadtk_gives_a_row_for_every_second_in_float16(folder):
    features = ClapFeatures(ClapSource("clap", folder), FADTK)
    sounds = [clip(2.5), clip(1.0, seed=3)]
    found = features(sounds)["embedding"]
    assert found.shape == (4, 512)
    assert torch.equal(found, found.half().float())
    waveform = laion_int16(pcm16(sounds[0].samples[0]))
    last = nn.functional.pad(waveform[96_000:], (0, 480_000 - 24_000))
    heard = features.mel([last.numpy()], sampling_rate=48_000, return_tensors="pt")["input_features"].float()
    with torch.no_grad():
        expected = features.network.get_audio_features(input_features=heard).pooler_output
    torch.testing.assert_close(found[2:3], expected.half().float(), rtol=0, atol=1e-4)


def test_windows_go_through_the_network_in_parts(folder):
    features = ClapFeatures(ClapSource("clap", folder), FADTK)
    sound = clip(18.0)
    assert features([sound])["embedding"].shape == (18, 512)


# --- LAION's file


def test_laion_s_file_is_the_same_network_bit_for_bit(from_folder, from_laion):
    quantised = [Sound(laion_int16(sound.samples[0])[None], 48_000) for sound in (clip(10.0), clip(4.0, seed=5))]
    spectrograms = from_folder.mel([quantised[0].samples[0].numpy()], sampling_rate=48_000, return_tensors="pt")
    heard = spectrograms["input_features"].float()
    with torch.no_grad():
        ours, theirs = (
            f.network.get_audio_features(input_features=heard).pooler_output for f in (from_laion, from_folder)
        )
    assert torch.equal(ours, theirs)
    assert torch.equal(from_laion.text_embedding(TEXTS), from_folder.text_embedding(TEXTS))
    mine, other = from_laion.network.state_dict(), from_folder.network.state_dict()
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_laion_s_file_hears_int16_and_says_so(from_laion, from_folder):
    sound = clip(5.0, seed=6)
    quantised = Sound(laion_int16(sound.samples[0])[None], 48_000)
    assert torch.equal(from_laion([sound])["embedding"], from_folder([quantised])["embedding"])
    assert "int16" in from_laion.preprocessing and "int16" not in from_folder.preprocessing


def test_the_front_end_is_torchlibrosa_s_log_mel_spectrogram(from_laion):
    waveform = clip(10.0).samples[0].numpy()
    found = from_laion.mel([waveform], sampling_rate=48_000, return_tensors="np")["input_features"][0][0]
    settings = {"sr": 48_000, "n_fft": 1024, "hop_length": 480, "n_mels": 64, "fmin": 50, "fmax": 14_000}
    power = librosa.feature.melspectrogram(y=waveform, pad_mode="reflect", **settings)
    expected = 10 * np.log10(np.maximum(power, 1e-10)).T
    assert found.shape == (1001, 64)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_file_with_other_mel_filters_is_refused(tmp_path, network):
    other = librosa.filters.mel(sr=48_000, n_fft=1024, n_mels=64, fmin=0, fmax=14_000)
    add = {"audio_branch.logmel_extractor.melW": torch.from_numpy(other.T.copy())}
    with pytest.raises(ValueError, match="has other mel filters than"):
        ClapFeatures(ClapSource("clap", save_laion(tmp_path / "mel.pt", network, add=add)))


def test_a_rate_pickled_by_numpy_1_is_read_too(laion, tmp_path):
    old = shutil.copy(laion, tmp_path / "old.pt")
    rename_in_pickle(old, b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in old.read_bytes() and b"numpy._core" not in old.read_bytes()
    assert ClapFeatures(ClapSource("clap", old)).weights_sha256 == sha256_file(old)


def test_missing_and_unknown_tensors_are_named(tmp_path, network):
    lacking = save_laion(tmp_path / "a.pt", network, drop=["audio_branch.layers.0.blocks.1.mlp.fc1.bias"])
    with pytest.raises(
        ValueError, match=r"it lacks audio_model.audio_encoder.layers.0.blocks.1.intermediate.dense.bias"
    ):
        ClapFeatures(ClapSource("clap", lacking))
    more = save_laion(tmp_path / "b.pt", network, add={"audio_branch.absolute_pos_embed": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"it has the unknown audio_branch.absolute_pos_embed"):
        ClapFeatures(ClapSource("clap", more))
    narrow = save_laion(tmp_path / "c.pt", network, add={"audio_projection.0.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"of another shape: audio_projection.linear1.bias \(3,\), needed \(512,\)"):
        ClapFeatures(ClapSource("clap", narrow))
    headless = save_laion(tmp_path / "d.pt", network, drop=["audio_branch.norm.weight"])
    with pytest.raises(ValueError, match=r"is no CLAP of LAION: it lacks audio_branch\.norm\.weight"):
        ClapFeatures(ClapSource("clap", headless))


def test_a_file_that_is_no_clap_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is no CLAP of LAION: it lacks audio_branch"):
        ClapFeatures(ClapSource("clap", tmp_path / "other.pt"))
    (tmp_path / "cut.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:-200])
    with pytest.raises(ValueError, match="damaged or not a PyTorch file"):
        ClapFeatures(ClapSource("clap", tmp_path / "cut.pt"))


def test_foreign_objects_are_refused_and_not_executed(tmp_path, network):
    file = tmp_path / "evil.pt"
    torch.save({"state_dict": laion_state(network), "args": Other()}, file)
    with pytest.raises(ValueError, match="it holds more than tensors and plain values"):
        ClapFeatures(ClapSource("clap", file))
    torch.save({"state_dict": laion_state(network), "array": np.array([object()])}, file)
    with pytest.raises(ValueError, match="it holds more than tensors and plain values"):
        ClapFeatures(ClapSource("clap", file))


def test_a_fused_file_is_refused_by_the_tensor_that_shows_it(tmp_path):
    fused = random_network(transformers.ClapModel, clap_config(fusion=True))
    convolution = fused.audio_model.audio_encoder.patch_embed.mel_conv2d
    file = save_laion(tmp_path / "fused.pt", fused, add=own("audio_branch.patch_embed.mel_conv2d", convolution))
    with pytest.raises(ValueError, match=r"is a fused CLAP \(audio_branch.patch_embed.mel_conv2d"):
        ClapFeatures(ClapSource("clap", file))
    plain = random_network(transformers.ClapModel, clap_config())
    four = {"audio_branch.patch_embed.proj.weight": torch.zeros(16, 4, 4, 4)}
    with pytest.raises(ValueError, match=r"proj\.weight with 4 channels"):
        ClapFeatures(ClapSource("clap", save_laion(tmp_path / "map.pt", plain, add=four)))


# --- the registry


def test_htsat_tiny_comes_from_the_registry_and_another_network_does_not(tmp_path, network):
    config = clap_config(width=96, depths=(2, 2, 6, 2))
    config.audio_config.num_attention_heads = [4, 8, 16, 32]
    file = tmp_path / "weights" / "clap-audio" / "630k-audioset-best.pt"
    tiny = random_network(transformers.ClapModel, config)
    save_laion(file, tiny)
    source = ClapSource("clap-audio", root=tmp_path / "weights")
    features = ClapFeatures(source)
    found = features([clip(1.0)])["embedding"]
    assert found.shape == (1, 512) and features.facts()["name"] == "clap-audio"
    assert features.weights_sha256 == sha256_file(file)
    with pytest.raises(ValueError, match=r"texts need RoBERTa's tokenizer\.json"):
        features.text_embedding(TEXTS)
    other = save_laion(tmp_path / "other.pt", network)
    with pytest.raises(ValueError, match=r"is not clap-audio: HTSAT of width 16 and depths \[2, 2\], needed 96"):
        ClapFeatures(ClapSource("clap-audio", other))


def test_absent_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"music_audioset_epoch_15_esc_90\.14\.pt"):
        ClapFeatures(ClapSource("clap-music", root=tmp_path))
    with pytest.raises(ValueError, match="there is no file or directory"):
        ClapFeatures(ClapSource("clap", tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="allowed: clap-music, clap-audio, clap"):
        ClapSource("laion")
    with pytest.raises(ValueError, match="there is no path"):
        ClapSource("clap")


# --- directories that are not what they should be


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name}"):
        ClapFeatures(ClapSource("clap", copy))


def test_a_truncated_file_is_named(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        ClapFeatures(ClapSource("clap", copy))
    (copy / "preprocessor_config.json").write_text('{"feature_size": 64,')
    with pytest.raises(ValueError, match=r"damaged"):
        ClapFeatures(ClapSource("clap", copy))


def test_weights_that_would_stay_random_are_named(copy, network):
    from safetensors.torch import load_file, save_file

    state = load_file(copy / "model.safetensors")
    del state["audio_model.audio_encoder.norm.weight"]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks the weights audio_model\.audio_encoder\.norm\.weight"):
        ClapFeatures(ClapSource("clap", copy))


def change(folder, **settings):
    file = folder / "preprocessor_config.json"
    said = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))
    return folder


def test_the_preprocessor_s_own_settings_are_read_and_not_assumed(copy, from_folder):
    features = ClapFeatures(ClapSource("clap", change(copy, frequency_min=200, padding="pad")))
    assert "200 to 14000 Hz" in features.preprocessing and "shorter windows by pad" in features.preprocessing
    sound = clip(2.0)
    assert not torch.allclose(features([sound])["embedding"], from_folder([sound])["embedding"], atol=1e-4)
    assert features.facts() != from_folder.facts()
    with pytest.raises(ValueError, match=r"does not say frequency_min, truncation"):
        ClapFeatures(ClapSource("clap", change(copy, frequency_min=None, truncation=None)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"truncation": "fusion"}, "is a fused CLAP .enable_fusion False, truncation fusion"),
        ({"sampling_rate": 96_000}, "makes 2001 of 64 at a rate of 96000 Hz"),
        ({"max_length_s": 5}, "hears 5 s at 48000 Hz, the protocol one_window cuts 10 s"),
        ({"feature_size": 32}, "its preprocessor makes 1001 of 32"),
    ],
)
def test_a_preprocessor_that_does_not_fit_is_refused(copy, settings, said):
    with pytest.raises(ValueError, match=said):
        ClapFeatures(ClapSource("clap", change(copy, **settings)))


def test_a_fused_directory_is_refused(tmp_path):
    save_clap(tmp_path, fusion=True)
    with pytest.raises(ValueError, match=r"is a fused CLAP \(enable_fusion True, truncation fusion"):
        ClapFeatures(ClapSource("clap", tmp_path))


# --- clips, texts, facts


def test_a_bad_clip_is_named(from_folder):
    bad = Sound(torch.full((1, 48_000), float("inf")), 48_000)
    with pytest.raises(ValueError, match="clip 1 of 2: 48000 of its 48000 samples are NaN or infinite"):
        from_folder([clip(1.0), bad])
    with pytest.raises(ValueError, match="was given no clip"):
        from_folder([])


def test_texts_are_projected_normalised_and_independent_of_padding(from_folder, network, folder):
    found = from_folder.text_embedding(TEXTS)
    assert found.shape == (4, 512)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    alone = torch.cat([from_folder.text_embedding([text]) for text in TEXTS])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
    tokenizer = transformers.RobertaTokenizer.from_pretrained(folder)
    tokens = tokenizer(TEXTS[:1], return_tensors="pt")
    assert tokens["input_ids"][0, 0] == 0 and tokens["input_ids"][0, -1] == 2  # <s> ... </s>
    with torch.no_grad():
        pooled = network.text_model(**tokens).pooler_output
        expected = nn.functional.normalize(network.text_projection(pooled), dim=-1)
    torch.testing.assert_close(alone[:1], expected, rtol=0, atol=1e-6)


def test_a_long_text_is_cut_at_77_tokens(from_folder, network):
    long = "zq drum " * 60
    tokens = from_folder.tokenizer()(long)["input_ids"]
    assert len(tokens) > 100
    cut = torch.tensor([[*tokens[:76], tokens[-1]]])  # </s> stays the last
    with torch.no_grad():
        expected = network.get_text_features(input_ids=cut).pooler_output
    torch.testing.assert_close(from_folder.text_embedding([long]), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(from_folder.text_embedding(["zq drum " * 10]), expected, atol=1e-4)


def test_a_tokenizer_of_another_network_is_refused(copy, tmp_path):
    features = ClapFeatures(ClapSource("clap", copy, tokenizer=tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"texts need RoBERTa's tokenizer\.json"):
        features.text_embedding(TEXTS)
    file = copy / "tokenizer.json"
    file.write_text(file.read_text()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        ClapFeatures(ClapSource("clap", copy)).text_embedding(TEXTS)
    with pytest.raises(ValueError, match="was given no text"):
        features.text_embedding([])


def test_the_facts_name_weights_protocol_and_front_end(from_folder, folder, from_laion):
    facts = from_folder.facts()
    assert facts["name"] == "clap" and len(facts["weights_sha256"]) == 64
    for said in (
        "one_window",
        "sinc_interp_hann",
        "48000 Hz",
        "64 slaney mels 50 to 14000 Hz",
        "repeatpad",
        "length 1",
    ):
        assert said in facts["preprocessing"]
    other = ClapFeatures(ClapSource("clap", folder), FADTK).facts()
    assert other["weights_sha256"] == facts["weights_sha256"] and other != facts
    assert "fadtk" in other["preprocessing"] and "every 1 s" in other["preprocessing"]
    assert ONE_WINDOW.name in from_laion.facts()["preprocessing"]
    assert LAION_PREPROCESSOR["frequency_min"] == from_laion.mel.frequency_min


def test_without_transformers_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"clap needs the extra 'eval': pip install 'layersync\[eval\]'"):
        ClapFeatures(ClapSource("clap", folder))

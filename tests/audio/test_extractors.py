"""Extractors of sound through the command: an audio classifier of transformers, and texts beside clips."""

import json

import pytest
import torch
import transformers

from audio.encoders.classes import ClassifierFeatures
from audio.sounds.sound import Sound
from tests.audio.audio_files import music
from tests.audio.evaluations import clips, measured
from tests.audio.networks import random_network, save_clap


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A random audio spectrogram transformer of five classes, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("ast")
    config = transformers.ASTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_length=64, num_labels=5
    )
    random_network(transformers.ASTForAudioClassification, config).save_pretrained(folder)
    transformers.ASTFeatureExtractor(max_length=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return clips(root / "real", 4), clips(root / "made", 4, seed=1)


def test_a_classifier_gives_one_row_of_logits_for_each_clip(classifier):
    network = ClassifierFeatures(classifier)
    sounds = [Sound(torch.from_numpy(music(seconds, rate, 2)), rate) for seconds, rate in ((0.5, 16000), (3.0, 44100))]
    logits = network(sounds)["logits"]
    assert logits.shape == (2, 5)
    torch.testing.assert_close(network(sounds[1:])["logits"], logits[1:], rtol=1e-4, atol=1e-5)


def test_pairs_of_files_have_a_divergence(classifier, folders, tmp_path):
    words = [f"real={folders[0]}", "features=classifier", f"classifier={classifier}", "metrics=[kl,kl_mean]"]
    found = measured(f"samples={folders[1]}", *words, out=tmp_path / "out")
    assert found["classifier/kl"].value > 0 and found["classifier/kl"].num_samples == 4
    same = measured(f"samples={folders[0]}", *words, out=tmp_path / "same")
    assert set(same) == {"classifier/kl", "classifier/kl_mean"}
    assert [record.value for record in same.values()] == pytest.approx([0, 0], abs=1e-9)


def test_clips_are_scored_against_their_texts(folders, tmp_path):
    clap = tmp_path / "clap"
    save_clap(clap)
    words = [f"real={folders[0]}", f"samples={folders[1]}", f"clap={clap}", "metrics=[clap_score]"]
    found = measured(*words, 'prompts=["a slow piano","a loud drum"]', out=tmp_path / "out")["clap/clap_score"]
    assert -1 <= found.value <= 1 and found.num_samples == 4
    other = measured(*words, 'prompts=["rain"]', out=tmp_path / "other")["clap/clap_score"]
    assert other.value != found.value


def test_what_is_no_classifier_is_refused(folders, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    words = [f"real={folders[0]}", f"samples={folders[1]}", "features=classifier", f"classifier={tmp_path}"]
    with pytest.raises(ValueError, match="classifier"):
        measured(*words, out=tmp_path / "out")

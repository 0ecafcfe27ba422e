"""Runs on files of sound: conditions of four kinds, other lengths, rates and channels, files that are left out."""

import json

import pytest
import soundfile

from core.storage.lines import read_lines
from tests.audio.audio_files import music, write_sound
from tests.audio.networks import save_t5
from tests.end_to_end.commands import call, is_one_line_error
from tests.end_to_end.toys.audio import HOP, RATE, empty, on_files, save_vae, text, write_music
from tests.end_to_end.toys.contract import SMALL, changed

RUN = "runs/audio/notes"
FEW = ("trainer.steps=2", "alignment=none", "evaluation=none", "data.window=random", "trainer.num_workers=0")


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return save_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that the user is in, with music in `files`."""
    monkeypatch.chdir(tmp_path)
    write_music(tmp_path / "files")
    return tmp_path


@pytest.fixture
def words(vae, place):
    """The words of a small run on the files with some changes."""
    return lambda *changes: changed((*SMALL, *on_files("files", vae), *FEW), changes)


@pytest.fixture
def train(words):
    def train(*changes):
        outcome = call("audio.train", *words(*changes))
        assert outcome.code == 0, outcome
        return outcome

    return train


def sample(*arguments):
    return call("audio.sample", f"run={RUN}", "device=cpu", *arguments)


def asked(out):
    """What the samples in a folder were asked to be."""
    return list(json.loads((out / "wav" / "conditions.json").read_text()).values())


def test_samples_may_be_shorter_than_the_clips(train, place):
    train()
    assert sample("num=1", "seconds=0.05").code == 0
    samples, rate = soundfile.read(place / RUN / "samples" / "ema_all_0.05s_seed0" / "wav" / "000000.wav")
    assert (samples.shape, rate) == ((int(0.05 * RATE) // HOP * HOP, 2), RATE)
    is_one_line_error(sample("num=1", "seconds=9"), "seconds is 9; the model makes clips of 0.004 to 0.128 s")
    is_one_line_error(sample("num=1", "labels=calm"), "labels is 'calm', but the model knows other conditions")


def test_folders_are_classes_asked_for_by_name(train, place):
    train("data.classes=folders", "conditioning=labels", "trainer.num_previews=2")
    assert {file.name.partition("_00_")[2] for file in (place / RUN / "previews").glob("*_00_*.wav")} == {"calm.wav"}
    assert sample("num=2", "labels=[loud,0]", "out=asked").code == 0
    assert asked(place / "asked") == ["loud", "calm"]
    is_one_line_error(sample("labels=quiet"), "labels has 'quiet', which the model does not know; of its 2: calm, loud")


def test_tags_of_jamendo(train, place):
    train("data=jamendo", *on_files("files", "")[1:6], "data.tsv=files/split.tsv", "conditioning=tags")
    assert sample("num=1", "tags=[genre---rock,instrument---piano]", "out=asked").code == 0
    (title,) = asked(place / "asked")
    assert "rock" in title and "piano" in title
    is_one_line_error(sample("tags=[genre---rok]"), "tags has 'genre---rok', ", " genre---rock")


def test_captions_through_a_text_encoder(train, place):
    save_t5(place / "t5")
    for number, caption in enumerate(("a slow piano", "a loud drum", "a slow piano")):
        write_sound(place / "files" / f"{number}.wav", music(0.4, RATE, 2, seed=number), RATE)
        (place / "files" / f"{number}.txt").write_text(caption)
    for folder in ("calm", "loud"):
        (place / "files" / folder).rename(place / folder)
    own = ["conditioning.path=t5", "conditioning.encoder=t5", 'conditioning.prompts=["a loud drum"]']
    train("data.captions=txt", "conditioning=text", *own)
    assert sample("num=2", 'prompts=["a slow piano"]', "out=asked").code == 0
    assert asked(place / "asked") == ["a slow piano"] * 2
    assert len(list((place / "asked" / "wav").glob("*.wav"))) == 2


@pytest.mark.parametrize(
    ("rate", "channels", "vae_rate", "seconds"), [(8000, 1, 44100, 0.025), (48000, 6, RATE, 0.128)]
)
def test_other_rates_and_channels_are_brought_to_the_tokenizers(train, place, rate, channels, vae_rate, seconds):
    for number in range(3):
        write_sound(place / "own" / f"{number}.wav", music(0.3, rate, channels, number), rate)
    own = save_vae(place / "vae", sample_rate=vae_rate)
    train(f"tokenizer.path={own}", f"data.sample_rate={vae_rate}", f"data.seconds={seconds}", "data.root=own")
    assert all(0.5 < line["flow_loss"] < 5 for line in read_lines(place / RUN / "metrics.jsonl"))


def test_several_broken_files_are_one_line_and_can_be_allowed(train, words, place):
    text(place / "files"), empty(place / "files")
    told = ("broken audio files: 2, data.max_broken is 1", "song.flac", "song.mp3")
    is_one_line_error(call("audio.train", *words("data.max_broken=1")), *told)
    assert train("data.max_broken=2").err.count("left out: audio file") == 2

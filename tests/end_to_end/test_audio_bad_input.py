"""What a user can get wrong with sound: exit code 2 and one line on the screen; and odd files that work by rule."""

import shutil

import numpy as np
import pytest
import soundfile

from core.storage.lines import read_lines
from tests.audio.audio_files import music, write_mp3, write_sound
from tests.end_to_end.audio_runs import RATE, RUN, clips, notes, save_vae
from tests.end_to_end.image_runs import Inside, is_one_line_error

FEW = ["trainer.steps=2", "trainer.num_previews=1", "trainer.preview_every=0"]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A random VAE."""
    return save_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture
def root(tmp_path):
    """A folder of three sounds of half a second."""
    for number in range(3):
        write_sound(tmp_path / "sounds" / f"{number}.wav", music(0.5, RATE, 2, number), RATE)
    return tmp_path / "sounds"


@pytest.fixture
def inside(capsys, tmp_path, monkeypatch):
    """An entry in this process, called in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return Inside(capsys)


@pytest.fixture
def train(inside, root, vae):
    """`python -m audio.train` on the folder."""
    return lambda *args: inside("audio.train", *clips(root, vae, *FEW, *args))


# --- files


def text(root):
    (root / "song.mp3").write_text("these are the lyrics")
    return ["song.mp3", "not recognised"]


def empty(root):
    (root / "song.flac").touch()
    return ["song.flac", "it is empty (0 bytes)"]


def cut_off(root):
    path = write_mp3(root / "song.mp3", music(3, 44100, 2), 44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    return ["song.mp3", "it ends before sample", "truncated?"]


def not_finite(root):
    samples = music(0.5, RATE, 2)
    samples[1, 1600:2400] = np.nan
    for file in root.glob("*.wav"):
        soundfile.write(file, samples.T, RATE, subtype="FLOAT")
    return [".wav", "sample 1600 is not a finite number"]


def three_channels(root):
    write_sound(root / "lcr.wav", music(0.5, RATE, 3), RATE)
    return ["lcr.wav", "3 channels into 2", "6 (5.1)"]


def no_sound(root):
    shutil.rmtree(root)
    root.mkdir()
    (root / "notes.txt").write_text("later")
    return ["data.root", "no audio file there", ".flac"]


@pytest.mark.parametrize("spoil", [text, empty, cut_off, not_finite, three_channels, no_sound])
def test_a_file_that_cannot_be_used_is_one_line_that_names_it(train, root, tmp_path, spoil):
    parts = spoil(root)
    is_one_line_error(train("data.window=tiled"), *parts)
    assert not list(tmp_path.rglob("checkpoints/step_*"))


def test_several_broken_files_are_one_line_too_and_can_be_allowed(train, root):
    text(root), empty(root)
    is_one_line_error(
        train("data.max_broken=1"), "broken audio files: 2, data.max_broken is 1", "song.flac", "song.mp3"
    )
    outcome = train("data.max_broken=2")
    assert outcome.code == 0, outcome
    assert outcome.err.count("left out: audio file") == 2


def test_the_command_in_its_own_process_says_one_line_and_no_warning(zygote, root, vae, tmp_path):
    """The streams of the process itself: a warning of a library would stand there."""
    (root / "song.flac").touch()
    session = zygote.train(*clips(root, vae, *FEW), cwd=tmp_path, module="audio.train")
    assert session.wait() == 2
    [told, error] = session.err.read_text().splitlines()
    assert told.startswith("audio index of 3 files")
    assert error.startswith("error: broken audio files: 1") and "song.flac" in error
    (root / "song.flac").unlink()
    session = zygote.train(*clips(root, vae, *FEW), cwd=tmp_path, module="audio.train")
    assert session.wait() == 0, session.said()
    assert "Warning" not in session.said()


# --- what works by rule


@pytest.mark.parametrize(
    ("rate", "channels", "vae_rate", "seconds"), [(8000, 1, 44100, 0.025), (48000, 6, RATE, 0.128)]
)
def test_other_rates_and_channels_are_brought_to_the_tokenizers(
    train, root, tmp_path, rate, channels, vae_rate, seconds
):
    for number, file in enumerate(root.glob("*.wav")):
        write_sound(file, music(0.3, rate, channels, number), rate)
    vae = save_vae(tmp_path / "vae", sample_rate=vae_rate)
    outcome = train(f"tokenizer.path={vae}", f"data.sample_rate={vae_rate}", f"data.seconds={seconds}")
    assert outcome.code == 0, outcome
    assert all(0.5 < line["flow_loss"] < 5 for line in read_lines(RUN / "metrics.jsonl"))


def test_files_shorter_than_allowed_are_one_line(train):
    said = train("data.seconds=1", "data.min_seconds=1")
    assert said.code == 2 and said.err.count("error: ") == 1
    assert "data.min_seconds is 1.0, the longest file lasts 0.5 s" in said.err


# --- configs


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["data.sample_rate=16000"], ["data.sample_rate is 16000", f"{RATE} Hz"]),
        (["conditioning=tags"], ["conditioning is 'tags'", "no tags", "data=jamendo"]),
        (["data.classes=folders"], ["data.classes 'folders'", "no folders"]),
        (["data.captions=missing.csv"], ["data.captions is 'missing.csv'", "no file"]),
        (["data.loudness=-14"], ["data.loudness is -14.0", "data.seconds"]),
        (["data.split=heldout", "data.heldout_share=1e-9"], ["data.split is 'heldout'", "data.heldout_share"]),
        (["tokenizer.chunk_seconds=0"], ["tokenizer.chunk_seconds is 0.0", "null"]),
        (["alignment.pairs=[[2,9]]"], ["alignment.pairs", "1 to 2"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_a_value_that_does_not_fit_a_folder_is_one_line(train, tmp_path, args, parts):
    is_one_line_error(train(*args), *parts)
    assert not list(tmp_path.rglob("checkpoints/step_*"))


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["tokenizer.bands=2000"], ["tokenizer.bands is 2000"]),
        (["tokenizer=oobleck"], ["tokenizer", "oobleck", "stable_audio"]),
        (["data.sample_rate=100"], ["data.sample_rate is 100", "8000"]),
        (["data.num_notes=2"], ["data.num_notes is 2", "5"]),
        (["data.split=test"], ["data.split", "'test'", "heldout"]),
        (["backbone.num_heads=5"], ["num_heads 5", "hidden_size 16"]),
        (["evaluation=notes", "conditioning=none", "sampler.guidance_scale=1"], ["conditioning=labels"]),
        (["evaluation=notes", "evaluation.num_samples=1"], ["evaluation.num_samples is 1", "2"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_a_value_that_does_not_fit_notes_is_one_line(inside, tmp_path, args, parts):
    is_one_line_error(inside("audio.train", *notes(*FEW, *args)), *parts)
    assert not list(tmp_path.rglob("checkpoints/step_*"))


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["data=latents", "data.root=nowhere"], ["data.root is 'nowhere'", "python -m audio.cache"]),
        (["data=jamendo", "data.root=."], ["data.tsv"]),
        (["data=folder"], ["data.root"]),
        (["tokenizer=conv_oobleck"], ["tokenizer.path", "runs/tokenizer/notes", "audio.train_tokenizer"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_a_choice_beside_the_default_experiment_is_one_line(inside, args, parts):
    """Other data and tokenizers are chosen without a word about the experiment, whose keys must not be in the way."""
    is_one_line_error(inside("audio.train", *args, "evaluation=none", "device=cpu"), *parts)

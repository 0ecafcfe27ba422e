"""`python -m audio.train` on folders of real files, with a tiny random VAE in diffusers' format."""

import json
import os
import shutil
import signal

import pytest
import torch

from audio.sample import ENTRY as SAMPLE
from audio.train import ENTRY as TRAIN
from core.processes.failures import RunError
from core.storage.checkpoint import CheckpointStore, read_checkpoint
from tests.audio.audio_files import music, write_sound
from tests.audio.networks import save_t5
from tests.end_to_end.audio_runs import (
    HOP,
    RATE,
    RUN,
    SAVING,
    clips,
    coded_by,
    copy_collection,
    format_of,
    heard_alike,
    make_collection,
    notes,
    read_wav,
    save_vae,
    uninterrupted,
    wavs,
)
from tests.end_to_end.image_runs import same_run, steps_of

TEXT = ["conditioning.path=x", "conditioning.prompts=[y]"]
FEW = ["trainer.steps=3", "trainer.preview_every=0", "trainer.checkpoint_every=2"]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return save_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return make_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder that the user is in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*arguments):
    TRAIN.main(TRAIN.config(list(arguments)))


def sample(*arguments):
    SAMPLE.main(SAMPLE.config([f"run={RUN}", "device=cpu", *arguments]))


def test_a_folder_of_five_formats_trains_and_samples_without_the_data(collection, vae, place):
    root = copy_collection(collection, place / "music")
    train(*clips(root, vae), *FEW)
    losses = [json.loads(line)["flow_loss"] for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3 and all(loss > 0 for loss in losses)
    shutil.rmtree(root)  # samples need the weights, and the VAE
    shutil.rmtree("runs/cache")
    sample("num=3", "out=whole")
    sample("num=3", "batch_size=1", "out=alone")
    names = [file.name for file in sorted((place / "whole" / "wav").glob("*.wav"))]
    assert len(names) == 3  # and whatever the batch, the same samples
    assert all(heard_alike(*(place / out / "wav" / name for out in ("whole", "alone"))) for name in names)
    samples, rate = read_wav(place / "whole" / "wav" / "000000.wav")
    assert (samples.shape, rate) == ((2, 1024), RATE)
    sample("num=1")
    sample("num=1", "seconds=0.05")  # beside it, in a folder of its own
    shorter = RUN / "samples" / "ema_all_0.05s_seed0"
    assert read_wav(shorter / "wav" / "000000.wav")[0].shape == (2, int(0.05 * RATE) // HOP * HOP)
    with pytest.raises(ValueError, match=r"seconds is 9; the model makes clips of 0.004 to 0.128 s"):
        sample("num=1", "seconds=9", "out=longer")
    with pytest.raises(ValueError, match="labels is 'calm', but the model knows other conditions"):
        sample("num=1", "labels=calm", "out=named")


def test_folders_are_classes_asked_for_by_name(collection, vae, place):
    train(*clips(collection, vae), *FEW, "data.classes=folders", "conditioning=labels")
    assert {file.name.partition("_00_")[2] for file in (RUN / "previews").glob("*_00_*.wav")} == {"calm.wav"}
    sample("num=2", "labels=[loud,0]", "out=asked")
    assert list(json.loads((place / "asked" / "wav" / "conditions.json").read_text()).values()) == ["loud", "calm"]
    with pytest.raises(ValueError, match="labels has 'quiet', which the model does not know; of its 2: calm, loud"):
        sample("num=1", "labels=quiet", "out=unknown")


def test_tags_of_jamendo(vae, place):
    lines = ["TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"]
    for number in range(4):
        write_sound(place / "audio" / f"{number}.mp3", music(0.4, 44100, 2, seed=number), 44100)
        genre = "genre---rock" if number % 2 else "genre---jazz"
        lines.append(f"track_{number}\ta_{number}\tb_{number}\t{number}.mp3\t0.4\t{genre}\tinstrument---piano")
    (place / "split.tsv").write_text("\n".join(lines) + "\n")
    base = clips(place / "audio", vae, *FEW)
    train(*[word for word in base if word not in ("data=folder", "conditioning=none")], "data=jamendo",
          "data.tsv=split.tsv", "conditioning=tags")  # fmt: skip
    sample("num=1", "tags=[genre---rock,instrument---piano]", "out=asked")
    (title,) = json.loads((place / "asked" / "wav" / "conditions.json").read_text()).values()
    assert "rock" in title and "piano" in title
    with pytest.raises(ValueError, match=r"tags has 'genre---rok', .* genre---rock"):
        sample("num=1", "tags=[genre---rok]", "out=unknown")


def test_captions_through_a_text_encoder(vae, place):
    encoder = place / "t5"
    save_t5(encoder)
    for number, text in enumerate(("a slow piano", "a loud drum", "a slow piano")):
        write_sound(place / "audio" / f"{number}.wav", music(0.4, RATE, 2, seed=number), RATE)
        (place / "audio" / f"{number}.txt").write_text(text)
    base = [word for word in clips(place / "audio", vae, *FEW) if word != "conditioning=none"]
    own = [f"conditioning.path={encoder}", "conditioning.encoder=t5", 'conditioning.prompts=["a loud drum"]']
    train(*base, "data.captions=txt", "conditioning=text", *own)
    sample("num=2", 'prompts=["a slow piano"]', "out=asked")
    assert len(wavs(place / "asked")) == 2
    asked = json.loads((place / "asked" / "wav" / "conditions.json").read_text())
    assert list(asked.values()) == ["a slow piano"] * 2


def test_a_random_vae_is_refused_outside_tests(collection, vae, place):
    words = [word for word in clips(collection, vae, *FEW) if "allow_untrained" not in word]
    with pytest.raises(ValueError, match=r"log-mel correlation of .* Are its weights random"):
        train(*words)


def test_a_vae_of_another_rate_is_refused(collection, vae, place):
    with pytest.raises(ValueError, match=f"data.sample_rate is 16000; the tokenizer takes {RATE} Hz"):
        train(*clips(collection, vae), "data.sample_rate=16000")


@pytest.mark.parametrize("kind", ["notes", "folder"])
def test_a_killed_run_is_the_undisturbed_one(kind, collection, vae, zygote, tmp_path):
    """Also when the numbers that were measured of the latents are gone: the checkpoint has them."""
    root = copy_collection(collection, tmp_path / "music")
    arguments = notes(*SAVING) if kind == "notes" else clips(root, vae, *SAVING, "trainer.num_workers=1")
    places = [tmp_path / name for name in ("whole", "killed")]
    for place in places:
        place.mkdir()
    whole = uninterrupted(zygote, places[0], *arguments)
    session = zygote.train(*arguments, cwd=places[1], module="audio.train")
    run = places[1] / RUN
    session.until(lambda: len(steps_of(run)) > 0)
    session.kill()
    assert len(steps_of(run)) > 0 and not (run / "summary.json").exists()
    shutil.rmtree(places[1] / "runs" / "cache")
    same_run(whole, uninterrupted(zygote, places[1], *arguments))


def test_a_stopped_run_with_a_worker_is_the_undisturbed_one(collection, vae, zygote, tmp_path):
    """SIGTERM to the command and its worker, which is decoding files: the step is finished and saved."""
    arguments = clips(collection, vae, *SAVING, "trainer.steps=40", "trainer.preview_every=0", "trainer.num_workers=1")
    places = [tmp_path / name for name in ("whole", "stopped")]
    for place in places:
        place.mkdir()
    whole, run = uninterrupted(zygote, places[0], *arguments), places[1] / RUN
    session = zygote.train(*arguments, cwd=places[1], module="audio.train")
    session.until(lambda: len(steps_of(run)) > 0)
    os.killpg(session.pid, signal.SIGTERM)
    assert session.wait() == 128 + signal.SIGTERM, session.said()
    assert "of 40; the same command continues" in session.said() and "Traceback" not in session.said()
    same_run(whole, uninterrupted(zygote, places[1], *arguments))


def test_a_checkpoint_keeps_the_scaling_of_latents(collection, vae, place):
    train(*clips(collection, vae), *FEW)
    constants = read_checkpoint(CheckpointStore(RUN / "checkpoints").latest(), only=()).notes["tokenizer"]
    assert len(constants["scale"]) == len(constants["shift"]) == 4
    assert constants["sample_rate"] == RATE and constants["downsample"] == HOP
    assert torch.tensor(constants["scale"]).isfinite().all()


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("text.mp3", lambda path: path.write_text("no sound at all"), "text.mp3"),
        ("empty.wav", lambda path: path.touch(), "empty.wav"),
        ("nan.wav", None, "nan.wav"),
        ("three.wav", None, "three.wav"),
        ("cut.mp3", None, "cut.mp3"),
    ],
)
def test_a_broken_file_stops_the_run_by_its_name(name, damage, words, vae, place):
    path = place / "music" / name
    path.parent.mkdir()
    if damage is not None:
        damage(path)
    elif name == "cut.mp3":
        write_sound(path, music(2.0, 44100, 2), 44100)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        samples = music(0.4, RATE, 3 if name == "three.wav" else 2)
        samples[:, 100:] = float("nan") if name == "nan.wav" else 0.1
        write_sound(path, samples, RATE, subtype="FLOAT")
    with pytest.raises((ValueError, RunError), match=words):
        train(*clips(path.parent, vae), *FEW, "data.silence_db=null")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.root=nowhere"], "data.root is 'nowhere', which is not there"),
        (["data.root=empty"], "data.root is 'empty'"),
        (["conditioning=tags"], "conditioning is 'tags' but the data has no tags"),
        (["conditioning=labels"], "conditioning is 'labels' but the data has no classes"),
        (
            ["conditioning=text", "conditioning.encoder=t5", "conditioning.path=x", "conditioning.prompts=[y]"],
            "captions",
        ),
        (["evaluation=notes"], "evaluation is 'notes' but data is 'folder'; allowed there: none"),
        (["data.channels=3"], "data.channels"),
        (["data.seconds=0.0001"], "data.seconds is 0.0001; it must hold a token"),
        (["tokenizer.latent_mean=0"], "give both or none"),
        (["tokenizer.latent_mean=0", "tokenizer.latent_std=0"], "tokenizer.latent_std is 0.0; allowed"),
        (["tokenizer.path=nowhere"], "tokenizer.path is 'nowhere': no such directory, and not a hub id"),
        (["sampler.guidance_scale=2"], "sampler.guidance_scale is not 1 but conditioning.drop is 0"),
        (["tokenizer=spectral", "tokenizer.bands=4000"], "tokenizer.bands is 4000"),
    ],
)
def test_bad_input_is_one_clear_error(overrides, words, collection, vae, place):
    (place / "empty").mkdir()
    base = clips(collection, vae, *FEW)
    if "tokenizer=spectral" in overrides:
        base = [word for word in base if not word.startswith("tokenizer")]
    if overrides[0].startswith("conditioning="):
        base = [word for word in base if word != "conditioning=none"]
    with pytest.raises(ValueError, match=words):
        train(*base, *overrides)


def test_clips_longer_than_every_file_are_padded(vae, place):
    write_sound(place / "music" / "one.wav", music(0.1, 8000, 1), 8000)  # mono, too
    train(*format_of(place / "music"), *[w for w in clips(place / "music", vae, *FEW) if not w.startswith("data.")],
          *coded_by(vae)[1:], "data.seconds=0.512")  # fmt: skip
    assert (RUN / "summary.json").exists()

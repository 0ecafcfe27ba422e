"""What a user can get wrong: exit code 2, one line with the value, the allowed set and the config key, no traceback."""

import argparse
import errno
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

import core.storage.checkpoint
from core.storage.checkpoint import read_checkpoint
from core.storage.weights import load_weights
from tests.end_to_end.image_runs import (
    Inside,
    finish,
    is_one_line_error,
    newest,
    same_bytes,
    same_weights,
    save_malicious,
    start,
    steps_of,
    tiny,
    train_here,
)

SHORT = ["trainer.steps=12", "trainer.checkpoint_every=4", "trainer.preview_every=0", "trainer.num_previews=1"]


@pytest.fixture
def inside(capsys):
    """An entry in this process."""
    return Inside(capsys)


@pytest.fixture
def train(inside, tmp_path, monkeypatch):
    """`python -m image.train` of a tiny run in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: inside("image.train", *tiny(*SHORT, *args))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted short run."""
    return train_here(tmp_path_factory.mktemp("whole"), *SHORT)


@pytest.fixture
def run(whole, tmp_path):
    """A copy of that run."""
    shutil.copytree(whole, tmp_path / "runs" / "image" / "digits")
    return tmp_path / "runs" / "image" / "digits"


@pytest.fixture
def image_folder(tmp_path):
    """An image folder of one class and one picture of 16 pixels."""
    (tmp_path / "images" / "class").mkdir(parents=True)
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(tmp_path / "images" / "class" / "a.png")
    return tmp_path / "images"


@pytest.mark.parametrize("entry", ["image.train", "image.sample"])
def test_a_mistyped_key_is_one_line_in_a_process_too(tmp_path, entry):
    outcome = finish(start(entry, "sede=1", *(["run=x"] if entry == "image.sample" else []), cwd=tmp_path))
    is_one_line_error(outcome, "'sede'", "seed")
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["trainer.stepss=3"], ["trainer.stepss", "batch_size", "steps"]),
        (["+trainer.stepss=3"], ["trainer.stepss", "batch_size", "steps"]),
        (["trainer.steps=many"], ["trainer.steps", "'many'", "int"]),
        (["trainer.steps=0"], ["trainer.steps is 0", "at least 1"]),
        (["trainer.precision=fp8"], ["trainer.precision", "'fp8'", "fp32", "bf16"]),
        (["optimizer.lr=-1"], ["optimizer.lr is -1", "positive"]),
        (["alignment.pairs=[[1,99]]"], ["alignment.pairs", "99", "1 to 3"]),
        (["alignment.pairs=[[0,2]]"], ["alignment.pairs", "0", "1 to 3"]),
        (["alignment.pairs=[[2,2]]"], ["alignment.pairs", "(2, 2)", "weak", "before the strong"]),
        (["alignment.pairs=[[3,1]]"], ["alignment.pairs", "(3, 1)", "weak", "before the strong"]),
        (["alignment.pairs=[]"], ["alignment.pairs", "empty"]),
        (["alignment.pairs=[[1,2,3]]"], ["alignment.pairs", "[1, 2, 3]", "2 values"]),
        (["alignment.pairs=[[blocks.7,2]]"], ["alignment.pairs", "blocks.7"]),
        (["alignment.weight=0"], ["alignment.weight is 0", "above 0"]),
        (["backbone.patch_size=3"], ["backbone.patch_size 3", "(8, 8)"]),
        (["backbone.num_heads=5"], ["num_heads 5", "hidden_size 32"]),
        (["backbone.size=M", "backbone.depth=null"], ["backbone.size", "'M'", "XL"]),
        (["experiment=digitz"], ["experiment", "digitz", "digits"]),
        (["sampler.solver=rk5"], ["sampler.solver", "'rk5'", "heun"]),
        (["conditioning.drop=0"], ["conditioning.drop is 0", "sampler.guidance_scale"]),
        (["data.split=test"], ["data.split", "'test'", "heldout"]),
        (["device=quantum"], ["device is 'quantum'", "cpu"]),
        (["name=../escape"], ["name is '../escape'"]),
        (["data=folder", "data.root=nowhere"], ["data.root is 'nowhere'", "not there"]),
        (["data=folder"], ["data.root"]),
        (["tokenizer=sd_vae", "tokenizer.path=not a hub id"], ["tokenizer.path", "not a hub id"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "=" in value[0] else "",
)
def test_a_value_that_does_not_fit_is_one_line(train, tmp_path, args, parts):
    is_one_line_error(train(*args), *parts)
    assert not list(tmp_path.rglob("checkpoints"))


def test_after_a_wrong_value_the_right_one_is_accepted(train):
    is_one_line_error(train("alignment.pairs=[[1,99]]"), "alignment.pairs")
    outcome = train("trainer.steps=1")
    assert outcome.code == 0, outcome


def test_an_image_folder_without_classes_or_images_is_one_line(train, tmp_path):
    folder = ["data=folder", f"data.root={tmp_path / 'images'}"]
    (tmp_path / "images").mkdir()
    is_one_line_error(train(*folder), "data.root", "images", "one folder per class")
    (tmp_path / "images" / "n01").mkdir()
    is_one_line_error(train(*folder), "data.root", "no image", ".jpeg", "n01")


def test_a_measure_of_digits_is_refused_for_other_images_before_training(train, image_folder, tmp_path):
    folder = ["data=folder", f"data.root={image_folder}", "data.size=8", "data.channels=1", "evaluation=digits"]
    is_one_line_error(train(*folder), "evaluation", "digits", "data", "folder")
    assert not list(tmp_path.rglob("checkpoints"))


def test_a_latent_that_the_patch_does_not_divide_is_one_line(train, image_folder):
    folder = ["data=folder", f"data.root={image_folder}", "data.size=15", "data.channels=1"]
    is_one_line_error(train(*folder), "(15, 15)", "backbone.patch_size 2")


def test_a_vae_directory_that_is_none_is_one_line(train, tmp_path):
    (tmp_path / "vae").mkdir()
    vae = ["tokenizer=sd_vae", f"tokenizer.path={tmp_path / 'vae'}"]
    is_one_line_error(train(*vae), "tokenizer.path", str(tmp_path / "vae"), "config.json", "save_pretrained")
    is_one_line_error(train("tokenizer=conv_kl"), "tokenizer.path", "runs/tokenizer/digits", "image.train_tokenizer")


def test_a_broken_image_is_one_line_that_names_it(train, image_folder):
    (image_folder / "class" / "a.png").write_bytes(b"no image")
    outcome = train("data=folder", f"data.root={image_folder}", "data.size=8", "data.channels=1")
    is_one_line_error(outcome, "broken image", "a.png", "8 bytes")


# --- checkpoints


def truncated_pt(folder, weights):
    torch.save({"ema": weights}, folder / "cut.pt")
    content = (folder / "cut.pt").read_bytes()
    (folder / "cut.pt").write_bytes(content[: len(content) // 2])
    return folder / "cut.pt", ["cut.pt", "damaged"]


def truncated_safetensors(folder, weights):
    core.storage.checkpoint.save_file(weights, folder / "cut.safetensors")
    content = (folder / "cut.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(content[: len(content) // 2])
    return folder / "cut.safetensors", ["cut.safetensors", "damaged"]


def of_another_architecture(folder, weights):
    wider = {**weights, "final_layer.linear.bias": torch.zeros(99)}
    del wider["blocks.0.attn.proj.bias"]
    torch.save({"ema": wider, "args": argparse.Namespace()}, folder / "other.pt")
    return folder / "other.pt", ["another architecture", "blocks.0.attn.proj.bias", "(99,)", "(4,)"]


def malicious(folder, weights):
    save_malicious(folder / "evil.pt", folder / "executed")
    return folder / "evil.pt", ["evil.pt is refused", "posix.system"]


def of_no_weights(folder, weights):
    torch.save({"args": argparse.Namespace(lr=1)}, folder / "none.pt")
    return folder / "none.pt", ["none.pt holds no state dict"]


@pytest.mark.parametrize(
    "make", [truncated_pt, truncated_safetensors, of_another_architecture, malicious, of_no_weights]
)
def test_a_checkpoint_that_cannot_be_used_is_one_line(inside, whole, tmp_path, make):
    path, parts = make(tmp_path, load_weights(newest(whole)))
    out = tmp_path / "out"
    is_one_line_error(inside("image.sample", f"run={whole}", f"checkpoint={path}", "num=2", f"out={out}"), *parts)
    assert not out.exists()
    assert not (tmp_path / "executed").exists(), "the pickle was executed"


def test_the_malicious_file_does_harm_when_it_is_loaded_without_care(tmp_path):
    file = save_malicious(tmp_path / "evil.pt", tmp_path / "executed")
    torch.load(file, weights_only=False)
    assert (tmp_path / "executed").exists()


def test_a_run_of_another_tokenizer_is_one_line(train, run):
    (run / "summary.json").unlink()
    manifest = newest(run) / "checkpoint.json"
    manifest.write_text(manifest.read_text().replace('"kind": "pixels"', '"kind": "conv_kl"'))
    is_one_line_error(train(), "another tokenizer", "conv_kl", "pixels")


# --- places


def test_a_run_directory_that_cannot_be_written_is_one_line(train, tmp_path):
    (tmp_path / "file").touch()
    is_one_line_error(train("runs_dir=file"), "run directory file/image/digits", "runs_dir")


def leaves_the_last_good_checkpoint(outcome, run, whole):
    """After a full disk: exit code 2, one line, and a run that can be read; no half-written file."""
    is_one_line_error(outcome, "o space left on device")
    assert steps_of(run) == [4]
    assert read_checkpoint(newest(run)).step == 4
    assert not list(run.rglob("*.tmp"))


def test_a_disk_that_is_full_leaves_the_checkpoint_before(train, whole, tmp_path, monkeypatch):
    save, calls = core.storage.checkpoint.save_file, []

    def full(state, file):
        calls.append(file)
        if len(calls) > 4:  # the second group of the second checkpoint
            file.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        save(state, file)

    monkeypatch.setattr(core.storage.checkpoint, "save_file", full)
    run = tmp_path / "runs" / "image" / "digits"
    leaves_the_last_good_checkpoint(train(), run, whole)
    monkeypatch.setattr(core.storage.checkpoint, "save_file", save)
    assert train().code == 0
    assert same_weights(newest(run), newest(whole))
    assert same_bytes(run / "metrics.jsonl", whole / "metrics.jsonl")


@pytest.fixture
def small_disk(whole, tmp_path):
    """A file system on which one checkpoint of the tiny run fits, and no second one."""
    size = sum(file.stat().st_size for file in newest(whole).iterdir())
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={3 * size // 2}", "tmpfs", disk], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_is_really_full_leaves_the_checkpoint_before(train, whole, small_disk):
    run = small_disk / "image" / "digits"
    outcome = train(f"runs_dir={small_disk}")
    leaves_the_last_good_checkpoint(outcome, run, whole)
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    assert train(f"runs_dir={small_disk}").code == 0
    assert same_weights(newest(run), newest(whole))

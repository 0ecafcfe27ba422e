"""What a user can get wrong in any domain: exit code 2, one line with the value, the allowed set and the config key."""

import argparse
import subprocess

import pytest
import torch

import core.storage.checkpoint
from core.storage.checkpoint import read_checkpoint
from core.storage.weights import load_weights
from tests.end_to_end.commands import (
    call,
    is_one_line_error,
    newest,
    one_line_error,
    same_bytes,
    same_weights,
    steps_of,
)
from tests.end_to_end.image_runs import RUN, save_malicious, tiny, train_here

SHORT = ["trainer.steps=12", "trainer.checkpoint_every=4", "trainer.preview_every=0", "trainer.num_previews=1"]
VALUES = {
    "trainer.stepss=3": ("trainer.stepss", "batch_size", "steps"),
    "+trainer.stepss=3": ("trainer.stepss", "batch_size", "steps"),
    "trainer.steps=many": ("trainer.steps", "'many'", "int"),
    "trainer.steps=0": ("trainer.steps is 0", "at least 1"),
    "trainer.precision=fp8": ("trainer.precision", "'fp8'", "fp32", "bf16"),
    "optimizer.lr=-1": ("optimizer.lr is -1", "positive"),
    "alignment.pairs=[[1,99]]": ("alignment", "99", "1 to 3"),
    "alignment.pairs=[[0,2]]": ("alignment", "0", "1 to 3"),
    "alignment.pairs=[[2,2]]": ("alignment.pairs", "(2, 2)", "weak", "before the strong"),
    "alignment.pairs=[[3,1]]": ("alignment.pairs", "(3, 1)", "weak", "before the strong"),
    "alignment.pairs=[]": ("alignment.pairs", "empty"),
    "alignment.pairs=[[1,2,3]]": ("alignment.pairs", "[1, 2, 3]", "2 values"),
    "alignment.pairs=[[blocks.7,2]]": ("alignment.pairs", "blocks.7"),
    "alignment.weight=0": ("alignment.weight is 0", "above 0"),
    "backbone.num_heads=5": ("num_heads 5", "hidden_size 32"),
    "backbone.size=M backbone.depth=null": ("backbone.size", "'M'", "XL"),
    "experiment=digitz": ("experiment", "digitz", "digits"),
    "sampler.solver=rk5": ("sampler.solver", "'rk5'", "heun"),
    "conditioning.drop=0": ("conditioning.drop is 0", "sampler.guidance_scale"),
    "device=quantum": ("device is 'quantum'", "cpu"),
    "name=../escape": ("name is '../escape'",),
}


@pytest.fixture
def train(tmp_path, monkeypatch, spared):
    """`python -m image.train` of a tiny run in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: call("image.train", *tiny(*SHORT, *args))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted short run."""
    return train_here(tmp_path_factory.mktemp("whole"), *SHORT)


def test_a_value_that_does_not_fit_is_one_line_and_then_the_right_one_is_accepted(train, tmp_path):
    wrong = [one_line_error(train(*words.split()), *parts) for words, parts in VALUES.items()]
    assert not any(wrong), [each for each in wrong if each]
    assert not list(tmp_path.rglob("checkpoints"))
    assert train("trainer.steps=1").code == 0


# --- checkpoints


def cut(file, save, weights):
    save(weights, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file, [file.name, "damaged"]


def truncated_pt(folder, weights):
    return cut(folder / "cut.pt", lambda state, file: torch.save({"ema": state}, file), weights)


def truncated_safetensors(folder, weights):
    return cut(folder / "cut.safetensors", core.storage.checkpoint.save_file, weights)


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


def test_a_checkpoint_that_cannot_be_used_is_one_line(whole, tmp_path):
    wrong, out = [], tmp_path / "out"
    for make in (truncated_pt, truncated_safetensors, of_another_architecture, malicious, of_no_weights):
        path, parts = make(tmp_path, load_weights(newest(whole)))
        outcome = call("image.sample", f"run={whole}", f"checkpoint={path}", "num=2", f"out={out}")
        wrong += [one_line_error(outcome, *parts), "samples" * out.exists()]
    assert not any(wrong), wrong
    assert not (tmp_path / "executed").exists(), "the pickle was executed"
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "executed").exists(), "it does harm when it is loaded without care"


# --- places


def test_a_run_directory_that_cannot_be_written_is_one_line(train, tmp_path):
    (tmp_path / "file").touch()
    is_one_line_error(train("runs_dir=file"), "run directory file/image/digits", "runs_dir")


@pytest.fixture
def small_disk(whole, tmp_path):
    """A file system on which one checkpoint of the tiny run fits, and no second one."""
    size = sum(file.stat().st_size for file in newest(whole).iterdir())
    disk = tmp_path / "runs"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={3 * size // 2}", "tmpfs", disk], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_is_really_full_leaves_the_checkpoint_before(train, whole, small_disk, tmp_path):
    run = tmp_path / RUN
    is_one_line_error(train(), "o space left on device")
    assert steps_of(run) == [4]
    assert read_checkpoint(newest(run)).step == 4
    assert not list(run.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    assert train().code == 0
    assert same_weights(newest(run), newest(whole))
    assert same_bytes(run / "metrics.jsonl", whole / "metrics.jsonl")

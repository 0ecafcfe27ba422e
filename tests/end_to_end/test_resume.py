"""Going on with a run: from damaged checkpoints, on full disks, with changed configs, and with data that moved."""

import errno
import os
import resource
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from core.storage.checkpoint import SCHEMA_VERSION, read_checkpoint
from core.storage.lines import read_lines
from core.storage.weights import load_weights
from image.codecs.autoencoder import AutoencoderConfig, ConvKL, save_autoencoder
from tests.end_to_end.commands import call, is_one_line_error, newest, same_run, steps_of
from tests.end_to_end.image_runs import RUN


@pytest.fixture
def run(whole, tmp_path):
    """A copy of that run, in which the last words are missing."""
    shutil.copytree(whole, tmp_path / RUN)
    (tmp_path / RUN / "summary.json").unlink()
    return tmp_path / RUN


# --- what is kept


def test_the_newest_and_every_nth_checkpoint_are_kept_and_latest_names_the_newest(whole):
    assert steps_of(whole) == [12, 21, 24]
    pointer = whole / "checkpoints" / "latest"
    assert pointer.read_text() == "step_00000024\n"
    assert read_checkpoint(pointer).step == 24
    weights = load_weights(newest(whole))
    assert all(torch.equal(value, weights[name]) for name, value in load_weights(pointer).items())


@pytest.mark.parametrize("weights", ["ema", "ema_decay0.5"])
def test_samples_are_made_from_latest(run, tmp_path, weights):
    made = []
    for checkpoint in ("latest", "step_00000024", "step_00000012"):
        args = f"checkpoint={run / 'checkpoints' / checkpoint}", f"weights={weights}", f"out={tmp_path / checkpoint}"
        assert call("image.sample", f"run={run}", "num=2", "device=cpu", *args).code == 0
        made.append(np.load(tmp_path / checkpoint / "samples.npz")["arr_0"])
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_every_session_is_noted(train, run):
    assert train().code == 0
    first, second = read_lines(run / "sessions.jsonl")
    assert (first["step"], second["step"]) == (0, 24)
    assert first.keys() == {"step", "begun", "device", "processes", "config_sha256", "code", "torch"}
    assert second["config_sha256"] == first["config_sha256"] == read_checkpoint(newest(run)).notes["config_sha256"]


# --- damage


def truncate(file):
    os.truncate(file, file.stat().st_size - 1)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def garble(file):
    file.write_text('{"schema_version": 2, "st')


DAMAGES = [
    ("optimizer.safetensors", truncate),
    ("ema.safetensors", flip),
    ("ema_decay0.5.safetensors", os.unlink),
    ("checkpoint.json", os.unlink),
    ("checkpoint.json", garble),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_it_used(train, run, whole, name, damage):
    damage(newest(run) / name)
    outcome = train()
    assert outcome.code == 0, outcome
    assert f"step_00000024/{name} is damaged" in outcome.err or "step_00000024 is not a complete" in outcome.err
    assert "it stays as step_00000024.damaged, and the one before it is used" in outcome.err
    assert [line["step"] for line in read_lines(run / "sessions.jsonl")] == [0, 21]
    shutil.rmtree(run / "checkpoints" / "step_00000024.damaged")
    same_run(run, whole)


def test_a_checkpoint_of_another_version_is_an_error_and_stays(train, run):
    manifest = newest(run) / "checkpoint.json"
    manifest.write_text(manifest.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 1'))
    is_one_line_error(train(), "step_00000024 has checkpoint schema 1", f"reads {SCHEMA_VERSION}")
    assert steps_of(run) == [12, 21, 24]


def test_nothing_starts_over_when_every_checkpoint_is_damaged(train, run):
    for step in (12, 21, 24):
        truncate(run / "checkpoints" / f"step_{step:08d}" / "model.safetensors")
    records = (run / "metrics.jsonl").read_bytes()
    for _ in range(2):
        outcome = train()
        assert outcome.code == 2
        assert "error: every checkpoint in runs/image/digits/checkpoints is damaged; choose another" in outcome.err
        assert steps_of(run) == []
        assert (run / "metrics.jsonl").read_bytes() == records


def test_samples_are_made_from_the_checkpoint_before_a_damaged_one(run, tmp_path):
    truncate(newest(run) / "ema.safetensors")
    outcome = call("image.sample", f"run={run}", "num=2", "device=cpu", f"out={tmp_path / 'out'}")
    assert outcome.code == 0, outcome
    assert "ema.safetensors is damaged" in outcome.err
    assert yaml.safe_load((tmp_path / "out" / "protocol.yaml").read_text())["checkpoint"].endswith("step_00000021")
    assert steps_of(run) == [12, 21, 24], "sampling moves nothing"


def test_damage_that_does_not_touch_the_weights_does_not_hinder_sampling(run, tmp_path):
    truncate(newest(run) / "optimizer.safetensors")
    outcome = call("image.sample", f"run={run}", "num=2", "device=cpu", f"out={tmp_path / 'out'}")
    assert (outcome.code, "damaged" in outcome.err) == (0, False)
    assert yaml.safe_load((tmp_path / "out" / "protocol.yaml").read_text())["checkpoint"].endswith("step_00000024")


# --- disks that are full


@pytest.fixture
def small_files(whole):
    """Inside it the system refuses files as large as the optimizer's."""
    limit = (newest(whole) / "optimizer.safetensors").stat().st_size - 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def go_back(run, step):
    """Take the run to where it was with the checkpoint of `step`."""
    for later in steps_of(run):
        if later > step:
            shutil.rmtree(run / "checkpoints" / f"step_{later:08d}")


def is_intact(outcome, run, *parts):
    """The save after step 12 failed, was told, and left the checkpoint of step 12 and nothing half-written."""
    is_one_line_error(outcome, "step_00000015 could not be written", *parts, "checkpoints/step_00000012 is intact")
    assert steps_of(run) == [12]
    assert read_checkpoint(newest(run)).step == 12
    assert not list(run.rglob("*.tmp"))


def test_a_file_that_cannot_be_written_leaves_the_checkpoint_before(train, run, whole, small_files):
    go_back(run, 12)
    is_intact(train(), run, "File too large")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert train().code == 0
    same_run(run, whole)


def test_a_disk_that_is_full_when_it_is_synced_leaves_the_checkpoint_before(train, run, whole, tmp_path, monkeypatch):
    go_back(run, 12)
    sync = os.fsync

    def full(descriptor):
        if "checkpoints/.step_00000015" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    is_intact(train(), run, "No space left on device")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert train().code == 0
    same_run(run, whole)


# --- other configs


def test_a_change_of_what_is_computed_is_refused_with_both_values(train, run):
    before = (run / "config.yaml").read_bytes()
    is_one_line_error(
        train("optimizer.lr=1e-3", "seed=1"),
        "another optimizer.lr (0.002 before, 0.001 now), seed (0 before, 1 now);",
        "allow_changes=[optimizer.lr,seed]",
    )
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("allowed", ["optimizer.lr", "optimizer"])
def test_a_change_that_is_allowed_is_told_and_made(train, run, allowed):
    go_back(run, 12)
    outcome = train("optimizer.lr=1e-3", f"allow_changes=[{allowed}]")
    assert outcome.code == 0, outcome
    assert "goes on with another optimizer.lr (0.002 before, 0.001 now)" in outcome.err
    rates = {line["step"]: line["lr"] for line in read_lines(run / "metrics.jsonl")}
    assert sorted(rates) == list(range(1, 25))
    assert rates[12] > 1.1e-3 > 9e-4 > rates[13]


def test_a_change_of_what_does_not_matter_is_told(train, run, whole):
    outcome = train("trainer.num_workers=1", "trainer.checkpoint_every=100")
    assert outcome.code == 0, outcome
    assert "goes on with another trainer.checkpoint_every (3 before, 100 now)" in outcome.err
    assert "goes on with another trainer.num_workers (0 before, 1 now)" in outcome.err


@pytest.mark.parametrize("allowed", ["optimizer.lrr", "optimiser", "lr"])
def test_an_unknown_key_cannot_be_allowed_to_change(train, run, allowed):
    is_one_line_error(train(f"allow_changes=[{allowed}]"), f"allow_changes names {allowed}; allowed: keys of the")


def test_fewer_steps_than_were_made_are_refused(train, run):
    outcome = train("trainer.steps=20", "allow_changes=[trainer.steps]")
    is_one_line_error(outcome, "trainer.steps is 20", "step_00000024 has made 24 already")


# --- places that moved


def make_images(root, counts):
    """An image folder with so many images of each class, noise of 8x8 grey pixels."""
    noise = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = noise.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")


@pytest.fixture
def elsewhere(train, tmp_path):
    """A run on images in `images` with the tokenizer in `kl`; the command with both in other folders."""
    make_images(tmp_path / "images", {"cat": 4, "dog": 3})
    (tmp_path / "kl").mkdir()
    torch.manual_seed(0)
    save_autoencoder(tmp_path / "kl", ConvKL(AutoencoderConfig(width=8), in_channels=1), 0.0, 1.0)

    def train_on(images, tokenizer, *args):
        places = f"data.root={images}", f"tokenizer.path={tokenizer}"
        return train("data=folder", "data.size=8", "data.channels=1", "tokenizer=conv_kl", *places, *args)

    first = train_on("images", "kl", "trainer.steps=3", "optimizer.schedule=constant")
    assert first.code == 0, first
    return lambda *args: train_on(*args, "trainer.steps=6", "optimizer.schedule=constant")


def test_a_run_goes_on_where_data_and_tokenizer_were_moved_to(elsewhere, tmp_path):
    for name in ("images", "kl"):
        (tmp_path / name).rename(tmp_path / f"moved_{name}")
    outcome = elsewhere("moved_images", "moved_kl")
    assert outcome.code == 0, outcome
    assert "goes on with another data.root (images before, moved_images now)" in outcome.err
    assert steps_of(tmp_path / RUN)[-1] == 6


@pytest.mark.parametrize("counts", [{"cat": 4, "dog": 4}, {"cat": 3, "dog": 4}, {"cat": 4, "cow": 3}])
def test_other_data_in_the_same_place_is_refused_unless_allowed(elsewhere, tmp_path, counts):
    shutil.rmtree(tmp_path / "images")
    make_images(tmp_path / "images", counts)
    is_one_line_error(elsewhere("images", "kl"), "step_00000003 was made with other data", "allow_changes=[data.root]")
    assert elsewhere("images", "kl", "allow_changes=[data.root]").code == 0


def test_another_tokenizer_in_the_same_place_is_refused(elsewhere, tmp_path):
    torch.manual_seed(1)
    save_autoencoder(tmp_path / "kl", ConvKL(AutoencoderConfig(width=8), in_channels=1), 0.0, 1.0)
    outcome = elsewhere("images", "kl")
    before = read_checkpoint(newest(tmp_path / RUN)).notes["tokenizer"]["sha256"]
    is_one_line_error(outcome, "step_00000003 was made with another tokenizer", before)

"""`python -m image.train` from a user's folder: what it leaves, what it says, and that stopping it costs nothing."""

import json
import math
import re
import signal

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core.commands.entry import compose_config
from core.processes.failures import NonFiniteError
from core.processes.signals import StopRequest
from core.processes.world import World
from core.schema import strict
from core.storage.checkpoint import read_checkpoint
from core.storage.lines import read_lines
from core.storage.run_folder import RunDirectory
from core.storage.weights import load_into, load_weights
from core.train.trainer import Trainer
from image.datasets.digits import DigitsConfig, DigitsDataset
from image.train import ImageConfig, build_domain
from tests.end_to_end.image_runs import (
    BATCH,
    STEPS,
    Inside,
    finish,
    is_one_line_error,
    newest,
    same_bytes,
    same_weights,
    start,
    steps_of,
    tiny,
    wait_for,
)

SUMMARY_KEYS = {
    "steps",
    "parameters",
    "images_per_second",
    "train_seconds",
    "wall_seconds",
    "device",
    "processes",
    "frechet_distance",
    "frechet_floor",
    "class_accuracy",
    "classifier_accuracy",
    "num_samples",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that is not the repository."""
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def first(place):
    """The first call of the command."""
    return finish(start("image.train", *tiny(evaluate=True), cwd=place))


@pytest.fixture
def run(first, place):
    """The folder of an uninterrupted run."""
    assert first.code == 0, first
    return place / "runs" / "image" / "digits"


@pytest.fixture
def inside(capsys):
    """An entry in this process."""
    return Inside(capsys)


def make_trainer(folder, *overrides):
    """The trainer of a tiny run, in this process."""
    config = strict(ImageConfig, compose_config("image.conf", "train", tiny(f"runs_dir={folder}", *overrides)))
    cpu = torch.device("cpu")
    run = RunDirectory.create(config.runs_dir, "image", config.name)
    return Trainer(config, build_domain(config, cpu, evaluate=False), run, World())


# --- a complete run


def test_the_run_directory_holds_what_it_promises(run):
    names = {"config.yaml", "metrics.jsonl", "speed.jsonl", "sessions.jsonl", "loss_curve.png", "summary.json"}
    names |= {"evaluations.jsonl", "checkpoints", "previews", ".lock"}
    assert names <= {path.name for path in run.iterdir()}
    assert {path.name for path in run.iterdir()} - names <= {"tensorboard"}
    assert steps_of(run) == [120, STEPS]
    assert sorted(path.name for path in (run / "previews").iterdir()) == [
        f"step_{step:08d}.png" for step in (60, 120, STEPS)
    ]
    for picture in [*(run / "previews").iterdir(), run / "loss_curve.png"]:
        with Image.open(picture) as opened:
            opened.load()
            assert min(opened.size) > 40
    assert not list(run.rglob("*.tmp"))


def test_the_summary_has_the_numbers_of_the_run(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary.keys() == SUMMARY_KEYS
    assert (summary["steps"], summary["device"], summary["num_samples"]) == (STEPS, "cpu", 359)
    saved = load_file(newest(run) / "model.safetensors")
    assert summary["parameters"] == sum(value.numel() for name, value in saved.items() if name != "pos_embed")
    assert summary["wall_seconds"] > summary["train_seconds"] > 0
    assert summary["images_per_second"] == pytest.approx(STEPS * BATCH / summary["train_seconds"])
    assert 0 < summary["frechet_floor"] < summary["frechet_distance"]
    assert 0 <= summary["class_accuracy"] <= 1
    assert 0.2 < summary["classifier_accuracy"] <= 1


def test_the_loss_falls(run):
    lines = read_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(5, STEPS + 1, 5))
    flow = [line["flow_loss"] for line in lines]
    images = DigitsDataset(DigitsConfig()).images
    untrained = 1 + images.square().mean().item()  # the mean of (data - noise)^2, which predicting zero would give
    assert flow[0] == pytest.approx(untrained, abs=0.2)
    assert sum(flow[-5:]) / 5 < 0.6 * untrained, "predicting the mean image and no noise gives 0.75 of it"
    assert all(math.isfinite(value) for line in lines for value in line.values())
    for line in lines:
        assert line["loss"] == pytest.approx(line["flow_loss"] - 0.05 * line["similarity/1->2"], abs=1e-5)
        assert -1 <= line["similarity/1->2"] <= 1
    assert lines[0]["lr"] == pytest.approx(2e-3 / 2)
    assert lines[-1]["lr"] < 1e-5


def test_the_report_says_what_came_out_and_how_to_go_on(first, run):
    summary = json.loads((run / "summary.json").read_text())
    assert f"Fréchet distance  {summary['frechet_distance']:.2f}" in first.out
    assert "run directory     runs/image/digits " in first.out
    assert "python -m image.sample run=runs/image/digits" in first.out
    assert re.search(rf"digits {STEPS}/{STEPS} .*flow \d\.\d+, similarity 1->2 0\.\d+, \d+ images/s", first.err)


def test_a_checkpoint_remembers_what_made_it(run):
    saved = read_checkpoint(newest(run))
    assert saved.step == STEPS
    assert saved.groups.keys() == {"model", "ema", "optimizer"}
    assert saved.notes["tokenizer"]["kind"] == "pixels"
    assert saved.notes["domain"] == "image"
    assert strict(ImageConfig, saved.notes["config"]).trainer.steps == STEPS
    assert not torch.equal(
        saved.groups["ema"]["final_layer.linear.weight"], saved.groups["model"]["final_layer.linear.weight"]
    )


def test_the_second_call_says_that_the_run_is_complete(run, place, inside, monkeypatch):
    monkeypatch.chdir(place)
    anew = ("config.yaml", ".lock")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name not in anew}
    outcome = inside("image.train", *tiny(evaluate=True))
    assert outcome.code == 0
    assert f"runs/image/digits is complete after {STEPS} steps" in outcome.out
    assert "Fréchet distance" in outcome.out
    assert outcome.err == ""
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("override", "key"),
    [("optimizer.lr=1e-3", "optimizer.lr"), ("seed=1", "seed"), (f"trainer.steps={STEPS + 1}", "trainer.steps")],
)
def test_the_same_name_with_another_value_is_refused(run, place, inside, monkeypatch, override, key):
    monkeypatch.chdir(place)
    before = (run / "config.yaml").read_bytes()
    is_one_line_error(
        inside("image.train", *tiny(override, evaluate=True)),
        f"holds a run with another {key} (",
        "name=",
        "allow_changes",
    )
    assert (run / "config.yaml").read_bytes() == before


# --- stopping and going on


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that got Ctrl-C in its middle: its folder and what it said."""
    place = tmp_path_factory.mktemp("interrupted")
    metrics = place / "runs" / "image" / "digits" / "metrics.jsonl"
    process = start("image.train", *tiny(evaluate=True), cwd=place)
    wait_for(lambda: len(read_lines(metrics)) >= 3, process)
    process.send_signal(signal.SIGINT)
    return place, finish(process)


def test_ctrl_c_leaves_a_run_that_can_be_used_and_continued(interrupted, run, inside, monkeypatch):
    place, outcome = interrupted
    stopped = place / "runs" / "image" / "digits"
    [at, of] = map(
        int, re.search(r"stopped after step (\d+) of (\d+); the same command continues", outcome.out).groups()
    )
    assert (outcome.code, of) == (130, STEPS)
    assert 15 <= at < STEPS
    assert "Traceback" not in outcome.err
    assert steps_of(stopped)[-1] == at
    assert not (stopped / "summary.json").exists()
    assert not list(stopped.rglob("*.tmp"))
    monkeypatch.chdir(place)
    assert inside("image.sample", "run=runs/image/digits", "num=2", "device=cpu").code == 0

    again = inside("image.train", *tiny(evaluate=True))
    assert again.code == 0, again
    assert same_weights(newest(stopped), newest(run))
    assert same_bytes(stopped / "metrics.jsonl", run / "metrics.jsonl")
    last = f"previews/step_{STEPS:08d}.png"
    assert same_bytes(stopped / last, run / last)
    summaries = [json.loads((each / "summary.json").read_text()) for each in (stopped, run)]
    for key in ("steps", "frechet_distance", "class_accuracy"):
        assert summaries[0][key] == summaries[1][key]


def test_a_process_that_was_killed_goes_on_from_its_last_checkpoint(run, tmp_path, monkeypatch):
    """Killed after step 47: the checkpoint is of step 40, metrics.jsonl knows of 45 and of half a line."""

    class Killed(BaseException):
        pass

    original = Trainer.update

    def update(self, batch):
        if self.step == 47:
            raise Killed
        return original(self, batch)

    monkeypatch.setattr(Trainer, "update", update)
    trainer = make_trainer(tmp_path)
    with pytest.raises(Killed):
        trainer.fit()
    assert steps_of(trainer.run.path) == [40]
    with (trainer.run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "fl')
    monkeypatch.undo()
    again = make_trainer(tmp_path)
    assert again.fit()
    assert same_weights(newest(again.run.path), newest(run))
    assert same_bytes(again.run.path / "metrics.jsonl", run / "metrics.jsonl")


def test_a_signal_before_the_first_step_is_done_leaves_one_step(tmp_path, monkeypatch):
    original = Trainer.update

    def update(self, batch):
        signal.raise_signal(signal.SIGTERM)
        return original(self, batch)

    monkeypatch.setattr(Trainer, "update", update)
    trainer = make_trainer(tmp_path)
    with StopRequest() as stop:
        assert not trainer.fit(stop)
    assert steps_of(trainer.run.path) == [1]


def test_neither_workers_nor_previews_change_the_weights(run, tmp_path):
    trainer = make_trainer(tmp_path, "trainer.num_workers=1", "trainer.preview_every=0", "trainer.keep_checkpoints=1")
    assert trainer.fit()
    assert steps_of(trainer.run.path) == [STEPS]
    assert same_weights(newest(trainer.run.path), newest(run))
    assert same_bytes(trainer.run.path / "metrics.jsonl", run / "metrics.jsonl")


def test_recomputing_blocks_changes_nothing(run, tmp_path):
    trainer = make_trainer(tmp_path, "trainer.checkpoint_blocks=true", "trainer.preview_every=0")
    assert trainer.fit()
    assert same_bytes(trainer.run.path / "metrics.jsonl", run / "metrics.jsonl")


def test_a_longer_run_goes_on_where_the_shorter_one_ended(tmp_path):
    constant = ["optimizer.schedule=constant", "trainer.log_every=1"]
    assert make_trainer(tmp_path / "a", *constant, "trainer.steps=4").fit()
    longer = make_trainer(tmp_path / "a", *constant, "trainer.steps=7")
    assert longer.fit()
    whole = make_trainer(tmp_path / "b", *constant, "trainer.steps=7")
    assert whole.fit()
    assert same_weights(newest(longer.run.path), newest(whole.run.path))
    assert same_bytes(longer.run.path / "metrics.jsonl", whole.run.path / "metrics.jsonl")


def test_fewer_steps_than_were_made_are_refused(tmp_path, inside):
    args = tiny(f"runs_dir={tmp_path}", "optimizer.schedule=constant")
    trainer = make_trainer(tmp_path, "optimizer.schedule=constant", "trainer.steps=4")
    trainer.run.claim(compose_config("image.conf", "train", [*args, "trainer.steps=4"]))
    assert trainer.fit()
    is_one_line_error(inside("image.train", *args, "trainer.steps=3"), "trainer.steps is 3", "step_00000004")


# --- the method


def first_steps(folder, *overrides):
    """The records of two steps."""
    trainer = make_trainer(folder, "trainer.steps=2", "trainer.log_every=1", "trainer.preview_every=0", *overrides)
    assert trainer.fit()
    return read_lines(trainer.run.path / "metrics.jsonl")


def test_layersync_changes_the_loss_by_its_term_and_then_the_weights(tmp_path):
    on = first_steps(tmp_path / "on", "alignment.weight=0.5", "optimizer.warmup_steps=0", "optimizer.lr=1e-2")
    baseline = [arg for arg in tiny(f"runs_dir={tmp_path / 'off'}") if not arg.startswith("alignment.")]
    extra = [
        "alignment=none",
        "optimizer.warmup_steps=0",
        "optimizer.lr=1e-2",
        "trainer.steps=2",
        "trainer.log_every=1",
    ]
    config = strict(ImageConfig, compose_config("image.conf", "train", [*baseline, *extra]))
    cpu = torch.device("cpu")
    run = RunDirectory.create(config.runs_dir, "image", config.name)
    assert Trainer(config, build_domain(config, cpu, evaluate=False), run, World()).fit()
    off = read_lines(run.path / "metrics.jsonl")
    assert on[0]["flow_loss"] == off[0]["flow_loss"] == off[0]["loss"]
    assert on[0]["loss"] == pytest.approx(on[0]["flow_loss"] - 0.5 * on[0]["similarity/1->2"])
    assert on[1]["gradient_norm"] != off[1]["gradient_norm"]
    assert not any("similarity" in key for line in off for key in line)


def test_the_seed_decides_the_run(tmp_path):
    runs = [first_steps(tmp_path / name, f"seed={seed}") for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert runs[0] == runs[1]
    assert runs[0][0]["flow_loss"] != runs[2][0]["flow_loss"]


def test_the_preview_shows_the_averaged_weights(run, tmp_path):
    """The same picture comes from the saved average, and another from the weights."""
    pictures = {}
    for group in ("ema", "model"):
        trainer = make_trainer(tmp_path / group)
        load_into(trainer.model, load_weights(newest(run), prefer=group), group)
        trainer.ema.load_state_dicts({"ema": trainer.model.state_dict()})
        trainer.step = STEPS
        trainer.preview()
        pictures[group] = trainer.run.path / "previews" / f"step_{STEPS:08d}.png"
    assert same_bytes(pictures["ema"], run / "previews" / pictures["ema"].name)
    assert not same_bytes(pictures["model"], pictures["ema"])


# --- numbers that are not finite


@pytest.mark.filterwarnings("error")  # a warning would stand on the user's screen beside the one line
def test_a_loss_that_is_not_finite_stops_before_the_weights_and_the_run_goes_on_later(run, tmp_path, monkeypatch):
    bad, original = 73, DigitsDataset.item
    positions = []

    def item(self, index, rng):
        positions.append(index)
        sample = original(self, index, rng)
        if len(positions) > bad * BATCH:
            sample["media"][0, 3, 3] = torch.nan
        return sample

    monkeypatch.setattr(DigitsDataset, "item", item)
    trainer = make_trainer(tmp_path)
    with pytest.raises(NonFiniteError, match=rf"step {bad + 1}: loss nan.*Rows of the data set in this batch: \[\d+"):
        trainer.fit()
    assert steps_of(trainer.run.path)[-1] == bad
    saved = read_checkpoint(newest(trainer.run.path))
    assert all(value.isfinite().all() for group in saved.groups.values() for value in group.values())
    monkeypatch.undo()
    again = make_trainer(tmp_path)
    assert again.fit()
    assert same_weights(newest(again.run.path), newest(run))


def test_a_learning_rate_that_explodes_is_told_with_its_step(inside, tmp_path):
    wild = ["optimizer.lr=1e30", "optimizer.warmup_steps=0", "optimizer.clip_norm=null", f"runs_dir={tmp_path}"]
    outcome = inside("image.train", *tiny(*wild))
    is_one_line_error(outcome, "error: step ", "loss nan", code=1)
    step = int(re.search(r"step (\d+): loss", outcome.err)[1])
    saved = read_checkpoint(newest(tmp_path / "image" / "digits"))
    assert saved.step == step - 1
    assert all(value.isfinite().all() for value in saved.groups["model"].values())

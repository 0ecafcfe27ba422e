"""What guards a run's folder: nothing is written by a run that is refused, nothing lost in silence, nothing by two."""

import json
import os
import shutil

import pytest
import torch

from core.commands.train import closing_lines
from core.step import TrainingLoss
from core.storage.lines import read_lines
from core.storage.run_folder import RunDirectory
from core.train.tracking import draw_curves
from core.train.trainer import Trainer
from tests.end_to_end.commands import call, is_one_line_error, newest, one_line_error, same_run, steps_of
from tests.end_to_end.image_runs import RUN
from tests.rows import every_row


@pytest.fixture
def copy(whole, tmp_path):
    """Puts a fresh copy of that run in place, in which the last words are missing."""

    def copy():
        shutil.rmtree(tmp_path / RUN, ignore_errors=True)
        shutil.copytree(whole, tmp_path / RUN)
        (tmp_path / RUN / "summary.json").unlink()
        return tmp_path / RUN

    return copy


def contents(run):
    """All files of a run but the lock, with when they were written."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(run)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def no_memory(*args):
    raise torch.OutOfMemoryError("CUDA out of memory.")


LATE = ["optimizer.lr=0.5", "trainer.keep_checkpoints=1", "trainer.keep_every=0"]


@every_row(
    ("change", "allowed", "message"),
    [
        ("backbone.depth=3", "backbone.depth", "is of another architecture"),
        ("trainer.steps=20", "trainer.steps", "has made 24 already"),
        ("conditioning.drop=0.2", "trainer", "another conditioning.drop"),
        ("tracking.tensorboard=on", "optimizer", "tensorboard is not installed"),
    ],
)
def test_a_run_that_is_refused_has_written_nothing(train, copy, monkeypatch, change, allowed, message):
    run = copy()
    monkeypatch.setattr("core.train.tracking._installed", lambda name: False)
    before = contents(run)
    outcome = train(*LATE, change, f"allow_changes=[optimizer.lr,{allowed}]")
    assert one_line_error(outcome, message) == "", outcome
    assert contents(run) == before


def test_a_change_binds_once_a_step_was_made_with_it(train, copy, whole, monkeypatch, tmp_path):
    run = copy()
    for step in (21, 24):
        shutil.rmtree(run / "checkpoints" / f"step_{step:08d}")
    config = (run / "config.yaml").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoss, "__call__", no_memory)
        is_one_line_error(train("trainer.batch_size=90", "allow_changes=[trainer.batch_size]"), "ran out", code=1)
    assert (run / "config.yaml").read_bytes() == config
    assert train().code == 0, "the command from before goes on"
    same_run(run, whole)


# --- manifests


def changed_step(run):
    manifest = newest(run) / "checkpoint.json"
    manifest.write_text(manifest.read_text().replace('"step": 24', '"step": 22'))


def beyond(run):
    manifest = newest(run) / "checkpoint.json"
    manifest.write_text(manifest.read_text().replace('"step": 24', '"step": 40'))


def older_without(*names):
    def damage(run):
        file = newest(run) / "checkpoint.json"
        manifest = json.loads(file.read_text())
        del manifest["sha256"]
        for name in names:
            del manifest["notes"][name]
        file.write_text(json.dumps(manifest))

    return damage


@every_row(
    "damage", [changed_step, beyond, older_without("seconds"), older_without("tokenizer"), older_without("code")]
)
def test_a_manifest_that_is_not_what_was_written_costs_one_checkpoint(train, copy, whole, damage):
    run = copy()
    damage(run)
    outcome = train()
    assert outcome.code == 0, outcome
    assert "step_00000024/checkpoint.json is damaged: " in outcome.err
    assert "it stays as step_00000024.damaged, and the one before it is used" in outcome.err
    shutil.rmtree(run / "checkpoints" / "step_00000024.damaged")
    same_run(run, whole)


def test_a_manifest_of_older_code_goes_on(train, copy, whole):
    run = copy()
    older_without("records")(run)
    outcome = train()
    assert (outcome.code, "damaged" in outcome.err) == (0, False), outcome
    assert [line["step"] for line in read_lines(run / "sessions.jsonl")] == [0, 24]


# --- records


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


@every_row(
    ("name", "damage", "words"),
    [
        (
            "metrics.jsonl",
            os.unlink,
            "24 of the 24 lines up to step 24 are lost or changed, and are not made again; none",
        ),
        (
            "metrics.jsonl",
            cut,
            "lines up to step 24 are lost or changed, and are not made again; those left are of steps 1",
        ),
        ("speed.jsonl", cut, "lines up to step 24 are lost or changed"),
        ("sessions.jsonl", os.unlink, "1 of the 1 lines up to step 24 are lost or changed"),
    ],
)
def test_records_that_are_lost_are_told(train, copy, name, damage, words):
    run = copy()
    damage(run / name)
    outcome = train("trainer.steps=24")
    assert outcome.code == 0, outcome
    assert f"{RUN / name}: " in outcome.err
    assert words in outcome.err
    assert outcome.err.count("are lost or changed") == 1, "only what is lost"
    (run / "summary.json").unlink()
    assert "are lost or changed" in train().err, "the checkpoint still knows them"


def test_a_run_whose_checkpoints_are_gone_tells_that_it_begins_anew(train, copy, whole):
    run = copy()
    shutil.rmtree(run / "checkpoints")
    outcome = train()
    assert outcome.code == 0, outcome
    assert (
        "runs/image/digits has no checkpoint: it begins anew, and 24 lines of metrics.jsonl are dropped" in outcome.err
    )
    same_run(run, whole)


# --- one writer


def remove(run):
    (run / ".lock").unlink()


def replace(run):
    remove(run)
    (run / ".lock").write_text("process 1 on another machine\n")


def rename(run):
    run.rename(run.with_name("elsewhere"))


def vanish(run):
    shutil.rmtree(run)


@every_row(("take", "where"), [(remove, RUN), (replace, RUN), (rename, RUN.with_name("elsewhere")), (vanish, None)])
def test_a_run_whose_folder_is_taken_stops_and_writes_no_more(train, whole, tmp_path, monkeypatch, take, where):
    update = Trainer.update
    for folder in (RUN, RUN.with_name("elsewhere")):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)

    def taken(self, *args):
        if self.step == 7:
            self.settle()
            self.saved.wait()
            take(tmp_path / RUN)
        return update(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", taken)
        outcome = train()
    assert one_line_error(outcome, "error: runs/image/digits does not belong to this process any more", code=1) == ""
    if where is None:
        assert not (tmp_path / RUN).exists()
        return
    assert steps_of(tmp_path / where) == [3, 6]
    assert [line["step"] for line in read_lines(tmp_path / where / "metrics.jsonl")] == list(range(1, 8))
    if where == RUN:
        assert train().code == 0
        same_run(tmp_path / RUN, whole)


def test_a_run_goes_on_with_other_pairs_and_with_lines_that_somebody_edited(train, tmp_path, monkeypatch):
    monkeypatch.setattr("core.train.tracking.draw_curves", draw_curves)  # of which other tests are spared
    args = ("backbone.depth=3", "trainer.checkpoint_every=2")
    assert train(*args, "trainer.steps=2").code == 0
    lines = (tmp_path / RUN / "metrics.jsonl").read_text().splitlines()
    (tmp_path / RUN / "metrics.jsonl").write_text(f'{lines[0]}\n{{"step": 2, "flow_loss": "by hand"}}\n')
    outcome = train(*args, "trainer.steps=4", "alignment.pairs=[[2,3]]", "allow_changes=[trainer.steps,alignment]")
    assert outcome.code == 0, outcome
    assert "metrics.jsonl: some of the 2 lines up to step 2 are lost or changed" in outcome.err
    assert [line["step"] for line in read_lines(tmp_path / RUN / "metrics.jsonl")] == [1, 2, 3, 4]


def test_the_next_command_is_of_the_domain_wherever_a_link_leads(tmp_path):
    (tmp_path / "scratch" / "a").mkdir(parents=True)
    (tmp_path / "image").symlink_to("scratch")
    summary = {"images_per_second": 1.0, "wall_seconds": 1.0, "parameters": 1, "steps": 1, "device": "cpu"}
    lines = closing_lines(RunDirectory(tmp_path / "image" / "a"), summary, "image", ".png", "num=1")
    assert any("python -m image.sample " in line for line in lines), lines


# --- files of another kind, and configs that do not fit


def folder_for(name):
    def make(run):
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return make


def file_for(name, text="x"):
    def make(run):
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).write_text(text)

    return make


@every_row(
    ("damage", "parts"),
    [
        (folder_for(".lock"), [".lock is no file"]),
        (folder_for("metrics.jsonl"), ["metrics.jsonl is no file"]),
        (folder_for("config.yaml"), ["config.yaml is no file"]),
        (folder_for("summary.json"), ["summary.json is no file"]),
        (file_for("checkpoints"), ["checkpoints is no folder"]),
        (file_for("previews"), ["previews is no folder"]),
        (file_for("summary.json"), ["summary.json is damaged"]),
        (file_for("summary.json", '{"steps": 24}'), ["summary.json is damaged"]),
        (folder_for("checkpoints/latest"), ["checkpoints/latest could not be written"]),
    ],
)
def test_a_folder_with_files_of_another_kind_is_told_and_its_checkpoints_stay(train, copy, damage, parts):
    run = copy()
    damage(run)
    before = steps_of(run)
    wrong = one_line_error(train(), *parts)
    assert wrong == "", wrong
    assert steps_of(run) == before


@every_row("text", ["", "seed: [0", "- 1", "trainer: 3", "trainer: {steps: x}", "objective: null", "1: 2"])
def test_a_damaged_config_is_one_line_that_names_it(train, copy, text):
    run = copy()
    whole = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text if ":" not in text or "[" in text else f"{whole}{text}\n")
    for outcome in (train("name=digits"), call("image.sample", f"run={run}", "num=1", "device=cpu")):
        assert outcome.code == 2, outcome
        assert one_line_error(outcome) == "", outcome
        assert "config.yaml" in outcome.err or "holds a run with another" in outcome.err
    (run / "config.yaml").write_text(whole)
    assert steps_of(run) == [12, 21, 24]

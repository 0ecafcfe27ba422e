"""Asking a run to stop, and who may write in its folder: real processes, real signals, workers beside them."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.end_to_end.commands import call, same_bytes, same_run, steps_of, told_to_stop
from tests.end_to_end.image_runs import MINUTE, RUN, uninterrupted

LONG = ["trainer.steps=240", "trainer.checkpoint_every=100", "trainer.preview_every=0", "trainer.keep_every=0"]
LONG += ["trainer.num_workers=2", "ema.snapshot_every=0"]
MEASURED = ["trainer.steps=6", "evaluation=digits", "evaluation.classifier_steps=5", "sampler.num_steps=10"]
MEASURED += ["sample_batch_size=16", "trainer.preview_every=0"]


@pytest.fixture(scope="module")
def whole(zygote, tmp_path_factory):
    """An undisturbed run."""
    return uninterrupted(zygote, tmp_path_factory.mktemp("whole"), *LONG)


def until_step(session, place, step):
    """Wait until a session has recorded `step`."""
    metrics = place / RUN / "metrics.jsonl"
    came = session.until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= step)
    assert came, session.said()


def members(session):
    """The processes of a session, without the dead that nobody has asked for: the command itself and its workers."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(number) == session.pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


# --- signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR2, 140)])
def test_a_signal_to_all_processes_of_a_run_finishes_the_step_and_saves(zygote, whole, tmp_path, number, code):
    session = zygote.train(*MINUTE, *LONG, cwd=tmp_path)
    until_step(session, tmp_path, 20)
    assert len(members(session)) == 3, "the command and two workers"
    os.killpg(session.pid, number)
    assert session.wait(20) == code, session.said()
    at = int(re.search(r"stopped after step (\d+) of 240; the same command continues", session.said())[1])
    assert 20 <= at < 240
    assert steps_of(tmp_path / RUN)[-1] == at
    assert (tmp_path / RUN / "metrics.jsonl").read_bytes().count(b"\n") == at
    assert "Traceback" not in session.said()
    assert members(session) == []
    uninterrupted(zygote, tmp_path, *LONG)
    same_run(tmp_path / RUN, whole)


def test_a_signal_before_the_first_step_is_done_leaves_one_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with told_to_stop(1):
        assert call("image.train", *MINUTE).code == 143
    assert steps_of(tmp_path / RUN) == [1]


def test_a_signal_while_samples_are_made_at_the_end_stops_soon_and_the_same_command_finishes(zygote, tmp_path):
    session = zygote.train(*MINUTE, *MEASURED, "sampler.num_steps=200", cwd=tmp_path)
    assert session.until(lambda: "sampling" in session.said()), session.said()
    os.kill(session.pid, signal.SIGTERM)
    assert session.wait(20) == 143, session.said()
    assert "stopped after step 6 of 6; the same command continues" in session.said()
    assert not (tmp_path / RUN / "summary.json").exists()
    again, whole = (uninterrupted(zygote, place, *MEASURED) for place in (tmp_path, _folder(tmp_path / "whole")))
    summaries = [json.loads((run / "summary.json").read_text()) for run in (again, whole)]
    assert summaries[0]["frechet_distance"] == summaries[1]["frechet_distance"]
    assert same_bytes(again / "previews" / "step_00000006.png", whole / "previews" / "step_00000006.png")


def _folder(path):
    path.mkdir()
    return path


# --- the lock


def test_a_second_process_is_refused_while_the_first_runs_and_not_after_it_was_killed(zygote, whole, tmp_path):
    first = zygote.train(*MINUTE, *LONG, cwd=tmp_path)
    until_step(first, tmp_path, 5)
    second = zygote.train(*MINUTE, *LONG, cwd=tmp_path)
    assert second.wait() == 2
    assert f"error: runs/image/digits is being written by process {first.pid} on " in second.said()
    assert first.poll() is None, "the first was not disturbed"
    assert first.kill()
    assert members(first), "its workers still live, and hold no lock"
    uninterrupted(zygote, tmp_path, *LONG)
    same_run(tmp_path / RUN, whole)

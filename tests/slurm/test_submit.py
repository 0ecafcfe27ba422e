"""Submitting to a scheduler that is faked: the batch script, one array for all, what is refused, the manifest."""

import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission, JobPaths

import slurm.launch
from slurm.manifest import locked
from slurm.sweep import load_sweep
from tests.rows import every_row
from tests.slurm.commands import launch
from tests.slurm.scheduler import FIRST, FOLDER, SECOND, attempts, finish

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sbatch_script.txt"


def test_the_batch_script_is_the_golden_one(scheduler, weights, tmp_path):
    """A task for each GPU of each node, both runs in one array, the warning, requeue; all of `resources` is in it."""
    weights(
        resources={
            "partition": "gpu",
            "account": "project",
            "qos": "long",
            "constraint": "a100|h100",
            "nodes": 2,
            "gpus_per_node": 4,
            "cpus_per_task": 12,
            "memory_gb": 256.5,
            "time": "1-12:00:00",
            "signal_seconds": 300,
            "array_limit": 1,
            "setup": ["module load cuda", "export NCCL_DEBUG=WARN"],
            "extra": {"exclusive": True, "mail-user": "me@example.org"},
        }
    )
    assert launch("sweep.yaml").code == 0
    (script,) = scheduler.submissions()
    golden = GOLDEN.read_text().format(python=shlex.quote(sys.executable), folder=tmp_path / FOLDER)
    assert script == golden


def test_a_dry_run_shows_what_would_be_submitted_and_leaves_nothing(scheduler, weights, tmp_path):
    """The script byte for byte, and every command with its config."""
    weights(grid={"alignment.weight": [0.1, 0.3, 0.5]}, overrides={"trainer.steps": 77})
    dry = launch("sweep.yaml", "--dry-run")
    assert dry.code == 0
    assert scheduler.calls() == []
    assert not (tmp_path / "runs").exists()
    for weight in (0.1, 0.3, 0.5):
        command = f"python -m image.train trainer.steps=77 alignment.weight={weight} seed=0 name=weight{weight}-seed0"
        assert command in dry.out
        assert re.search(rf"  alignment:\n(    .*\n)*?    weight: {weight}\n", dry.out)
    assert dry.out.count("    steps: 77\n") == 3
    assert launch("sweep.yaml").code == 0
    (script,) = scheduler.submissions()
    assert script in dry.out and "#SBATCH --array=0-2%3\n" in script


def test_words_with_spaces_and_quotes_stay_one_word_in_the_script(scheduler, weights, tmp_path):
    extra = {"comment": 'it\'s "ours" #1', "mail-user": "me@example.org"}
    weights(grid={}, runs_dir="two words", resources={"python": "/opt/my env/bin/python", "extra": extra})
    assert launch("sweep.yaml").code == 0
    (script,) = scheduler.submissions()
    lines = script.splitlines()
    assert "#SBATCH --comment='it'\"'\"'s \"ours\" #1'" in lines
    words = shlex.split(lines[-1])
    assert words[words.index("/opt/my env/bin/python") :][1:4] == ["-u", "-m", "submitit.core._submit"]
    assert words[-1] == str(tmp_path / "two words/sweeps/weights/logs")


def test_a_folder_that_slurm_renames_is_refused_wherever_it_lies(scheduler, weights, tmp_path, monkeypatch):
    place = tmp_path / "of%j"
    place.mkdir()
    monkeypatch.chdir(place)
    for option in ([], ["--dry-run"]):
        assert launch(tmp_path / "sweep.yaml", *option).is_error(f"runs_dir gives {place}/runs", "without %")
    assert scheduler.submissions() == [] and list(place.iterdir()) == []


def test_one_run_is_no_array(scheduler, weights):
    weights(grid={})
    assert launch("sweep.yaml").code == 0
    assert "--array" not in scheduler.submissions()[0]
    assert attempts() == {"seed0": ["100"]}


def test_all_runs_go_in_one_array_and_each_job_is_told_its_run(scheduler, weights, tmp_path):
    """A question for the resources, one for the array, one sbatch; behind each element lies its own run."""
    done = launch("sweep.yaml")
    assert (done.code, done.err) == (0, "")
    assert "submitted 2 runs: 100_0, 100_1" in done.out
    assert [call.split()[1] == "--test-only" for call in scheduler.calls("sbatch")] == [True, True, False]
    assert attempts() == {FIRST: ["100_0"], SECOND: ["100_1"]}
    for name, job in ((FIRST, "100_0"), (SECOND, "100_1")):
        submission = DelayedSubmission.load(JobPaths(tmp_path / FOLDER / "logs", job).submitted_pickle)
        assert submission.function.entry == "image.train"
        assert submission.function.name == f"weights-{name}"
        assert f"name={name}" in submission.function.arguments
        assert f"runs_dir={FOLDER}" in submission.function.arguments
        assert (submission._timeout_min, submission._timeout_countdown) == (60, 100)


def test_the_same_sweep_twice_starts_only_what_is_missing(scheduler, weights):
    launch("sweep.yaml")
    scheduler.say({"100_[0-1%2]": "PENDING"})
    again = launch("sweep.yaml")
    assert again.code == 0
    assert "0 runs are done, 2 wait or run" in again.out
    assert len(scheduler.submissions()) == 1
    finish(FIRST)
    weights(grid={"alignment.weight": [0.1, 0.3, 0.5]})
    more = launch("sweep.yaml")
    assert "1 runs are done, 1 wait or run" in more.out
    assert attempts() == {FIRST: ["100_0"], SECOND: ["100_1"], "weight0.5-seed0": ["200"]}


def test_what_failed_is_started_again_by_resubmit_alone(scheduler, weights):
    launch("sweep.yaml")
    scheduler.say({"100_0": "FAILED", "100_1": "RUNNING"})
    again = launch("sweep.yaml")
    assert "1 runs have stopped before their end; `resubmit` starts them again" in again.out
    assert len(scheduler.submissions()) == 1
    resubmitted = launch("resubmit", "sweep.yaml")
    assert "submitted 1 runs: 200" in resubmitted.out
    assert attempts() == {FIRST: ["100_0", "200"], SECOND: ["100_1"]}
    scheduler.say({"200": "CANCELLED by 0", "100_1": "TIMEOUT"})
    launch("resubmit", "sweep.yaml")
    assert attempts() == {FIRST: ["100_0", "200", "300_0"], SECOND: ["100_1", "300_1"]}


def test_a_submission_that_fails_half_way_says_what_was_submitted_and_resubmit_completes_it(scheduler, weights):
    weights(seeds=[0, 1, 2], resources={"array_size": 2})
    scheduler.fail("sbatch.2", "sbatch: error: Batch job submission failed: Unable to contact slurm controller")
    half = launch("sweep.yaml")
    assert half.is_error("2 of 6 runs were submitted as 100_0, 100_1", "Unable to contact", "the other 4")
    assert [len(ids) for ids in attempts().values()] == [1, 1, 0, 0, 0, 0]
    scheduler.say({"100_[0-1]": "PENDING"})
    assert "submitted 4 runs: 300_0, 300_1, 400_0, 400_1" in launch("resubmit", "sweep.yaml").out
    assert [len(ids) for ids in attempts().values()] == [1] * 6


SUBMIT_LIMIT = "error: AssocMaxSubmitJobLimit"


@pytest.fixture
def unchecked(monkeypatch):
    """Sweeps of many runs, whose configs are not composed: that is looked at elsewhere."""
    monkeypatch.setattr(slurm.launch, "check_runs", lambda sweep, cases: None)


def test_a_sweep_longer_than_slurm_takes_is_submitted_up_to_the_limit_and_the_next_call_goes_on(
    scheduler, weights, unchecked
):
    """110 runs where 100 are allowed; nothing is left of what was not submitted."""
    weights(grid={}, seeds=list(range(110)))
    scheduler.limit(100, SUBMIT_LIMIT)
    first = launch("sweep.yaml")
    assert first.is_error("100 of 110 runs were submitted as 100_0, 100_1, ..., 100_99,", "AssocMaxSubmitJobLimit")
    assert first.is_error("MaxSubmitJobs", "MaxJobCount", "MaxArraySize", "the same command submits the other 10")
    assert len(scheduler.submissions()) == 1
    assert len(list((FOLDER / "logs").glob("*.pkl"))) == 100
    scheduler.say({"100_[0-99]": "PENDING"})
    again = launch("sweep.yaml")
    assert again.is_error("0 of 10 runs were submitted, then SLURM took no more", "the other 10")
    assert "100 wait or run" in again.out
    scheduler.limit(1000, SUBMIT_LIMIT)
    assert "submitted 10 runs: 200_0, " in launch("sweep.yaml").out
    assert "100 wait or run" in again.out
    assert [len(ids) for ids in attempts().values()] == [1] * 110


@every_row(
    ("jobs", "words", "arrays"),
    [
        (3, "allocation failure: Invalid job array specification", [3]),
        (5, "error: QOSMaxSubmitJobPerUserLimit", [5]),
        (1, "error: Slurm temporarily unable to accept job: Resource temporarily unavailable", [1]),
    ],
)
def test_the_longest_array_that_slurm_takes_is_found(scheduler, weights, unchecked, jobs, words, arrays):
    weights(grid={}, seeds=list(range(7)), name=f"of{jobs}")
    scheduler.limit(jobs, words)
    for old in scheduler.folder.glob("sbatch.accepted.*"):
        old.unlink()
    before = len(scheduler.submissions())
    assert launch("sweep.yaml").is_error(f"{jobs} of 7 runs were submitted", words.partition(": ")[2])
    sizes = [
        1 + int(found[1]) if (found := re.search(r"--array=0-(\d+)", script)) else 1
        for script in scheduler.submissions()[before:]
    ]
    assert sizes == arrays


def test_the_size_of_an_array_is_a_resource(scheduler, weights, unchecked):
    weights(grid={}, seeds=list(range(3)), resources={"array_size": 2})
    dry = launch("sweep.yaml", "--dry-run").out
    assert [line for line in dry.splitlines() if line.startswith("# batch script")] == [
        f"# batch script of {jobs} runs" for jobs in (2, 1)
    ]
    assert "submitted 3 runs: 100_0, 100_1, 200" in launch("sweep.yaml").out


# What is refused


def test_an_answer_of_sbatch_without_a_job_is_told(scheduler, weights):
    sbatch = scheduler.folder / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("Submitted batch job", "Look, squirrel"))
    assert launch("sweep.yaml").is_error("0 of 2 runs were submitted, then sbatch failed", "Look, squirrel")


def test_where_there_is_no_slurm_a_dry_run_is_all_that_can_be_had(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    dry = launch("sweep.yaml", "--dry-run")
    assert (dry.code, dry.err) == (0, "")
    assert "#SBATCH --array=0-1%2\n" in dry.out
    assert launch("sweep.yaml").is_error("no SLURM on this machine (no sbatch)", "--local N", "--dry-run")
    assert not (tmp_path / "runs").exists()


def test_what_slurm_refuses_is_refused_before_anything_is_written(scheduler, weights, tmp_path):
    weights(resources={"partition": "nowhere"})
    refusal = (
        "sbatch: error: invalid partition specified: nowhere\nallocation failure: Invalid partition name specified"
    )
    (scheduler.folder / "sbatch.refusal").write_text(refusal)
    refused = launch("sweep.yaml")
    assert refused.is_error("SLURM refuses the resources of the sweep", "nowhere", "Invalid partition name specified")
    assert scheduler.submissions() == []
    assert not (tmp_path / "runs").exists()


# The manifest


def manifest(**changes):
    """A manifest of one run as text, with keys of the run or of its attempt changed."""
    attempt = {"kind": "slurm", "job_id": "1", "time": "2026-01-31T12:00:00+00:00"}
    attempt |= {key: value for key, value in changes.items() if key in attempt}
    run = {"arguments": [], "attempts": [attempt], **{key: changes[key] for key in changes if key not in attempt}}
    return json.dumps({"schema_version": 1, "entry": "image.train", "runs": {"a": run}})


@every_row(
    ("action", "content", "parts"),
    [
        ("submit", '{"schema_version": 2, "entry": "image.train", "runs": {}}', ["version 2; this version reads 1"]),
        ("resubmit", '{"runs": {}}', ["schema_version None; this version reads 1"]),
        ("submit", '{"schema_version": 1, "entry"', ["is damaged"]),
        ("status", "[]", ["is damaged"]),
        ("submit", "[" * 20_000, ["is damaged", "RecursionError"]),
        ("status", manifest(arguments=None), ["is damaged", "'runs.a.arguments' is None"]),
        ("submit", manifest(attempts={}), ["is damaged", "'runs.a.attempts' is {}"]),
        ("cancel", manifest(job_id=3), ["is damaged", "runs.a.attempts[0].job_id", "is 3 of type int"]),
        ("status", manifest(kind="cloud"), ["is damaged", "'runs.a.attempts[0].kind' is 'cloud'"]),
        ("status", manifest(time="soon"), ["is damaged", "soon"]),
        ("status", manifest(time="2026-01-31T12:00:00"), ["is damaged", "UTC"]),
        ("cancel", '{"schema_version": 1, "entry": "image.train"}', ["is damaged", "runs"]),
        ("collect", '{"schema_version": 1, "entry": "image.train", "runs": {"a": {"attempts": [{}]}}}', ["is damaged"]),
        ("status", '{"schema_version": 1, "entry": "image.sample", "runs": {}}', ["a sweep of image.sample, this one"]),
    ],
)
def test_a_manifest_that_is_not_ours_is_told_with_its_path(scheduler, weights, content, parts, action):
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "manifest.json").write_text(content)
    assert launch(action, "sweep.yaml").is_error(f"{FOLDER}/manifest.json", *parts)
    assert scheduler.submissions() == []
    assert (FOLDER / "manifest.json").read_text() == content


def test_another_case_under_a_known_name_is_refused(scheduler, weights):
    weights(grid={}, cases=[{"case": "a", "trainer.steps": 9}])
    launch("sweep.yaml")
    before = (FOLDER / "manifest.json").read_bytes()
    weights(grid={}, cases=[{"case": "b"}, {"case": "a", "trainer.steps": 10}])
    refused = launch("sweep.yaml")
    assert refused.is_error("run a-seed0 with other keys (trainer.steps=9 before, trainer.steps=10 now)")
    assert (FOLDER / "manifest.json").read_bytes() == before
    assert len(scheduler.submissions()) == 1


def test_a_manifest_that_older_quotes_were_written_in_is_taken(scheduler, weights):
    """Text that looks like a number stood without quotes in it."""
    weights(grid={}, cases=[{"case": "a", "optimizer.lr": "1e-4", "tracking.wandb_project": "two words"}])
    launch("sweep.yaml")
    file = FOLDER / "manifest.json"
    assert r'"optimizer.lr=\"1e-4\""' in file.read_text()
    file.write_text(file.read_text().replace(r'"optimizer.lr=\"1e-4\""', '"optimizer.lr=1e-4"'))
    scheduler.say({"100": "PENDING"})
    again = launch("sweep.yaml")
    assert (again.code, again.err) == (0, "")
    assert "1 wait or run" in again.out and len(scheduler.submissions()) == 1


def test_a_run_directory_of_somebody_else_is_refused(scheduler, weights):
    (FOLDER / "image" / SECOND).mkdir(parents=True)
    (FOLDER / "image" / SECOND / "config.yaml").write_text("{}")
    assert launch("sweep.yaml").is_error(f"{FOLDER}/image/{SECOND} holds a run that does not belong to this sweep")
    assert scheduler.submissions() == []
    assert not (FOLDER / "manifest.json").exists()


def test_two_commands_at_once_are_refused(scheduler, weights):
    """Locks are between processes: another one holds it."""
    launch("sweep.yaml")
    child = os.fork()
    if child == 0:
        with locked(load_sweep("sweep.yaml")):
            (FOLDER / "held").touch()
            signal.pause()
        os._exit(1)
    try:
        while not (FOLDER / "held").exists():
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
        for action in ("submit", "resubmit", "cancel"):
            assert launch(action, "sweep.yaml").is_error("another command is at work", str(FOLDER))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert launch("sweep.yaml").code == 0
    assert len(scheduler.submissions()) == 1


@pytest.mark.usefixtures("scheduler", "weights")
def test_a_sweep_that_was_never_submitted_is_told(tmp_path):
    for action in ("status", "cancel", "collect"):
        assert launch(action, "sweep.yaml").is_error(f"the sweep {FOLDER} was never submitted")
    assert not (tmp_path / "runs").exists()

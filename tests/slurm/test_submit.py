"""Submitting to a scheduler that is faked: scripts in PATH that note how they are called and answer as SLURM does."""

import json
import os
import pickle
import re
import shlex
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest
import submitit
import yaml
from submitit.core.submission import process_job
from submitit.core.utils import DelayedSubmission, JobPaths

import slurm.job
import slurm.submit
from core.processes.signals import STOP_SIGNALS, StopRequest
from slurm.job import TrainingJob
from slurm.manifest import Manifest, locked
from slurm.status import ACTIVE
from slurm.sweep import load_sweep
from tests.slurm.commands import launch

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sbatch_script.txt"
TWO = {"name": "weights", "entry": "image.train", "grid": {"alignment.weight": [0.1, 0.3]}}
FIRST, SECOND = "weight0.1-seed0", "weight0.3-seed0"
FOLDER = Path("runs/sweeps/weights")
SBATCH = """#!/bin/sh
echo "sbatch $*" >> "$0.calls"
if [ "$1" = --test-only ]; then
  [ ! -e "$0.refusal" ] || { cat "$0.refusal" >&2; exit 1; }
  echo "sbatch: Job 1 to start at 2026-01-31T12:00:00 using 2 processors on nodes n1 in partition debug" >&2
  exit 0
fi
number=$(($(ls "$0".script.* 2>/dev/null | wc -l) + 1))
cp "$1" "$0.script.$number"
[ ! -e "$0.failure.$number" ] || { cat "$0.failure.$number" >&2; exit 1; }
echo "Submitted batch job ${number}00"
"""
OTHER = """#!/bin/sh
echo "${0##*/} $*" >> "${0%/*}/sbatch.calls"
[ ! -e "$0.failure" ] || { cat "$0.failure" >&2; exit 1; }
[ ! -e "$0.answer" ] || cat "$0.answer"
"""


class Scheduler:
    """SLURM's commands in a folder, first in PATH."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
            path = folder / name
            path.write_text(SBATCH if name == "sbatch" else OTHER)
            path.chmod(0o755)
        self.say({})

    def calls(self, command=""):
        """The command lines so far, those of one command."""
        file = self.folder / "sbatch.calls"
        return [line for line in (file.read_text().splitlines() if file.exists() else []) if line.startswith(command)]

    def submissions(self):
        """The batch scripts submitted, in their order."""
        return [path.read_text() for path in sorted(self.folder.glob("sbatch.script.*"))]

    def say(self, states):
        """Let sacct know jobs: id -> state."""
        lines = ["JobID|State", *(f"{job}|{state}" for job, state in states.items())]
        (self.folder / "sacct.answer").write_text("\n".join(lines) + "\n")

    def fail(self, command, words):
        """From now on a command (or "sbatch.2", the second submission) fails."""
        name, _, number = command.partition(".")
        (self.folder / f"{name}.failure{'.' + number if number else ''}").write_text(words + "\n")


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """A fake SLURM, and a working directory."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return Scheduler(folder)


@pytest.fixture
def write(tmp_path):
    """Writes sweep.yaml: two runs, and the keys given."""

    def write_sweep(**keys):
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**TWO, **keys}, sort_keys=False))

    write_sweep()
    return write_sweep


def attempts():
    """The manifest's job ids by run."""
    runs = json.loads((FOLDER / "manifest.json").read_text())["runs"]
    return {name: [attempt["job_id"] for attempt in run["attempts"]] for name, run in runs.items()}


def finish(name):
    """Let a run be complete."""
    folder = FOLDER / "image" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"steps": 9, "device": "cpu", "frechet_distance": 2.5}))


# Batch scripts


def test_the_batch_script_is_the_golden_one(scheduler, write, tmp_path):
    """A task for each GPU of each node, both runs in one array, the warning, requeue; all of `resources` is in it."""
    write(
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


@pytest.mark.parametrize("weights", [[0.1], [0.1, 0.3, 0.5]])
def test_a_dry_run_shows_what_would_be_submitted_and_leaves_nothing(scheduler, write, tmp_path, weights):
    """The script byte for byte, and every command with its config."""
    write(grid={"alignment.weight": weights}, overrides={"trainer.steps": 77})
    dry = launch("sweep.yaml", "--dry-run")
    assert dry.code == 0
    assert scheduler.calls() == []
    assert not (tmp_path / "runs").exists()
    for weight in weights:
        command = f"python -m image.train trainer.steps=77 alignment.weight={weight} seed=0 name=weight{weight}-seed0"
        assert command in dry.out
        assert re.search(rf"  alignment:\n(    .*\n)*?    weight: {weight}\n", dry.out)
    assert dry.out.count("    steps: 77\n") == len(weights)
    assert launch("sweep.yaml").code == 0
    (script,) = scheduler.submissions()
    assert script in dry.out


def test_a_dry_run_needs_no_slurm(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    dry = launch("sweep.yaml", "--dry-run")
    assert (dry.code, dry.err) == (0, "")
    assert "#SBATCH --array=0-1%2\n" in dry.out


def test_one_run_is_no_array(scheduler, write):
    write(grid={})
    assert launch("sweep.yaml").code == 0
    assert "--array" not in scheduler.submissions()[0]
    assert attempts() == {"seed0": ["100"]}


# Submitting


def test_all_runs_go_in_one_array_and_each_job_is_told_its_run(scheduler, write, tmp_path):
    """One question, one sbatch; behind each element of the array lies its own run."""
    done = launch("sweep.yaml")
    assert (done.code, done.err) == (0, "")
    assert "submitted 2 runs: 100_0, 100_1" in done.out
    assert [call.split()[1] == "--test-only" for call in scheduler.calls("sbatch")] == [True, False]
    assert attempts() == {FIRST: ["100_0"], SECOND: ["100_1"]}
    for name, job in ((FIRST, "100_0"), (SECOND, "100_1")):
        submission = DelayedSubmission.load(JobPaths(tmp_path / FOLDER / "logs", job).submitted_pickle)
        assert submission.function.entry == "image.train"
        assert submission.function.name == f"weights-{name}"
        assert f"name={name}" in submission.function.arguments
        assert f"runs_dir={FOLDER}" in submission.function.arguments
        assert (submission._timeout_min, submission._timeout_countdown) == (60, 100)


def test_the_array_limit_bounds_how_many_run_at_once(scheduler, write):
    write(seeds=list(range(5)), resources={"array_limit": 3})
    launch("sweep.yaml")
    assert "#SBATCH --array=0-9%3\n" in scheduler.submissions()[0]


def test_the_same_sweep_twice_starts_only_what_is_missing(scheduler, write):
    launch("sweep.yaml")
    scheduler.say({"100_[0-1%2]": "PENDING"})
    again = launch("sweep.yaml")
    assert again.code == 0
    assert "0 runs are done, 2 wait or run" in again.out
    assert len(scheduler.submissions()) == 1
    finish(FIRST)
    write(grid={"alignment.weight": [0.1, 0.3, 0.5]})
    more = launch("sweep.yaml")
    assert "1 runs are done, 1 wait or run" in more.out
    assert attempts() == {FIRST: ["100_0"], SECOND: ["100_1"], "weight0.5-seed0": ["200"]}


def test_what_failed_is_started_again_by_resubmit_alone(scheduler, write):
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


def test_a_submission_that_fails_half_way_says_what_was_submitted_and_resubmit_completes_it(
    scheduler, write, monkeypatch
):
    monkeypatch.setattr(slurm.submit, "ARRAY_SIZE", 2)
    write(seeds=[0, 1, 2])
    scheduler.fail("sbatch.2", "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy")
    half = launch("sweep.yaml")
    assert half.is_error("2 of 6 runs were submitted as 100_0, 100_1", "accounting/QOS policy", "the other 4")
    assert [len(ids) for ids in attempts().values()] == [1, 1, 0, 0, 0, 0]
    scheduler.say({"100_[0-1]": "PENDING"})
    assert "submitted 4 runs: 300_0, 300_1, 400_0, 400_1" in launch("resubmit", "sweep.yaml").out
    assert [len(ids) for ids in attempts().values()] == [1] * 6


def test_an_answer_of_sbatch_without_a_job_is_told(scheduler, write, tmp_path):
    sbatch = scheduler.folder / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("Submitted batch job", "Look, squirrel"))
    assert launch("sweep.yaml").is_error("0 of 2 runs were submitted, then sbatch failed", "Look, squirrel")


def test_where_there_is_no_slurm_nothing_is_written(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch("sweep.yaml").is_error("no SLURM on this machine (no sbatch)", "--local N", "--dry-run")
    assert not (tmp_path / "runs").exists()


def test_what_slurm_refuses_is_refused_before_anything_is_written(scheduler, write, tmp_path):
    write(resources={"partition": "nowhere"})
    refusal = (
        "sbatch: error: invalid partition specified: nowhere\nallocation failure: Invalid partition name specified"
    )
    (scheduler.folder / "sbatch.refusal").write_text(refusal)
    refused = launch("sweep.yaml")
    assert refused.is_error("SLURM refuses the resources of the sweep", "nowhere", "Invalid partition name specified")
    assert scheduler.submissions() == []
    assert not (tmp_path / "runs").exists()


# The manifest


@pytest.mark.parametrize("action", ["submit", "resubmit", "status", "cancel", "collect"])
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"schema_version": 2, "entry": "image.train", "runs": {}}', ["schema_version 2; this version reads 1"]),
        ('{"runs": {}}', ["schema_version None; this version reads 1"]),
        ('{"schema_version": 1, "entry"', ["is damaged"]),
        ("[]", ["is damaged"]),
        ('{"schema_version": 1, "entry": "image.train"}', ["is damaged", "runs"]),
        ('{"schema_version": 1, "entry": "image.train", "runs": {"a": {"attempts": [{}]}}}', ["is damaged"]),
        ('{"schema_version": 1, "entry": "image.sample", "runs": {}}', ["a sweep of image.sample, this one is of"]),
    ],
)
def test_a_manifest_that_is_not_ours_is_told_with_its_path(scheduler, write, content, parts, action):
    FOLDER.mkdir(parents=True)
    (FOLDER / "manifest.json").write_text(content)
    assert launch(action, "sweep.yaml").is_error(f"{FOLDER}/manifest.json", *parts)
    assert scheduler.submissions() == []
    assert (FOLDER / "manifest.json").read_text() == content


def test_another_case_under_a_known_name_is_refused(scheduler, write):
    write(grid={}, cases=[{"case": "a", "trainer.steps": 9}])
    launch("sweep.yaml")
    before = (FOLDER / "manifest.json").read_bytes()
    write(grid={}, cases=[{"case": "b"}, {"case": "a", "trainer.steps": 10}])
    refused = launch("sweep.yaml")
    assert refused.is_error("run a-seed0 with other keys (trainer.steps=9 before, trainer.steps=10 now)")
    assert (FOLDER / "manifest.json").read_bytes() == before
    assert len(scheduler.submissions()) == 1


def test_a_run_directory_of_somebody_else_is_refused(scheduler, write):
    (FOLDER / "image" / SECOND).mkdir(parents=True)
    (FOLDER / "image" / SECOND / "config.yaml").write_text("{}")
    assert launch("sweep.yaml").is_error(f"{FOLDER}/image/{SECOND} holds a run that does not belong to this sweep")
    assert scheduler.submissions() == []
    assert not (FOLDER / "manifest.json").exists()


@pytest.mark.parametrize("action", ["submit", "resubmit", "cancel"])
def test_two_commands_at_once_are_refused(scheduler, write, action):
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
        assert launch(action, "sweep.yaml").is_error("another command is at work", str(FOLDER))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert launch(action, "sweep.yaml").code == 0
    assert len(scheduler.submissions()) == 1


@pytest.mark.parametrize("action", ["status", "cancel", "collect"])
def test_a_sweep_that_was_never_submitted_is_told(scheduler, write, action, tmp_path):
    assert launch(action, "sweep.yaml").is_error(f"the sweep {FOLDER} was never submitted")
    assert not (tmp_path / "runs").exists()


# Status, cancel, collect

ENDS = ["BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"]
SHOWN = {"CANCELLED by 1000": "cancelled", "CANCELLED+": "cancelled", "COMPLETED": "stopped"}
SHOWN |= {word: word.lower() for word in (*ENDS, *ACTIVE)}


def test_status_tells_every_word_of_sacct_and_resubmit_starts_the_ends_again(scheduler, write):
    write(grid={}, seeds=list(range(len(SHOWN))))
    launch("sweep.yaml")
    scheduler.say({f"100_{number}": word for number, word in enumerate(SHOWN)} | {"100_0.batch": "RUNNING"})
    rows = [row.split() for row in launch("status", "sweep.yaml").out.splitlines()[1:]]
    assert [row[1] for row in rows] == list(SHOWN.values())
    launch("resubmit", "sweep.yaml")
    again = [len(ids) == 2 for ids in attempts().values()]
    assert again == [word not in ACTIVE for word in SHOWN]


def test_status_asks_slurm_once_for_all_runs_and_shows_how_far_they_are(scheduler, write):
    """One that is done, one that runs and has written its records, one that waits."""
    write(grid={"alignment.weight": [0.1, 0.3, 0.5]}, metric="frechet_distance")
    launch("sweep.yaml")
    scheduler.say({"100_0": "COMPLETED", "100_1": "RUNNING", "100_[2]": "PENDING"})
    finish(FIRST)
    running = FOLDER / "image" / SECOND
    running.mkdir(parents=True)
    (running / "metrics.jsonl").write_text('{"step": 10, "loss": 1.5}\n{"step": 20, "loss": 1.25}\n{"step": 30, "lo')
    (running / "speed.jsonl").write_text('{"step": 20, "images_per_second": 100.0}\n')
    (running / "config.yaml").write_text("trainer: {steps: 1220, batch_size: 10}\n")
    before = len(scheduler.calls())
    table = launch("status", "sweep.yaml").out
    assert table.splitlines() == [
        "run              state    job    step  loss    frechet_distance  time left",
        "weight0.1-seed0  done     100_0  9     -       2.5               -",
        "weight0.3-seed0  running  100_1  20    1.2500  -                 2 min",
        "weight0.5-seed0  pending  100_2  -     -       -                 -",
    ]
    assert scheduler.calls()[before:] == ["sacct -o JobID,State --parsable2 -X -j 100_0,100_1,100_2"]


def test_without_a_named_metric_status_shows_the_first_measure(scheduler, write):
    launch("sweep.yaml")
    finish(FIRST)
    assert launch("status", "sweep.yaml").out.splitlines()[1].split() == [FIRST, "done", "100_0", "9", "-", "2.5", "-"]


def test_status_names_what_a_failed_run_said_last(scheduler, write, tmp_path):
    """The run's own error, in whichever process, before what follows from it; without one the last line."""
    write(grid={"alignment.weight": [0.1, 0.3, 0.5, 0.7]}, resources={"tasks_per_node": 2})
    launch("sweep.yaml")
    scheduler.say({"100_[0-3]": "FAILED"})

    def log(element, task, text):
        (FOLDER / "logs" / f"100_{element}_{task}_log.out").write_text(text)

    log(0, 0, "Traceback\nValueError: x\nerror: the disk is full\nsrun: error: task 0: Exited with exit code 2\n")
    log(1, 0, "RuntimeError: Connection closed by peer\n")
    log(1, 1, "error in process 1: no GPU\n\n")
    log(2, 0, "submitit INFO\nslurmstepd: error: *** STEP 7.0 ON n1 CANCELLED ***\nbye\n")
    log(3, 0, "begun\nstopped after step 4 of 9\n")
    shown = launch("status", "sweep.yaml").out.splitlines()[5:]
    assert shown == [
        "weight0.1-seed0: error: the disk is full",
        "weight0.3-seed0: error in process 1: no GPU",
        "weight0.5-seed0: slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED ***",
        "weight0.7-seed0: stopped after step 4 of 9",
    ]


def test_a_new_job_that_the_accounts_do_not_know_yet_waits_and_an_old_one_is_lost(scheduler, write):
    launch("sweep.yaml")
    sweep = load_sweep("sweep.yaml")
    content = json.loads((FOLDER / "manifest.json").read_text())
    content["runs"][SECOND]["attempts"][0]["time"] = "2020-01-31T12:00:00+00:00"
    (FOLDER / "manifest.json").write_text(json.dumps(content))
    rows = launch("status", "sweep.yaml").out.splitlines()[1:]
    assert [row.split()[1] for row in rows] == ["pending", "unknown"]
    launch("resubmit", "sweep.yaml")
    assert [len(record.attempts) for record in Manifest.load(sweep).runs.values()] == [1, 2]


@pytest.mark.parametrize("action", ["submit", "resubmit", "status", "cancel"])
def test_sacct_that_does_not_answer_is_told(scheduler, write, action):
    launch("sweep.yaml")
    scheduler.fail("sacct", "sacct: error: Slurm accounting storage is disabled")
    refused = launch(action, "sweep.yaml")
    assert refused.is_error("sacct does not answer", "Slurm accounting storage is disabled")
    assert len(scheduler.submissions()) == 1


def test_status_on_a_machine_without_slurm_is_told(scheduler, write, monkeypatch, tmp_path):
    launch("sweep.yaml")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch("status", "sweep.yaml").is_error("no SLURM on this machine (no sacct)")


def test_cancel_ends_what_waits_or_runs(scheduler, write):
    write(grid={"alignment.weight": [0.1, 0.3, 0.5, 0.7]})
    launch("sweep.yaml")
    finish(FIRST)
    scheduler.say({"100_0": "COMPLETED", "100_1": "RUNNING", "100_2": "FAILED", "100_[3]": "PENDING"})
    assert "cancelled 2 jobs: 100_1, 100_3" in launch("cancel", "sweep.yaml").out
    assert scheduler.calls("scancel") == ["scancel 100_1 100_3"]
    scheduler.say({"100_0": "COMPLETED", "100_[1-3]": "CANCELLED by 0"})
    assert "cancelled 0 jobs" in launch("cancel", "sweep.yaml").out
    assert len(scheduler.calls("scancel")) == 1


def test_scancel_that_fails_is_told(scheduler, write):
    launch("sweep.yaml")
    scheduler.fail("scancel", "scancel: error: Kill job error on job id 100_0: Access/permission denied")
    assert launch("cancel", "sweep.yaml").is_error("does not cancel 100_0, 100_1", "Access/permission denied")


def test_collect_writes_a_row_for_each_run_and_means_over_seeds(scheduler, write):
    write(seeds=[0, 1])
    launch("sweep.yaml")
    assert launch("collect", "sweep.yaml").is_error(f"no run of {FOLDER} is complete yet")
    for name, distance in (("weight0.1-seed0", 2.0), ("weight0.1-seed1", 3.0), ("weight0.3-seed1", 5.0)):
        finish(name)
        summary = {"steps": 9, "images_per_second": 7.5, "device": "cpu", "frechet_distance": distance}
        (FOLDER / "image" / name / "summary.json").write_text(json.dumps(summary))
    done = launch("collect", "sweep.yaml")
    assert (FOLDER / "summary.csv").read_text().splitlines() == [
        "run,seed,steps,images_per_second,device,frechet_distance",
        "weight0.1,0,9,7.5,cpu,2.0",
        "weight0.1,1,9,7.5,cpu,3.0",
        "weight0.3,1,9,7.5,cpu,5.0",
    ]
    assert (FOLDER / "summary.md").read_text().splitlines() == [
        "| run | seeds | frechet_distance |",
        "|---|---|---|",
        "| weight0.1 | 2 | 2.5 ± 0.7071 |",
        "| weight0.3 | 1 | 5 |",
    ]
    assert (FOLDER / "summary.md").read_text() in done.out


# The job


@pytest.fixture
def handlers():
    """Signal handlers as they were, afterwards."""
    numbers = (*STOP_SIGNALS, signal.SIGCONT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def place(scheduler, monkeypatch, handlers):
    """Sets the environment of a task, and what the entry does there; waits are short and noted."""
    waits = []
    monkeypatch.setattr(slurm.job, "time", SimpleNamespace(sleep=waits.append))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that what the job sets is gone afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("LAYERSYNC_DEBUG", "1")

    def set_up(run, cluster="slurm", rank=0, tasks=1):
        prefix = "SLURM" if cluster == "slurm" else "SUBMITIT_LOCAL"
        names = {"NTASKS": tasks, "JOB_NUM_NODES": 1, "NODEID": 0, "JOB_ID": "77"}
        names |= {"PROCID": rank, "LOCALID": rank} if cluster == "slurm" else {"GLOBALID": rank, "LOCALID": rank}
        for name, value in {**names}.items():
            monkeypatch.setenv(f"{prefix}_{name}", str(value))
        if cluster == "slurm":
            monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
            monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
            monkeypatch.setenv("SLURM_JOB_NODELIST", "n[4-5]")
        monkeypatch.setenv("SUBMITIT_EXECUTOR", cluster)
        monkeypatch.setattr(slurm.job, "find_entry", lambda name: SimpleNamespace(run=run))
        return waits

    return set_up


JOB = TrainingJob("image.train", ("seed=0", "name=a"), "weights-a")


def leave(code):
    """An entry that exits."""

    def run(arguments):
        raise SystemExit(code)

    return run


def test_a_job_is_pickled_by_reference_and_is_its_own_checkpoint():
    text = cloudpickle.dumps(JOB)
    assert len(text) < 300 and b"slurm.job" in text
    assert pickle.loads(text) == JOB
    again = JOB.checkpoint()
    assert (again.function, again.args, again.kwargs) == (JOB, (), {})


def test_a_job_runs_its_entry_with_its_arguments_under_its_own_name(place, scheduler):
    seen = []
    place(seen.append)
    assert JOB() is None
    assert seen == [JOB.arguments]
    assert scheduler.calls("scontrol") == ["scontrol update JobId=70_3 JobName=weights-a"]


def test_one_task_meets_nobody(place):
    place(lambda arguments: None)
    JOB()
    assert {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & set(os.environ) == set()


@pytest.mark.parametrize(("cluster", "address"), [("slurm", "n4"), ("local", "127.0.0.1")])
def test_several_tasks_are_told_where_they_meet(place, scheduler, cluster, address):
    place(lambda arguments: None, cluster, rank=1, tasks=2)
    JOB()
    told = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    assert told == {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": address}
    assert 20000 <= int(os.environ["MASTER_PORT"]) <= 60000
    assert scheduler.calls("scontrol") == []  # the main process names the job, and on SLURM alone


def test_a_name_that_slurm_refuses_does_not_stop_the_run(place, scheduler, caplog):
    seen = []
    place(seen.append)
    scheduler.fail("scontrol", "slurm_update error: Access/permission denied")
    JOB()
    assert seen == [JOB.arguments]
    assert "the job keeps the name of its sweep: slurm_update error: Access/permission denied" in caplog.text


def test_without_scontrol_the_run_goes_on(place, tmp_path, monkeypatch, caplog):
    seen = []
    place(seen.append)
    monkeypatch.setenv("PATH", str(tmp_path))
    JOB()
    assert seen == [JOB.arguments]
    assert "the job keeps the name of its sweep" in caplog.text


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_other_exit_codes_pass_at_once(place, code):
    received = []
    signal.signal(signal.SIGUSR2, lambda number, frame: received.append(number))
    waits = place(leave(code))
    with pytest.raises(SystemExit) as exit_:
        JOB()
    assert (exit_.value.code, received, sum(waits)) == (code, [], 0)


def test_a_run_that_got_the_warning_hands_it_to_submitit_and_waits_for_the_end(place):
    """submitit's handler ends the main process; in the others it returns."""
    received = []
    signal.signal(signal.SIGUSR2, lambda number, frame: received.append(number))
    waits = place(leave(140), rank=1, tasks=2)
    with pytest.raises(SystemExit) as exit_:
        JOB()
    assert (exit_.value.code, received, waits) == (140, [signal.SIGUSR2], [60.0])


def test_a_run_that_was_told_to_end_waits_whether_a_warning_follows(place):
    received = []
    signal.signal(signal.SIGUSR2, lambda number, frame: received.append(number))
    waits = place(leave(143))
    with pytest.raises(SystemExit) as exit_:
        JOB()
    assert (exit_.value.code, received, waits) == (143, [], [5.0])


def test_on_this_machine_nobody_waits(place):
    signal.signal(signal.SIGUSR2, lambda number, frame: None)
    waits = place(leave(140), "local", rank=1, tasks=2)
    with pytest.raises(SystemExit):
        JOB()
    assert sum(waits) == 0


# The job in submitit's hands: its real `python -m submitit.core._submit`, in this process


def send(*numbers):
    """An entry that gets signals in its loop, and stops as a run does."""

    def run(arguments):
        with StopRequest() as stop:
            for number in numbers:
                os.kill(os.getpid(), number)
            assert stop
        raise SystemExit(stop.exit_code)

    return run


@pytest.fixture
def process(scheduler, tmp_path):
    """Runs the task that the environment describes; its exit code."""
    folder = tmp_path / "logs"
    paths = JobPaths(folder, "70_3")
    folder.mkdir()
    submission = DelayedSubmission(JOB)
    submission.set_timeout(600, 4)
    submission.dump(paths.submitted_pickle)

    def run():
        try:
            process_job(folder)
        except SystemExit as exit_:
            return exit_.code, DelayedSubmission.load(paths.submitted_pickle)
        return 0, DelayedSubmission.load(paths.submitted_pickle)

    return run


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGUSR2,), (signal.SIGTERM, signal.SIGUSR2), (signal.SIGUSR2, signal.SIGTERM)],
    ids=["warning", "SIGTERM, warning", "warning, SIGTERM"],
)
def test_a_run_that_is_preempted_is_queued_again_as_it_was(place, process, scheduler, signals):
    """However SLURM tells it: a preemption may come as SIGTERM and the warning, in any order."""
    place(send(*signals))
    code, again = process()
    assert code == -1
    assert scheduler.calls("scontrol")[1:] == ["scontrol requeue 70_3"]
    assert (again.function, again._timeout_min, again._timeout_countdown) == (JOB, 600, 4)


def test_the_warning_before_the_run_has_begun_queues_it_again_too(place, process, scheduler):
    place(lambda arguments: os.kill(os.getpid(), signal.SIGUSR2))
    assert process()[0] == -1
    assert scheduler.calls("scontrol")[1:] == ["scontrol requeue 70_3"]


def test_only_the_main_process_queues_the_job_again(place, process, scheduler):
    place(send(signal.SIGUSR2), rank=1, tasks=2)
    assert process()[0] == 140
    assert scheduler.calls("scontrol") == []


def test_a_run_that_is_cancelled_stays_so(place, process, scheduler):
    place(send(signal.SIGTERM))
    assert process()[0] == 143
    assert scheduler.calls("scontrol requeue") == []


def test_a_warning_after_the_run_has_stopped_queues_it_again(place, process, scheduler, monkeypatch):
    """SIGTERM first; the run has saved and waits when the warning comes."""
    place(send(signal.SIGTERM))
    warn = SimpleNamespace(sleep=lambda seconds: os.kill(os.getpid(), signal.SIGUSR2))
    monkeypatch.setattr(slurm.job, "time", warn)
    assert process()[0] == -1
    assert scheduler.calls("scontrol")[1:] == ["scontrol requeue 70_3"]


def test_a_run_that_ran_out_of_time_too_often_fails_and_says_so(place, process, scheduler, tmp_path):
    place(send(signal.SIGUSR2))
    paths = JobPaths(tmp_path / "logs", "70_3")
    submission = DelayedSubmission.load(paths.submitted_pickle)
    submission.set_timeout(1, 0)  # a job of a minute has always run out of time, submitit thinks
    submission.dump(paths.submitted_pickle)
    with pytest.raises(submitit.core.utils.UncompletedJobError, match="timed-out too many times"):
        process()
    assert scheduler.calls("scontrol requeue") == []

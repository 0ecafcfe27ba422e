"""What a sweep has reached, by a scheduler that is faked: status, cancel, collect."""

import json

import slurm.launch
from slurm.manifest import Manifest
from slurm.status import ACTIVE
from slurm.sweep import load_sweep
from tests.slurm.commands import launch
from tests.slurm.scheduler import FIRST, FOLDER, SECOND, attempts, finish

ENDS = ["BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"]
SHOWN = {"CANCELLED by 1000": "cancelled", "CANCELLED+": "cancelled", "COMPLETED": "stopped"}
SHOWN |= {word: word.lower() for word in (*ENDS, *ACTIVE)}


def test_status_tells_every_word_of_sacct_and_resubmit_starts_the_ends_again(scheduler, weights, monkeypatch):
    monkeypatch.setattr(slurm.launch, "check_runs", lambda *args: None)  # composes every run, each time
    weights(grid={}, seeds=list(range(len(SHOWN))))
    launch("sweep.yaml")
    scheduler.say({f"100_{number}": word for number, word in enumerate(SHOWN)} | {"100_0.batch": "RUNNING"})
    rows = [row.split() for row in launch("status", "sweep.yaml").out.splitlines()[1:]]
    assert [row[1] for row in rows] == list(SHOWN.values())
    launch("resubmit", "sweep.yaml")
    again = [len(ids) == 2 for ids in attempts().values()]
    assert again == [word not in ACTIVE for word in SHOWN]


def test_status_asks_slurm_once_for_all_runs_and_shows_how_far_they_are(scheduler, weights):
    """One that is done, one that runs and has written its records, one that waits."""
    weights(grid={"alignment.weight": [0.1, 0.3, 0.5]}, metric="frechet_distance")
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
    weights(grid={"alignment.weight": [0.1, 0.3, 0.5]})  # without a named metric it is the first measure
    assert launch("status", "sweep.yaml").out.splitlines()[1].split() == [FIRST, "done", "100_0", "9", "-", "2.5", "-"]


def test_words_where_numbers_were_are_shown_as_unknown(scheduler, weights):
    weights(grid={"alignment.weight": [0.1, 0.3]}, metric="frechet_distance")
    launch("sweep.yaml")
    scheduler.say({"100_0": "COMPLETED", "100_1": "RUNNING"})
    finish(FIRST)
    summary = FOLDER / "image" / FIRST / "summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "frechet_distance": "2.5"}))
    running = FOLDER / "image" / SECOND
    running.mkdir(parents=True)
    (running / "metrics.jsonl").write_text('{"step": 20, "loss": "by hand"}\n')
    (running / "speed.jsonl").write_text('{"step": 20, "images_per_second": "fast"}\n')
    (running / "config.yaml").write_text("trainer: {steps: 1220, batch_size: 10}\n")
    rows = [row.split() for row in launch("status", "sweep.yaml").out.splitlines()[1:]]
    assert rows == [[FIRST, "done", "100_0", "9", *"---"], [SECOND, "running", "100_1", "20", *"---"]]


def test_status_names_what_a_failed_run_said_last(scheduler, weights, tmp_path):
    """The run's own error, in whichever process, before what follows from it; without one the last line."""
    weights(grid={"alignment.weight": [0.1, 0.3, 0.5, 0.7]}, resources={"tasks_per_node": 2})
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


def test_a_new_job_that_the_accounts_do_not_know_yet_waits_and_an_old_one_is_lost(scheduler, weights):
    launch("sweep.yaml")
    sweep = load_sweep("sweep.yaml")
    content = json.loads((FOLDER / "manifest.json").read_text())
    content["runs"][SECOND]["attempts"][0]["time"] = "2020-01-31T12:00:00+00:00"
    (FOLDER / "manifest.json").write_text(json.dumps(content))
    rows = launch("status", "sweep.yaml").out.splitlines()[1:]
    assert [row.split()[1] for row in rows] == ["pending", "unknown"]
    launch("resubmit", "sweep.yaml")
    assert [len(record.attempts) for record in Manifest.load(sweep).runs.values()] == [1, 2]


def test_sacct_that_does_not_answer_or_is_not_there_is_told(scheduler, weights, monkeypatch, tmp_path):
    launch("sweep.yaml")
    scheduler.fail("sacct", "sacct: error: Slurm accounting storage is disabled")
    for action in ("submit", "resubmit", "status", "cancel"):
        refused = launch(action, "sweep.yaml")
        assert refused.is_error("sacct does not answer", "Slurm accounting storage is disabled")
    assert len(scheduler.submissions()) == 1
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch("status", "sweep.yaml").is_error("no SLURM on this machine (no sacct)")


def test_cancel_ends_what_waits_or_runs(scheduler, weights):
    weights(grid={"alignment.weight": [0.1, 0.3, 0.5, 0.7]})
    launch("sweep.yaml")
    finish(FIRST)
    scheduler.say({"100_0": "COMPLETED", "100_1": "RUNNING", "100_2": "FAILED", "100_[3]": "PENDING"})
    assert "cancelled 2 jobs: 100_1, 100_3" in launch("cancel", "sweep.yaml").out
    assert scheduler.calls("scancel") == ["scancel 100_1 100_3"]
    scheduler.say({"100_0": "COMPLETED", "100_[1-3]": "CANCELLED by 0"})
    assert "cancelled 0 jobs" in launch("cancel", "sweep.yaml").out
    assert len(scheduler.calls("scancel")) == 1
    scheduler.say({"100_1": "RUNNING"})
    scheduler.fail("scancel", "scancel: error: Kill job error on job id 100_1: Access/permission denied")
    assert launch("cancel", "sweep.yaml").is_error("does not cancel 100_1", "Access/permission denied")


def test_collect_writes_a_row_for_each_run_and_means_over_seeds(scheduler, weights):
    weights(seeds=[0, 1])
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

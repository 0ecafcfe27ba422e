"""The job of a run: what it sets up, whom it tells of a signal, and how submitit queues it again."""

import os
import pickle
import signal
from types import SimpleNamespace

import cloudpickle
import pytest
import submitit
from submitit.core.submission import process_job
from submitit.core.utils import DelayedSubmission, JobPaths

import slurm.job
from core.processes.signals import STOP_SIGNALS, StopRequest
from slurm.job import TrainingJob
from tests.rows import every_row


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
        waits.clear()
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


def test_a_job_runs_its_entry_with_its_arguments_under_its_own_name_and_meets_nobody(place, scheduler):
    seen = []
    place(seen.append)
    assert JOB() is None
    assert seen == [JOB.arguments]
    assert scheduler.calls("scontrol") == ["scontrol update JobId=70_3 JobName=weights-a"]
    assert {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & set(os.environ) == set()


@every_row(("cluster", "address"), [("slurm", "n4"), ("local", "127.0.0.1")])
def test_several_tasks_are_told_where_they_meet(place, scheduler, cluster, address):
    place(lambda arguments: None, cluster, rank=1, tasks=2)
    JOB()
    told = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    assert told == {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": address}
    assert 20000 <= int(os.environ["MASTER_PORT"]) <= 60000
    assert scheduler.calls("scontrol") == []  # the main process names the job, and on SLURM alone


def test_a_name_that_cannot_be_given_does_not_stop_the_run(place, scheduler, tmp_path, monkeypatch, caplog):
    seen = []
    place(seen.append)
    scheduler.fail("scontrol", "slurm_update error: Access/permission denied")
    JOB()
    assert "the job keeps the name of its sweep: slurm_update error: Access/permission denied" in caplog.text
    monkeypatch.setenv("PATH", str(tmp_path))
    JOB()
    assert caplog.text.count("the job keeps the name of its sweep") == 2
    assert seen == [JOB.arguments] * 2


@every_row(
    ("code", "where", "warned", "waited"),
    [
        *((code, {}, 0, 0) for code in (0, 1, 2, 130)),
        (140, {"rank": 1, "tasks": 2}, 1, 60.0),  # submitit's handler ends the main process; in the others it returns
        (143, {}, 0, 5.0),  # a warning may follow
        (140, {"cluster": "local", "rank": 1, "tasks": 2}, 1, 0),
    ],
)
def test_a_run_that_got_the_warning_hands_it_on_and_waits_for_the_end(place, code, where, warned, waited):
    received = []
    signal.signal(signal.SIGUSR2, lambda number, frame: received.append(number))
    waits = place(leave(code), **where)
    with pytest.raises(SystemExit) as exit_:
        JOB()
    assert (exit_.value.code, received, sum(waits)) == (code, [signal.SIGUSR2] * warned, waited)


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
    """Runs the task that the environment describes; its exit code, and what is queued again."""
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


BEGUN = send(signal.SIGUSR2), send(signal.SIGTERM, signal.SIGUSR2), send(signal.SIGUSR2, signal.SIGTERM)


@pytest.mark.parametrize("run", [*BEGUN, lambda arguments: os.kill(os.getpid(), signal.SIGUSR2)])
def test_a_run_that_is_preempted_is_queued_again_as_it_was(place, process, scheduler, run):
    """However SLURM tells it: as SIGTERM and the warning, in any order; and before the run has begun to listen."""
    place(run)
    code, again = process()
    assert code == -1
    assert scheduler.calls("scontrol")[1:] == ["scontrol requeue 70_3"]
    assert (again.function, again._timeout_min, again._timeout_countdown) == (JOB, 600, 4)


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

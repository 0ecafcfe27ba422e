"""Sweeps on a real SLURM of one node: arrays, preemption, time-outs, failures, as a user meets them."""

import re
import sys
from types import SimpleNamespace

import pytest
from submitit.slurm.slurm import SlurmJob

from tests.rows import every_row
from tests.slurm.cluster import MAX_ARRAY
from tests.slurm.commands import ROOT, STEPS, ToySweep, has_same_end, launch, train_alone
from tests.slurm.held import HOLDS

pytestmark = pytest.mark.slow
PATIENCE = 180  # seconds: processes import for seconds, and several share a core


@pytest.fixture(scope="module")
def here(cluster, tmp_path_factory):
    """A folder whose commands reach the cluster; jobs inherit the environment, and find this entry."""
    folder = tmp_path_factory.mktemp("a real place")  # spaces go through every script
    (folder / "my python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "my python").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**cluster.environment, "PYTHONPATH": str(ROOT)}.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        yield folder


class Watch:
    """Waits for what the runs of a sweep reach."""

    def __init__(self, cluster, sweep):
        self.cluster, self.sweep = cluster, sweep

    def until(self, question, what):
        """Until it holds; what the jobs said is told where it never does."""
        try:
            self.cluster.wait_for(question, what, PATIENCE)
        except AssertionError as error:
            logs = [f"--- {log.name}\n{log.read_text()[-3000:]}" for log in (self.sweep.folder / "logs").glob("*.out")]
            raise AssertionError("\n".join([str(error), *logs])) from error

    def until_step(self, case, step):
        """Until the run has recorded it."""
        self.until(lambda: self.sweep.step(case) >= step, f"step {step} of {case}")

    def until_complete(self, case):
        """Until the run has trained to its end."""
        self.until(lambda: self.sweep.is_complete(case), f"end of {case}")

    def until_state(self, case, state):
        """Until `status` shows it: the accounts lag behind."""
        self.until(lambda: self.sweep.table()[case]["state"] == state, f"{case} being {state}")

    def names(self):
        """Job names in the queue, by id."""
        lines = self.cluster.run("squeue", "--noheader", "--array", "--format=%i %j").splitlines()
        return dict(line.split() for line in lines)


@pytest.fixture(scope="module")
def timed(cluster, here):
    """A run whose minute is nearly over from its start; submitted, and on its way while the others are looked at."""
    sweep = ToySweep(here, "timed", ["once"], time=1, signal_seconds=59)
    assert launch(sweep.file).code == 0
    return Watch(cluster, sweep)


@pytest.fixture(scope="module")
def array(cluster, here, timed):
    """An array of three runs of two processes each; one waits, and is told to stop there as a preemption does."""
    cases = ["through", {"case": "failing", "optimizer.lr": 1e30}, "once"]
    sweep = ToySweep(here, "array", cases, tasks_per_node=2, python=str(here / "my python"))
    watch = Watch(cluster, sweep)
    seen = SimpleNamespace(sweep=sweep, watch=watch, submitted=launch(sweep.file))
    watch.until_step("once", HOLDS[0])
    seen.names, seen.during, seen.again = watch.names(), sweep.table(), launch(sweep.file)
    (job,) = sweep.jobs("once")
    SlurmJob(sweep.folder / "logs", job)._interrupt()  # SIGTERM and the warning
    for case in ("once", "through"):
        watch.until_complete(case)
        watch.until_state(case, "done")
    watch.until_state("failing", "failed")
    return seen


def test_a_submission_returns_at_once_with_one_array_and_the_same_again_submits_nothing(array):
    assert array.submitted.code == 0, array.submitted
    ids = [array.sweep.jobs(case) for case in ("through", "failing", "once")]
    number = ids[0][0].partition("_")[0]
    assert ids == [[f"{number}_{element}"] for element in range(3)]
    assert f"submitted 3 runs: {number}_0, {number}_1, {number}_2" in array.submitted.out
    assert array.again.code == 0
    assert "submitted" not in array.again.out
    assert re.search(r"[01] runs are done, [123] wait or run", array.again.out)


def test_while_a_run_trains_its_job_tells_its_name_and_status_how_far_it_is(array):
    job = array.sweep.jobs("once")[0]
    assert array.names[job] == "array-once-seed0"
    row = array.during["once"]
    assert (row["state"], row["job"], row["step"]) == ("running", job, str(HOLDS[0]))
    assert re.fullmatch(r"\d+ s", row["left"])


def test_a_preempted_run_of_two_processes_ends_as_an_undisturbed_one(array):
    """Weights, averages, optimizer state and records, to the bit; its job was queued again, not submitted twice."""
    assert '"processes": 2' in (array.sweep.run("through") / "summary.json").read_text()
    assert has_same_end(array.sweep.run("once"), array.sweep.run("through"))
    (job,) = array.sweep.jobs("once")
    log = (array.sweep.folder / "logs" / f"{job}_0_log.out").read_text()
    assert log.count("Requeued job") == 1
    assert f"stopped after step {HOLDS[0] + 1} of {STEPS}" in log


def test_a_failing_run_is_told_with_its_error_and_the_complete_ones_are_collected(array):
    row = array.sweep.table()["failing"]
    assert row["state"] == "failed"
    assert re.match(r"error in process \d: step \d+: loss ", row["problem"])
    assert launch("collect", array.sweep.file).code == 0
    lines = (array.sweep.folder / "summary.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [[case, "0", str(STEPS)] for case in ("through", "once")]


@every_row(
    ("resources", "words"),
    [
        ({"partition": "nowhere"}, "invalid partition specified: nowhere"),
        ({"cpus_per_task": 64}, "Requested node configuration is not available"),
        ({"extra": {"no-such-option": "x"}}, "unrecognized option '--no-such-option=x'"),
    ],
)
def test_resources_that_slurm_refuses_are_told_and_nothing_is_written(here, resources, words):
    sweep = ToySweep(here, "refused", ["through"], **resources)
    assert launch(sweep.file).is_error("SLURM refuses the resources of the sweep", words)
    assert not sweep.folder.exists()


def test_a_sweep_longer_than_an_array_may_be_is_several(here, cluster):
    """SLURM itself says how long an array may be."""
    comment = {"comment": 'it\'s "long" #1'}
    sweep = ToySweep(here, "long", [f"c{number}" for number in range(MAX_ARRAY + 2)], extra={"hold": True, **comment})
    try:
        assert f"submitted {MAX_ARRAY + 2} runs" in launch(sweep.file).out
        arrays = [sweep.jobs(f"c{number}")[0].partition("_")[0] for number in range(MAX_ARRAY + 2)]
        assert [arrays.count(each) for each in dict.fromkeys(arrays)] == [MAX_ARRAY, 2]
        assert f"Comment={comment['comment']}" in cluster.run("scontrol", "show", "job", arrays[0])
    finally:
        launch("cancel", sweep.file)


def test_a_run_that_runs_out_of_time_is_queued_again_until_its_end(timed, array, tmp_path):
    """SLURM itself sends the warning."""
    sweep = timed.sweep
    timed.until_complete("once")
    assert has_same_end(sweep.run("once"), train_alone(tmp_path))
    (job,) = sweep.jobs("once")
    log = (sweep.folder / "logs" / f"{job}_0_log.out").read_text()
    assert log.count("this job is timed-out") >= 2  # each is written twice
    assert "(99 remaining timeouts)" in log


def test_urgent_work_preempts_a_run_and_a_cancelled_one_goes_on_when_it_is_resubmitted(
    cluster, here, timed, array, tmp_path
):
    """SLURM preempts it, and it comes back by itself; it is cancelled, and does not. It ends as an undisturbed one."""
    timed.until_complete("once")
    sweep = ToySweep(here, "disturbed", ["held"], cpus_per_task=2)
    watch = Watch(cluster, sweep)
    assert launch(sweep.file).code == 0
    watch.until_step("held", HOLDS[0])
    urgent = tmp_path / "urgent"
    cluster.run("sbatch", "--partition=urgent", "--ntasks=2", f"--output={urgent}", stdin="#!/bin/sh\necho done\n")
    cluster.wait_for(lambda: urgent.exists() and urgent.read_text(), "urgent job", PATIENCE)
    watch.until_step("held", HOLDS[1])
    (job,) = sweep.jobs("held")
    assert f"cancelled 1 jobs: {job}" in launch("cancel", sweep.file).out
    watch.until_state("held", "cancelled")
    assert sweep.step("held") == HOLDS[1] + 1, "its state is saved"
    assert "resubmit" in launch(sweep.file).out
    assert launch("resubmit", sweep.file).code == 0
    watch.until_complete("held")
    assert sweep.jobs("held")[0] == job and len(sweep.jobs("held")) == 2
    assert has_same_end(sweep.run("held"), train_alone(tmp_path))

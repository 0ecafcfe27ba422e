"""The cluster that the tests of `slurm` rely on: what SLURM 22.05 and submitit 1.5.4 do, seen on the real thing.

What submitit 1.5.4 does on SLURM (files below submitit/):

- slurm/slurm.py:482-538 writes `#SBATCH --signal=USR2@<signal_delay_s>` (90 s before the end by default; without "B:",
  so the steps get it and the batch script does not), `--open-mode=append`, `--wckey=submitit`, `--array=0-<n-1>%<k>`,
  and runs `srun --unbuffered --output <folder>/%j_%t_log.out --error ... python -u -m submitit.core._submit <folder>`.
  It writes no --requeue: a job can be requeued because the cluster says so (JobRequeue=1) or with
  slurm_additional_parameters={"requeue": True}.
- core/job_environment.py:146-158: every task takes USR2 (or SUBMITIT_PREEMPT_SIGNAL, read when submitit is imported);
  SIGTERM and SIGCONT are logged and ignored. They are set before the function runs, which may set its own over them.
- 177-193: "timed out" is a run time of at least min(0.8 T, T - 10 min) for T = timeout_min, so always when T <= 10 min,
  or else "preempted". Only a time-out takes one of max_num_timeout (3 by default).
- 200-230: rank 0 alone calls `checkpoint(*args)`, pickles what it returns over <id>_submitted.pkl, runs
  `scontrol requeue <id>` and leaves by sys.exit(-1); the others only return from the handler, and SLURM ends them. A
  function without `checkpoint` is requeued as it was after a preemption, and fails after a time-out.
- core/core.py:394-439: `job.done()` looks for the result file each time, and asks sacct 2 s after the submission and
  then ever more rarely (half of the time since, up to 600 s). A task's result file says when it is done: poll that.
- core/submission.py:54-69: an Exception in a task writes a result file, too, ("error", traceback); the SystemExit of a
  requeue writes none. So a rank whose peer left for a requeue may leave an error, which its next run replaces.
- local/local.py:80-83: the local executor's `_interrupt` signals its controller, which takes SIGTERM alone (298) and
  dies of USR2 while its tasks go on, unsignalled. A task that gets USR2 itself leaves with 144 (119-122), and the
  controller starts all of them again when the last one has ended (369-380).
"""

import os
import time

import pytest
import submitit

from tests.slurm.cluster import ENDED

TWICE = """#!/bin/bash
echo "run ${SLURM_RESTART_COUNT:-0}"
[ -n "$SLURM_RESTART_COUNT" ] || sleep 60
"""
PREEMPTIBLE = """#!/bin/bash
[ -z "$SLURM_RESTART_COUNT" ] || { echo "run $SLURM_RESTART_COUNT"; exit 0; }
exec srun bash -c 'trap "echo USR2" USR2; trap "echo TERM; exit" TERM; echo ready; while :; do sleep 0.1; done'
"""


def test_a_batch_job_runs_and_is_accounted_for(cluster, tmp_path):
    """Its output is written, squeue follows it to its end, and sacct remembers that."""
    job = cluster.submit("#!/bin/sh\necho hello\n", f"--output={tmp_path}/out", "--job-name=greeting")
    cluster.wait_for_state(job, "COMPLETED")
    assert (tmp_path / "out").read_text() == "hello\n"
    ask = ("sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,JobName,Partition,State,ExitCode")
    record = f"{job}|greeting|debug|COMPLETED|0:0"
    cluster.wait_for(lambda: cluster.run(*ask).strip() == record, f"accounting of job {job}")


def test_a_failing_job_is_seen_at_once(cluster, tmp_path):
    """Waiting for the success of a job that fails does not wait for the time-out."""
    job = cluster.submit("#!/bin/sh\nexit 3\n", f"--output={tmp_path}/out")
    with pytest.raises(AssertionError, match=f"job {job} ended as FAILED, not COMPLETED"):
        cluster.wait_for_state(job, "COMPLETED")


def test_an_array_runs_each_element(cluster, tmp_path):
    """Two elements with an index each; the state of one is asked as <id>_<index>."""
    job = cluster.submit('#!/bin/sh\necho "$SLURM_ARRAY_TASK_ID"\n', "--array=0-1", f"--output={tmp_path}/%a")
    for element in "01":
        cluster.wait_for_state(f"{job}_{element}", "COMPLETED")
        assert (tmp_path / element).read_text() == f"{element}\n"


def test_srun_starts_two_tasks_that_know_where_to_meet(cluster, tmp_path):
    """Ranks 0 and 1 of 2, and a node name that resolves."""
    script = "#!/bin/sh\nsrun --label sh -c 'echo $SLURM_PROCID $SLURM_NTASKS; getent hosts $SLURM_JOB_NODELIST'\n"
    job = cluster.submit(script, "--ntasks=2", f"--output={tmp_path}/out")
    cluster.wait_for_state(job, "COMPLETED")
    lines = sorted((tmp_path / "out").read_text().splitlines())
    assert {"0: 0 2", "1: 1 2"} <= set(lines), lines
    assert len(lines) == 4 and all("localhost" in line for line in lines if line[3:] not in ("0 2", "1 2")), lines


def test_a_requeued_job_runs_again(cluster, tmp_path):
    """`scontrol requeue` ends the run; the same id starts again six seconds later, with SLURM_RESTART_COUNT."""
    output = tmp_path / "out"
    job = cluster.submit(TWICE, f"--output={output}", "--open-mode=append")
    cluster.wait_for(lambda: output.exists() and output.read_text(), "first run")
    cluster.run("scontrol", "requeue", job)
    cluster.wait_for_state(job, "COMPLETED")
    lines = output.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("run 0", "run 1"), lines


def test_an_unknown_partition_is_refused_before_anything_runs(cluster):
    """`sbatch --test-only` says why."""
    with pytest.raises(RuntimeError, match="Invalid partition name specified"):
        cluster.submit("#!/bin/sh\n", "--test-only", "--partition=nowhere")


@pytest.mark.slow
def test_urgent_work_preempts_a_job_that_is_told_and_runs_again(cluster, tmp_path):
    """The job's own --signal comes first, 13 s later SLURM requeues it, and it runs when the urgent one is done."""
    output = tmp_path / "out"
    job = cluster.submit(PREEMPTIBLE, "--ntasks=2", "--signal=USR2@60", "--open-mode=append", f"--output={output}")
    cluster.wait_for(lambda: output.exists() and output.read_text().count("ready") == 2, "preemptible job")
    urgent = cluster.submit("#!/bin/sh\n", "--partition=urgent", "--ntasks=2", f"--output={tmp_path}/urgent")
    cluster.wait_for(lambda: output.read_text().count("USR2") == 2, "signal")
    assert "TERM" not in output.read_text()
    cluster.wait_for_state(urgent, "COMPLETED")
    cluster.wait_for_state(job, "COMPLETED")
    assert "DUE TO PREEMPTION" in output.read_text()
    assert output.read_text().endswith("run 1\n")
    states = cluster.run("sacct", "-X", "-n", "-P", "--duplicates", "-j", job, "-o", "State").split()
    assert states[0] == "PREEMPTED"


@pytest.fixture
def executor(cluster, tmp_path, monkeypatch):
    """submitit's executor for jobs of two tasks."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    submitting = submitit.AutoExecutor(folder=tmp_path, cluster="slurm")
    submitting.update_parameters(tasks_per_node=2, timeout_min=30, slurm_signal_delay_s=5)
    return submitting


def results(cluster, job):
    """What each task has returned, as soon as it is there; submitit's error when the job ends without."""

    def ended():
        files = [job.task(rank).paths.result_pickle for rank in range(job.num_tasks)]
        return all(file.exists() for file in files) or cluster.state(job.job_id) in ENDED

    cluster.wait_for(ended, f"result of {job}")
    return job.results()


def test_submitit_joins_the_tasks_of_a_job(cluster, executor):
    """Functions are pickled by value; the tasks find each other through submitit's variables and add up over gloo."""

    def total(offset):
        import torch

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        torch.distributed.init_process_group("gloo")
        value = torch.tensor([torch.distributed.get_rank() + offset])
        torch.distributed.all_reduce(value)
        torch.distributed.destroy_process_group()
        return int(value)

    assert results(cluster, executor.submit(total, 10)) == [21, 21]


@pytest.mark.slow
def test_submitit_requeues_a_preempted_job_with_its_checkpoint(cluster, executor, tmp_path):
    """The signals of a preemption: rank 0 alone makes the checkpoint, and the second run is called with it."""

    class Sleeper:
        def __call__(self, seen):
            rank = os.environ["SLURM_PROCID"]
            if seen:
                return rank, seen, os.environ["SLURM_RESTART_COUNT"]
            (tmp_path / f"ready{rank}").touch()
            time.sleep(60)

        def checkpoint(self, seen):
            return submitit.helpers.DelayedSubmission(self, f"checkpoint of rank {os.environ['SLURM_PROCID']}")

    job = executor.submit(Sleeper(), "")
    cluster.wait_for(lambda: all((tmp_path / f"ready{rank}").exists() for rank in "01"), "first run")
    job._interrupt()  # SIGTERM, then USR2
    assert results(cluster, job) == [(rank, "checkpoint of rank 0", "1") for rank in "01"]
    assert "this job is preempted" in job.task(0).stderr()

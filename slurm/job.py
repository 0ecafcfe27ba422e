"""What a job of a sweep does: the run's own command, in this process, continued whenever it is queued again.

submitit pickles it. It runs one process for each task, tells torch.distributed who they are, and calls the entry as the
command line would. A run that got SLURM's warning (SIGUSR2) has saved its state by the time the entry returns; the
warning is then handed to submitit, whose main task queues the job again.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from dataclasses import dataclass

import submitit
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment

from core.commands.entry import DEBUG_VARIABLE
from slurm.sweep import find_entry

log = logging.getLogger(__name__)

WARNED = 128 + signal.SIGUSR2  # exit codes of a run that a signal stopped: core.processes.signals
TERMINATED = 128 + signal.SIGTERM
# Seconds that a process waits at its end. After SIGTERM: a preemption may send the warning, which asks to be queued
# again, a moment later. After the warning all but the main process wait: it asks SLURM to queue the job again, which
# ends them, and one that leaves before would end it.
WAITS = {TERMINATED: 5.0, WARNED: 60.0}


@dataclass(frozen=True)
class TrainingJob:
    """`python -m <entry> <arguments>` as a callable that can be pickled and queued again; `name` is shown by SLURM."""

    entry: str
    arguments: tuple[str, ...]
    name: str

    def __call__(self) -> None:
        """Run to the end, or until a signal; SystemExit with the run's exit code otherwise."""
        place = submitit.JobEnvironment()
        if place.cluster == "slurm" and place.global_rank == 0:
            _name_job(place.job_id, self.name)
        if place.num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
            if place.cluster == "local":
                os.environ["MASTER_ADDR"] = "127.0.0.1"  # a machine's own name need not resolve
        os.environ.setdefault(DEBUG_VARIABLE, "1")  # a log has room for the traceback
        try:
            find_entry(self.entry).run(self.arguments)
        except SystemExit as exit_:
            if exit_.code == WARNED:
                os.kill(os.getpid(), signal.SIGUSR2)  # submitit's handler is back: it queues the job again and exits
            if place.cluster == "slurm":
                time.sleep(WAITS.get(exit_.code, 0))
            raise

    def checkpoint(self) -> DelayedSubmission:
        """The job that is queued again: the same; the run finds its own state."""
        return DelayedSubmission(self)


def _name_job(job_id: str, name: str) -> None:
    """Let squeue and sacct show the run: the jobs of an array have one name until they start."""
    command = ["scontrol", "update", f"JobId={job_id}", f"JobName={name}"]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the job keeps the name of its sweep: %s", (getattr(error, "stderr", None) or str(error)).strip())

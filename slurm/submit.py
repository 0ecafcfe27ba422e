"""Handing the runs of a sweep to SLURM as job arrays, or to this machine, a few at a time."""

from __future__ import annotations

import contextlib
import copy
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import submitit
import yaml

from core.schema import plain
from slurm.job import TrainingJob
from slurm.manifest import Manifest
from slurm.resources import Resources
from slurm.sweep import Case, Sweep, find_entry

# What SLURM says where fewer jobs would do: AssocMaxSubmitJobLimit and its like; too long an array; a full queue.
LIMITS = re.compile(r"Submit\w*Limit|job submit limit|job array specification|temporarily unavailable", re.IGNORECASE)
SHOWN_IDS = 4  # of jobs, in an error
POLL = 0.2  # seconds
ENDLESS = 60 * 24 * 365  # minutes: on this machine nothing ends a run but itself


class Executor(submitit.SlurmExecutor):
    """submitit's executor, which can also be made where there is no SLURM, to show what it would submit."""

    @classmethod
    def affinity(cls) -> int:
        """Usable: whether SLURM is here is checked before anything is submitted."""
        return 2

    def script(self, jobs: int) -> str:
        """The batch script of an array of `jobs`; one job is none."""
        array = copy.copy(self)
        array.parameters = {**self.parameters, **({"map_count": jobs} if jobs > 1 else {})}
        return array._make_submission_file_text(self._submitit_command_str, "")


def make_executor(sweep: Sweep) -> Executor:
    """The executor with the sweep's resources as sbatch's options."""
    needs = sweep.resources
    folder = logs(sweep).absolute()
    if "%" in str(folder) or "\\" in str(folder):
        raise ValueError(f"runs_dir gives {folder}; needed: a folder without % and \\, which SLURM reads otherwise")
    executor = Executor(folder=folder, max_num_timeout=needs.max_timeouts, python=needs.interpreter)
    given = {name: getattr(needs, name) for name in ("partition", "account", "qos", "constraint", "cpus_per_task")}
    executor.update_parameters(
        job_name=sweep.name,
        time=needs.minutes,
        nodes=needs.nodes,
        ntasks_per_node=needs.tasks,
        gpus_per_node=needs.gpus_per_node or None,
        mem=_memory(needs),
        signal_delay_s=needs.signal_seconds,
        array_parallelism=needs.array_limit,
        setup=needs.setup or None,
        srun_args=_srun_options(needs),
        stderr_to_stdout=True,
        additional_parameters={"requeue": True, **needs.extra},
        **given,
    )
    return executor


def _srun_options(needs: Resources) -> list[str]:
    """A process that fails ends the others, and since SLURM 22.05 srun is told itself of the cores of a task."""
    cores = [] if needs.cpus_per_task is None else [f"--cpus-per-task={needs.cpus_per_task}"]
    return ["--kill-on-bad-exit=1", *cores]


def _memory(needs: Resources) -> str | None:
    return None if needs.memory_gb is None else f"{round(1024 * needs.memory_gb)}MB"


def logs(sweep: Sweep) -> Path:
    """Folder of the jobs' logs and pickles; not one for each job, which SLURM may start before its folder is made."""
    return sweep.folder / "logs"


def job_of(sweep: Sweep, case: Case) -> TrainingJob:
    """The callable of a run."""
    return TrainingJob(sweep.entry, tuple(case.arguments(sweep.folder)), f"{sweep.name}-{case.name}")


def dry_run(sweep: Sweep, cases: Sequence[Case]) -> str:
    """Every command with its resolved config, and the batch script."""
    entry, parts = find_entry(sweep.entry), []
    for case in cases:
        arguments = case.arguments(sweep.folder)
        config = yaml.safe_dump(plain(entry.config(arguments)), sort_keys=False)
        parts.append(f"# run {case.name}\npython -m {sweep.entry} {shlex.join(arguments)}\n{_indented(config)}")
    size = sweep.resources.array_size
    for first in range(0, len(cases), size):
        count = len(cases[first : first + size])
        parts.append(f"# batch script of {count} runs\n{make_executor(sweep).script(count)}")
    return "\n".join(parts)


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


# SLURM


def check_scheduler(sweep: Sweep) -> None:
    """ValueError where there is no SLURM, or where it refuses the resources of a run; nothing is submitted."""
    if shutil.which("sbatch") is None:
        raise ValueError(
            "there is no SLURM on this machine (no sbatch); --local N runs the sweep here, --dry-run shows it"
        )
    words = refusal(sweep, 1)
    if words and not LIMITS.search(words):
        raise ValueError(f"SLURM refuses the resources of the sweep: {words}")


def refusal(sweep: Sweep, jobs: int) -> str:
    """SLURM's words for not taking an array of so many jobs now, "" where it does; nothing is submitted."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(make_executor(sweep).script(jobs))
        file.flush()
        done = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True, check=False)
    return (_one_line(done.stderr) or f"sbatch ended with {done.returncode}") if done.returncode else ""


def room(sweep: Sweep, jobs: int) -> tuple[int, str]:
    """The longest array of `jobs` at most that SLURM takes now, and its words for not taking a longer one."""
    words = refusal(sweep, jobs)
    if not words:
        return jobs, ""
    taken, refused = 0, jobs
    while refused - taken > 1 and LIMITS.search(words):
        middle = (taken + refused) // 2
        again = refusal(sweep, middle)
        taken, refused, words = (taken, middle, again) if again else (middle, refused, words)
    return taken, words


def _one_line(text: str) -> str:
    return "; ".join(line.strip().removeprefix("sbatch: ") for line in text.splitlines() if line.strip())


def submit(sweep: Sweep, manifest: Manifest, cases: Sequence[Case]) -> list[str]:
    """Submit the runs as arrays, as many as SLURM takes, noting each in the manifest; returns their job ids.

    ValueError, saying what was submitted, when SLURM takes no more or refuses an array after others were accepted.
    """
    ids: list[str] = []
    while waiting := cases[len(ids) :]:
        count, words = room(sweep, min(len(waiting), sweep.resources.array_size))
        if not count:
            raise ValueError(_stopped(ids, len(waiting), words))
        executor, chunk = make_executor(sweep), waiting[:count]
        try:
            with contextlib.redirect_stderr(None):  # submitit prints what it raises
                jobs = executor.submit_array([job_of(sweep, case) for case in chunk])
        except (RuntimeError, subprocess.CalledProcessError, OSError) as error:  # submitit raises RuntimeErrors
            raise ValueError(_stopped(ids, len(waiting), f"sbatch failed: {_one_line(str(error))}")) from error
        for case, job in zip(chunk, jobs, strict=True):
            manifest.note(case.name, "slurm", job.job_id)
            ids.append(job.job_id)
    return ids


def _stopped(ids: Sequence[str], rest: int, words: str) -> str:
    """What is said where only some of the runs were submitted."""
    shown = ids if len(ids) <= SHOWN_IDS else [*ids[:2], "...", ids[-1]]
    begin = f"{len(ids)} of {len(ids) + rest} runs were submitted{' as ' + ', '.join(shown) if ids else ''}, then "
    if LIMITS.search(words):
        begin += "SLURM took no more, for its limits (MaxSubmitJobs of the account or QOS, MaxJobCount, MaxArraySize): "
    return f"{begin}{words}; when others have ended, the same command submits the other {rest}"


# This machine


def check_machine(sweep: Sweep, parallel: int) -> None:
    """ValueError for what this machine cannot run."""
    if parallel < 1:
        raise ValueError(f"--local is {parallel}; it must be at least 1")
    if sweep.resources.nodes > 1:
        raise ValueError(f"resources.nodes is {sweep.resources.nodes}; --local runs on one machine")


def run_here(
    sweep: Sweep, manifest: Manifest, cases: Sequence[Case], parallel: int, show: Callable[[str], None]
) -> list[str]:
    """Run the runs on this machine, `parallel` at a time, and wait for all; the names of those that did not end well.

    Ctrl-C lets them save and ends them.
    """
    stopped: list[str] = []
    waiting, free = list(cases), list(range(min(parallel, len(cases))))
    running: dict[int, tuple[Case, submitit.LocalJob]] = {}
    try:
        while waiting or running:
            while waiting and free:
                slot, case = free.pop(0), waiting.pop(0)
                running[slot] = case, _start_here(sweep, case, slot)
                manifest.note(case.name, "local", running[slot][1].job_id)
                show(f"{case.name}: started")
            for slot, (case, job) in list(running.items()):
                if job.done():
                    del running[slot]
                    free.append(slot)
                    done = (sweep.run_path(case.name) / "summary.json").exists()
                    show(f"{case.name}: {'done' if done else f'stopped, see {job.paths.stdout}'}")
                    stopped += [] if done else [case.name]
            time.sleep(POLL)
    except KeyboardInterrupt:
        _stop([job for _, job in running.values()])
        raise
    return stopped


def _stop(jobs: Sequence[submitit.LocalJob]) -> None:
    """Let the jobs save and end. A job's controller hands the signal on; one that is still starting does not listen."""
    while running := [job for job in jobs if not job.done()]:
        for job in running:
            job._process.send_signal(signal.SIGTERM)
        time.sleep(1)


def _start_here(sweep: Sweep, case: Case, slot: int) -> submitit.LocalJob:
    needs = sweep.resources
    executor = submitit.LocalExecutor(folder=logs(sweep), max_num_timeout=needs.max_timeouts, python=_python(needs))
    gpus = [slot * needs.gpus_per_node + number for number in range(needs.gpus_per_node)]
    executor.update_parameters(
        timeout_min=ENDLESS,
        tasks_per_node=needs.tasks,
        gpus_per_node=needs.gpus_per_node,
        visible_gpus=gpus,
        signal_delay_s=needs.signal_seconds,
        stderr_to_stdout=True,
    )
    with _interrupts_ignored():
        return executor.submit(job_of(sweep, case))


def _python(needs: Resources) -> str | None:
    """The interpreter, after the lines of the set-up in the same process: submitit's own shell would keep signals."""
    if not needs.setup:
        return needs.interpreter
    start = f'exec {needs.interpreter or shlex.quote(sys.executable)} "$@"'
    return shlex.join(["bash", "-c", "\n".join([*needs.setup, start]), "bash"])


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Keep the terminal's Ctrl-C from what is started inside: it is stopped in order, by us."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

"""What the runs of a sweep have reached: from the scheduler, and from the runs' own folders."""

from __future__ import annotations

import csv
import datetime
import io
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import JobPaths
from submitit.slurm.slurm import SlurmInfoWatcher

from core.storage.lines import is_number, read_lines
from core.storage.run_folder import RunDirectory
from core.train.speed import in_words
from core.train.tracking import METRICS, SPEED
from slurm.manifest import Attempt, Manifest
from slurm.submit import logs
from slurm.sweep import Sweep

DONE, MISSING, STOPPED = "done", "missing", "stopped"
# SLURM's words for a job that will run or runs; every other word is an end.
ACTIVE = ("PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "COMPLETING", "SUSPENDED", "RESIZING", "REQUEUE_HOLD")
HOUSEKEEPING = (
    "steps",
    "epochs",
    "parameters",
    "train_seconds",
    "train_cpu_seconds",
    "wall_seconds",
    "device",
    "processes",
)
UNKNOWN = "-"
ACCOUNTED = datetime.timedelta(minutes=10)  # a job that was submitted a moment ago is not in the accounts yet


@dataclass(frozen=True)
class RunState:
    """The state of a run: `state` is done, missing, stopped, or SLURM's word in lower case."""

    name: str
    state: str
    job_id: str | None = None
    step: int | None = None
    loss: float | None = None
    metric: float | None = None
    seconds_left: float | None = None
    problem: str | None = None

    @property
    def active(self) -> bool:
        """Whether it waits for its turn or runs."""
        return self.state.upper() in ACTIVE


def run_states(sweep: Sweep, manifest: Manifest) -> list[RunState]:
    """The state of every run in the manifest."""
    last = {name: record.last for name, record in manifest.runs.items()}
    words = slurm_words([each for each in last.values() if each is not None and each.kind == "slurm"])
    return [run_state(sweep, name, attempt, words) for name, attempt in last.items()]


def slurm_words(attempts: Sequence[Attempt]) -> dict[str, str]:
    """SLURM's word for the job of each attempt, asked once for all; ValueError when sacct cannot tell."""
    if not attempts:
        return {}
    command = ["sacct", "-o", "JobID,State", "--parsable2", "-X", "-j", ",".join(each.job_id for each in attempts)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except FileNotFoundError:
        raise ValueError("there is no SLURM on this machine (no sacct), but the sweep was submitted to one") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"sacct does not answer: {(error.stderr or str(error)).strip()}") from error
    known = SlurmInfoWatcher().read_info(answer)
    now = datetime.datetime.now(datetime.UTC)
    words = {}
    for each in attempts:
        new = now - datetime.datetime.fromisoformat(each.time) < ACCOUNTED
        word = known.get(each.job_id, {}).get("State") or ("PENDING" if new else "UNKNOWN")
        words[each.job_id] = word.split()[0].rstrip("+")  # CANCELLED by 1000
    return words


def run_state(sweep: Sweep, name: str, attempt: Attempt | None, words: dict[str, str]) -> RunState:
    """The state of one run."""
    run = RunDirectory(sweep.run_path(name))
    job_id = None if attempt is None else attempt.job_id
    summary, lines = run.summary(), read_lines(run.path / METRICS)
    step, loss = (lines[-1]["step"], _number(lines[-1], "loss")) if lines else (None, None)
    if summary is not None:
        return RunState(name, DONE, job_id, summary.get("steps"), loss, metric_of(sweep, summary))
    if attempt is None:
        return RunState(name, MISSING)
    if attempt.kind == "slurm":
        word = words[attempt.job_id]
        state = STOPPED if word == "COMPLETED" else word.lower()
    else:
        state = "running" if run.is_locked() or is_started(sweep, attempt) else STOPPED
    problem = None if state.upper() in ACTIVE else last_error(sweep, attempt)
    left = seconds_left(run, step) if state == "running" else None
    return RunState(name, state, job_id, step, loss, seconds_left=left, problem=problem)


def is_started(sweep: Sweep, attempt: Attempt) -> bool:
    """Whether the process of this machine that leads an attempt is alive; false where there is no /proc."""
    try:
        command = Path("/proc", attempt.job_id, "cmdline").read_bytes()
    except OSError:
        return False
    return str(logs(sweep).absolute()).encode() in command.split(b"\0")


def metric_of(sweep: Sweep, summary: dict[str, Any]) -> float | None:
    """The metric that the sweep names; without one the first number of the summary that is a measure of samples."""
    if sweep.metric is not None:
        return _number(summary, sweep.metric)
    return next((value for key, value in summary.items() if is_measure(key, value)), None)


def _number(values: dict[str, Any], name: str) -> float | None:
    return values[name] if is_number(values.get(name)) else None


def is_measure(key: str, value: Any) -> bool:
    """Whether a key of a summary measures samples, and not the run."""
    return isinstance(value, float) and key not in HOUSEKEEPING and not key.endswith("_per_second")


def seconds_left(run: RunDirectory, step: int | None) -> float | None:
    """The seconds left, from the newest speed that the run recorded."""
    speed = read_lines(run.path / SPEED)
    if not speed or step is None:
        return None
    steps, batch_size = (run.setting(f"trainer.{name}", int) for name in ("steps", "batch_size"))
    rate = next((_number(speed[-1], key) for key in speed[-1] if key.endswith("s_per_second")), None)
    return (steps - step) * batch_size / rate if rate else None


def last_error(sweep: Sweep, attempt: Attempt) -> str | None:
    """The last word of an attempt's logs: an error of the run, in any process, else any error, else any line."""
    files = (JobPaths(logs(sweep), attempt.job_id, task).stdout for task in range(sweep.resources.processes))
    texts = [file.read_text(errors="replace") for file in files if file.exists()]
    lines = [line.strip() for text in reversed(texts) for line in text.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith(("error: ", "error in process "))]
    for found in (own, [line for line in lines if "rror" in line], lines):
        if found:
            return found[-1]
    return None


def table(states: Iterable[RunState], metric: str | None) -> str:
    """The states as aligned text, and below it what went wrong."""
    header = ("run", "state", "job", "step", "loss", metric or "metric", "time left")
    rows = [
        (
            each.name,
            each.state,
            each.job_id or UNKNOWN,
            UNKNOWN if each.step is None else str(each.step),
            UNKNOWN if each.loss is None else f"{each.loss:.4f}",
            UNKNOWN if each.metric is None else f"{each.metric:.4g}",
            UNKNOWN if each.seconds_left is None else in_words(each.seconds_left),
        )
        for each in states
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join([*lines, *(f"{each.name}: {each.problem}" for each in states if each.problem)])


# Collecting


def collect(sweep: Sweep, manifest: Manifest) -> tuple[Path, Path]:
    """Write summary.csv, a row for each complete run, and summary.md, mean and deviation over seeds, in the folder.

    ValueError while no run is complete.
    """
    found = {name: RunDirectory(sweep.run_path(name)).summary() for name in manifest.runs}
    summaries = {name: summary for name, summary in found.items() if summary is not None}
    if not summaries:
        raise ValueError(f"no run of {sweep.folder} is complete yet; `status` says how far they are")
    keys = list(dict.fromkeys(key for summary in summaries.values() for key in summary))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["run", "seed", *keys])
    for name, summary in summaries.items():
        writer.writerow([*split_seed(name), *(summary.get(key, "") for key in keys)])
    files = sweep.folder / "summary.csv", sweep.folder / "summary.md"
    files[0].write_text(text.getvalue())
    files[1].write_text(means(summaries))
    return files


def split_seed(name: str) -> tuple[str, str]:
    """A run's name without its seed, and the seed."""
    case, _, seed = name.rpartition("seed")
    return case.rstrip("-") or "all", seed


def means(summaries: dict[str, dict[str, Any]]) -> str:
    """A Markdown table: each case's measures over its seeds, mean and standard deviation (n - 1)."""
    cases: dict[str, list[dict[str, Any]]] = {}
    for name, summary in summaries.items():
        cases.setdefault(split_seed(name)[0], []).append(summary)
    keys = [key for key, value in next(iter(summaries.values())).items() if is_measure(key, value)]
    lines = [f"| run | seeds | {' | '.join(keys)} |", f"|{'---|' * (len(keys) + 2)}"]
    for case, rows in cases.items():
        cells = [_mean([row[key] for row in rows if is_number(row.get(key))]) for key in keys]
        lines.append(f"| {case} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float]) -> str:
    if not values:
        return UNKNOWN
    spread = f" ± {statistics.stdev(values):.4g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{spread}"

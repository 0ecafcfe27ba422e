"""Calling commands as a user does, in a process of their own or in this one, and reading what they leave."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from core.storage.checkpoint import CheckpointStore
from core.train.trainer import Trainer


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal, and its exit code."""

    code: int
    out: str
    err: str


def call(module: str, *words: str) -> Outcome:
    """What `python -m module words` would leave, called in this process, which spares the seconds of a start."""
    entry, code, out, err = importlib.import_module(module).ENTRY, 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            entry.run(words)
        except SystemExit as exit_:
            code = exit_.code
    return Outcome(code, out.getvalue(), err.getvalue())


def start(module: str, *words: str, cwd: Path) -> subprocess.Popen:
    """`python -m module words` in its own process, away from the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", module, *words], cwd=cwd, env=environment, **pipes)


def finish(process: subprocess.Popen, timeout: float = 120) -> Outcome:
    """Wait for a process; one that hangs is killed."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Outcome(process.returncode, out, err)


@contextlib.contextmanager
def told_to_stop(step: int) -> Iterator[None]:
    """Inside it, a run in this process gets SIGTERM while it makes its step of that number, counted from 1."""
    update = Trainer.update

    def interrupted(self, *args):
        if self.step == step - 1:
            signal.raise_signal(signal.SIGTERM)
        return update(self, *args)

    with mock.patch.object(Trainer, "update", interrupted):
        yield


def one_line_error(outcome: Outcome, *parts: str, code: int = 2) -> str:
    """What is wrong with how a command failed, or "": the exit code (2: bad input, 1: a failure in the middle), and at
    the end of what it says one line with all of `parts`, without a traceback."""
    lines = [line for line in outcome.err.replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    if outcome.code != code or errors != lines[-1:] or "Traceback" in outcome.err:
        return f"not one line with exit code {code}: {outcome}"
    return "".join(f"{part!r} is not in: {errors[0]}" for part in parts if part not in errors[0])


def is_one_line_error(outcome: Outcome, *parts: str, code: int = 2) -> None:
    """Fails the test unless `one_line_error` finds nothing wrong."""
    assert (wrong := one_line_error(outcome, *parts, code=code)) == "", wrong


def newest(run: Path) -> Path:
    """The newest checkpoint of a run."""
    return CheckpointStore(run / "checkpoints").latest()


def steps_of(run: Path) -> list[int]:
    """The steps of a run's complete checkpoints."""
    return [int(path.name.removeprefix("step_")) for path in CheckpointStore(run / "checkpoints").paths()]


def same_bytes(a: Path, b: Path) -> bool:
    """Two files hold the same."""
    return a.read_bytes() == b.read_bytes()


def same_weights(a: Path, b: Path) -> bool:
    """Two checkpoints hold the same weights, averages and optimizer state, bit by bit."""
    names = [sorted(file.name for file in each.glob("*.safetensors")) for each in (a, b)]
    return names[0] == names[1] and all(same_bytes(a / name, b / name) for name in names[0])


# Of a run, what a clock or the number of its sessions decides.
OF_TIME = {"sessions.jsonl", "speed.jsonl", "summary.json", "checkpoint.json", ".lock"}
TIMES = {
    "seconds",
    "wall_seconds",
    "cpu_seconds",
    "records",
}  # records: what the manifest knows of them


def same_run(a: Path, b: Path) -> None:
    """Two runs have left the same files with the same bytes, and the same manifests but for the seconds in them."""
    files = [{str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} for run in (a, b)]
    assert files[0] == files[1], f"left over: {files[0] - files[1]}, missing: {files[1] - files[0]}"
    names = sorted(name for name in files[0] if Path(name).name not in OF_TIME)
    assert {"metrics.jsonl", "config.yaml", "checkpoints/latest"} <= set(names)
    differ = [name for name in names if not same_bytes(a / name, b / name)]
    manifests = [name for name in files[0] if Path(name).name == "checkpoint.json"]
    differ += [name for name in manifests if _without_times(a / name) != _without_times(b / name)]
    assert not differ, f"not the same: {differ}"


def _without_times(manifest: Path) -> dict:
    content = json.loads(manifest.read_text())
    notes = {key: value for key, value in content["notes"].items() if key not in TIMES}
    return {**content, "notes": notes, "sha256": None}

"""Running the image entries as a user does: at toy size, in a process of their own or in this one."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import image.train
from core.storage.checkpoint import CheckpointStore
from tests.end_to_end.zygote import Zygote

STEPS, BATCH = 150, 16
TINY = [
    f"trainer.steps={STEPS}",
    f"trainer.batch_size={BATCH}",
    "trainer.log_every=5",
    "trainer.preview_every=60",
    "trainer.num_previews=10",
    "trainer.checkpoint_every=40",
    "backbone.depth=3",
    "backbone.hidden_size=32",
    "backbone.num_heads=2",
    "alignment.pairs=[[1,2]]",
    "optimizer.warmup_steps=10",
    "sampler.num_steps=2",
    "evaluation.classifier_steps=20",
    "device=cpu",
]
MINUTE = [  # a run so small that a session takes half a second, with all kinds of files, for `uninterrupted`
    "trainer.steps=24",
    "trainer.batch_size=6",
    "trainer.log_every=1",
    "trainer.preview_every=5",
    "trainer.num_previews=2",
    "trainer.checkpoint_every=3",
    "trainer.keep_every=12",
    "backbone.depth=2",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "alignment.pairs=[[1,2]]",
    "optimizer.warmup_steps=2",
    "ema.decays=[0.9,0.5]",
    "ema.widths=[0.1]",
    "ema.snapshot_every=4",
    "sampler.num_steps=2",
    "evaluation=none",
    "tracking.tensorboard=off",
    "device=cpu",
]
RUN = Path("runs", "image", "digits")  # in the folder where the command is called


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal, and its exit code."""

    code: int
    out: str
    err: str


def tiny(*overrides: str, evaluate: bool = False) -> list[str]:
    """Arguments of a tiny run on digits."""
    settings = TINY if evaluate else [item for item in TINY if not item.startswith("evaluation.")] + ["evaluation=none"]
    return [*settings, *overrides]


def start(module: str, *args: str, cwd: Path) -> subprocess.Popen:
    """`python -m module args` in its own process, away from the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", module, *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


def finish(process: subprocess.Popen, timeout: float = 120) -> Outcome:
    """Wait for a process; one that hangs is killed."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Outcome(process.returncode, out, err)


def wait_for(condition, process: subprocess.Popen, timeout: float = 60) -> None:
    """Wait until `condition()` holds; fails if the process ends before."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            outcome = finish(process, 1)
            pytest.fail(f"the process did not come that far: {outcome}")
        time.sleep(0.005)


class Inside:
    """An entry in this process, which spares the seconds of a start: `inside("image.train", "seed=1")`."""

    def __init__(self, capture: pytest.CaptureFixture):
        self.capture = capture

    def __call__(self, module: str, *args: str) -> Outcome:
        """What `python -m module args` would have left."""
        entry, code = importlib.import_module(module).ENTRY, 0
        self.capture.readouterr()
        try:
            entry.run(args)
        except SystemExit as exit_:
            code = exit_.code
        return Outcome(code, *self.capture.readouterr())


def train_here(place: Path, *overrides: str) -> Path:
    """A finished tiny run in `place`/runs, made in this process; its folder."""
    image.train.ENTRY.run(tiny(f"runs_dir={place / 'runs'}", *overrides))
    run = place / "runs" / "image" / "digits"
    assert (run / "summary.json").exists()
    return run


def uninterrupted(zygote: Zygote, place: Path, *overrides: str) -> Path:
    """The command in the folder `place` with nobody disturbing it: the folder of the run, which is complete then."""
    session = zygote.train(*MINUTE, *overrides, cwd=place)
    assert session.wait() == 0, session.said()
    return place / RUN


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
    names = ("model", "ema", "optimizer")
    return all(same_bytes(a / f"{name}.safetensors", b / f"{name}.safetensors") for name in names)


def is_one_line_error(outcome: Outcome, *parts: str, code: int = 2) -> None:
    """The exit code (2: bad input, 1: a failure in the middle) and one line that holds all of `parts`."""
    screen = outcome.err.replace("\r", "\n").splitlines()
    # What a run says of itself before anything goes wrong.
    told = ("LayerSync aligns", "digit classifier", "timbre classifier", "goes on with another", "latents of")
    told += ("audio index of",)
    lines = [line for line in screen if line.strip() and "|" not in line and not line.startswith(told)]  # nor bars
    assert outcome.code == code, outcome
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    missing = [part for part in parts if part not in lines[0]]
    assert not missing, f"{missing} not in: {lines[0]}"


class Malicious:
    """Its pickle makes a file when it is loaded without care."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def save_malicious(path: Path, target: Path) -> Path:
    """A .pt file that would make the file `target`."""
    torch.save({"ema": {"weight": torch.zeros(1)}, "args": Malicious(target)}, path)
    return path


# Of a run, what a clock or the number of its sessions decides.
OF_TIME = {"sessions.jsonl", "speed.jsonl", "summary.json", "checkpoint.json", ".lock"}
TIMES = {"seconds", "wall_seconds"}


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
    return {**content, "notes": {key: value for key, value in content["notes"].items() if key not in TIMES}}

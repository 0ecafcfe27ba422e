"""Running the image entries as a user does: at toy size, in a process of their own or in this one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

import image.sample
import image.train
from core.checkpoint import CheckpointStore
from core.config import run_entry

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
SCHEMAS = {"image.train": ("train", image.train.ImageConfig), "image.sample": ("sample", image.sample.SampleConfig)}


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
        entry: ModuleType = getattr(image, module.split(".")[1])
        name, schema = SCHEMAS[module]
        code = 0
        self.capture.readouterr()
        try:
            run_entry(entry.main, config_module="image.conf", config_name=name, schema=schema, argv=args)
        except SystemExit as exit_:
            code = exit_.code
        return Outcome(code, *self.capture.readouterr())


def train_here(place: Path, *overrides: str) -> Path:
    """A finished tiny run in `place`/runs, made in this process; its folder."""
    argv = tiny(f"runs_dir={place / 'runs'}", *overrides)
    run_entry(
        image.train.main, config_module="image.conf", config_name="train", schema=image.train.ImageConfig, argv=argv
    )
    run = place / "runs" / "image" / "digits"
    assert (run / "summary.json").exists()
    return run


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


def is_one_line_error(outcome: Outcome, *parts: str) -> None:
    """Exit code 2 and one line that holds all of `parts`."""
    screen = outcome.err.replace("\r", "\n").splitlines()
    told = ("LayerSync aligns", "digit classifier")  # what a run says of itself before anything goes wrong
    lines = [line for line in screen if line.strip() and "|" not in line and not line.startswith(told)]  # nor bars
    assert outcome.code == 2, outcome
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

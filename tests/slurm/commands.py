"""What the tests of sweeps share: a sweep of toy runs, and `python slurm/launch.py` inside this process."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from slurm.launch import main
from slurm.sweep import Case
from tests.slurm.held import ENTRY

ROOT = Path(__file__).resolve().parents[2]
STEPS = 24
TOY = yaml.safe_load(f"""
{{device: cpu, evaluation: none, tracking.tensorboard: "off", trainer.steps: {STEPS}, trainer.batch_size: 6,
  trainer.log_every: 1, trainer.num_previews: 2, backbone.depth: 2, backbone.hidden_size: 16, backbone.num_heads: 2,
  alignment.pairs: [[1, 2]], optimizer.warmup_steps: 2, ema.decays: [0.9, 0.5], sampler.num_steps: 2}}
""")  # a run of a quarter of a second, after seconds of imports
STATES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal, and its exit code."""

    code: int
    out: str
    err: str

    def is_error(self, *parts: str) -> bool:
        """Bad input was told in one line that holds all of `parts`."""
        assert self.code == 2, self
        assert self.err.count("\n") == 1 and self.err.startswith("error: "), self.err
        missing = [part for part in parts if part not in self.err]
        assert not missing, f"{missing} not in: {self.err}"
        return True


def launch(*arguments) -> Outcome:
    """The command with these arguments."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(each) for each in arguments])
        except SystemExit as exit_:
            code = exit_.code
    return Outcome(code, out.getvalue(), err.getvalue())


class ToySweep:
    """A sweep of toy runs of the entry `tests.slurm.held`; everything is in one folder."""

    def __init__(self, folder: Path, name: str, cases: list[str | dict], **resources):
        self.file, self.folder = folder / f"{name}.yaml", folder / "runs" / "sweeps" / name
        keys = {
            "name": name,
            "entry": "tests.slurm.held",
            "runs_dir": str(folder / "runs"),
            "overrides": TOY,
            "cases": [{"case": case} if isinstance(case, str) else case for case in cases],
            "resources": resources,
        }
        self.file.write_text(yaml.safe_dump(keys))

    def run(self, case: str) -> Path:
        """The folder of a run."""
        return self.folder / "tests" / f"{case}-seed0"

    def jobs(self, case: str) -> list[str]:
        """The ids of a run's attempts."""
        file = self.folder / "manifest.json"
        runs = json.loads(file.read_text())["runs"] if file.exists() else {}
        return [attempt["job_id"] for attempt in runs.get(f"{case}-seed0", {"attempts": []})["attempts"]]

    def step(self, case: str) -> int:
        """The last step recorded."""
        file = self.run(case) / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return next((json.loads(line)["step"] for line in reversed(lines) if line.endswith("\n")), 0)

    def is_complete(self, case: str) -> bool:
        """It has trained to the end."""
        return (self.run(case) / "summary.json").exists()

    def table(self) -> dict[str, dict[str, str]]:
        """What `status` shows: case -> column -> cell, and under "problem" what it says below the table."""
        shown = launch("status", self.file)
        assert shown.code == 0, shown
        columns = ("run", "state", "job", "step", "loss", "metric", "left")
        rows = {}
        for line in shown.out.splitlines()[1:]:
            name, _, rest = line.partition("-seed0")
            if rest.startswith(": "):
                rows[name]["problem"] = rest.removeprefix(": ")
            else:
                rows[name] = dict(zip(columns, line.split(maxsplit=len(columns) - 1), strict=True))
        return rows


def train_alone(folder: Path) -> Path:
    """A toy run of one process that nobody disturbs, made in this process."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ENTRY.run(Case("through", {**TOY, "seed": 0}).arguments(folder))
    return folder / "tests" / "through"


def has_same_end(a: Path, b: Path) -> bool:
    """Two runs have ended with the same weights, averages, optimizer state and records, bit by bit."""
    ends = [run / "checkpoints" / f"step_{STEPS:08d}" for run in (a, b)]
    pairs = [(a / "metrics.jsonl", b / "metrics.jsonl"), *(tuple(end / name for end in ends) for name in STATES)]
    differ = [one.name for one, other in pairs if one.read_bytes() != other.read_bytes()]
    assert not differ, f"{a} and {b} differ: {differ}"
    return len((a / "metrics.jsonl").read_text().splitlines()) == STEPS

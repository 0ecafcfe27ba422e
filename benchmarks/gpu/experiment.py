"""`python -m benchmarks.gpu experiment`: SiT with and without LayerSync on rendered scenes, in a given time.

It needs what training needs (hydra and PyYAML beside the requirements of the other parts).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from benchmarks.gpu.budget import Budget
from core.processes.signals import StopRequest
from core.processes.world import joined
from core.schema import plain
from core.storage.atomic import write_atomic
from core.storage.run_folder import RunDirectory
from core.train.trainer import Trainer
from image.backbone import SIZES
from image.train import ENTRY, ImageConfig, build_domain

DESCRIPTION = """\
Matched runs of SiT-S/2 and B/2 on rendered scenes, baseline and LayerSync, same weights at the start, data order,
noise and times. They take turns of --turn steps until --minutes are over; the same command goes on with them, to the
bit. After each turn a run is sampled and measured. The JSON holds all curves so far; each turn writes it anew."""

METHODS = {"baseline": ["alignment=none"], "layersync": ["alignment=layersync_depth12"]}
TOY = ["backbone.size=null", "backbone.depth=8", "backbone.hidden_size=16", "backbone.num_heads=2"]
TOY += ["data.num_images=50", "evaluation.classifier_steps=2", "evaluation.num_samples=4", "sampler.num_steps=2"]
TOY += [
    "trainer.precision=fp32",
    "trainer.compile=none",
    "trainer.num_workers=0",
    "ema.decays=[0.5]",
    "trainer.num_previews=2",
]
MOST_POINTS = 200  # of a curve of losses


@dataclass(frozen=True)
class Setting:
    """What is run; turn: steps of a run before the next has its turn; batch: samples of a step."""

    device: str
    minutes: float
    sizes: tuple[str, ...]
    seeds: tuple[int, ...]
    side: int
    batch: int
    turn: int
    workers: int
    runs_dir: str
    tiny: bool


@dataclass(frozen=True)
class Run:
    """One of the matched runs."""

    size: str
    seed: int
    method: str

    def name(self, side: int) -> str:
        """Of its folder."""
        return f"scenes{side}_{self.size.replace('/', '')}_{self.method}_seed{self.seed}"

    def config(self, setting: Setting, steps: int) -> ImageConfig:
        """Its config when it is to have made `steps` steps; its learning rate does not depend on them."""
        letter, _, patch = self.size.partition("/")
        values = {"name": self.name(setting.side), "seed": self.seed, "device": setting.device}
        values |= {"runs_dir": setting.runs_dir, "data.size": setting.side, "trainer.steps": steps}
        values |= {"trainer.batch_size": setting.batch, "trainer.num_workers": setting.workers}
        values |= {"backbone.size": letter, "backbone.patch_size": patch, "trainer.checkpoint_every": setting.turn}
        values |= {"trainer.log_every": 1 if setting.tiny else 10, "trainer.preview_every": 0}
        values |= {"evaluation.num_samples": 1200, "sampler.num_steps": 20, "sampler.guidance_scale": 1.0}
        options = ["experiment=scenes64", *METHODS[self.method], *(f"{key}={value}" for key, value in values.items())]
        return ENTRY.config([*options, *(TOY if setting.tiny else [])])


class TimeIsOver(StopRequest):
    """A request to stop that comes by itself when the budget is spent."""

    def __init__(self, budget: Budget):
        super().__init__()
        self.budget = budget

    def __bool__(self) -> bool:
        return super().__bool__() or self.budget.left <= 0


def take_turn(run: Run, setting: Setting, steps: int, budget: Budget) -> bool:
    """Train a run up to `steps`, go on where it was, and measure it; False where the time was over before."""
    config = run.config(setting, steps)
    with joined(config.device) as world:
        folder = RunDirectory.create(config.runs_dir, "image", config.name)
        with folder.locked():
            folder.clean()
            folder.compare(plain(config), config.free_keys(), config.allow_changes, type(config))
            loop = Trainer(config, build_domain(config, world.device, evaluate=True), folder, world)
            with TimeIsOver(budget) as stop:
                if not loop.fit(stop):
                    return False
            loop.finish()
            return True


def steps_made(run: Run, setting: Setting) -> int:
    """Steps at which the run was last measured."""
    measured = lines(folder_of(run, setting) / "evaluations.jsonl")
    return max((line["step"] for line in measured), default=0)


def folder_of(run: Run, setting: Setting) -> Path:
    """The run's folder."""
    return Path(setting.runs_dir) / "image" / run.name(setting.side)


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def curves(run: Run, setting: Setting) -> dict[str, Any]:
    """What is known of a run: the flow loss, its mean over neighbouring records, and what was measured."""
    records = lines(folder_of(run, setting) / "metrics.jsonl")
    width = max(1, -(-len(records) // MOST_POINTS))
    parts = [records[first : first + width] for first in range(0, len(records), width)]
    loss = [[part[-1]["step"], sum(each["flow_loss"] for each in part) / len(part)] for part in parts]
    return {**asdict(run), "flow_loss": loss, "evaluations": lines(folder_of(run, setting) / "evaluations.jsonl")}


def gains(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each size and step at which both methods were measured: the relative gain of LayerSync, seed by seed."""
    distances = {
        (each["size"], each["seed"], each["method"], line["step"]): line["frechet_distance"]
        for each in found
        for line in each["evaluations"]
    }
    rows: dict[tuple[str, int], list[float]] = {}
    for (size, seed, method, step), value in distances.items():
        other = distances.get((size, seed, "layersync", step))
        if method == "baseline" and other is not None:
            rows.setdefault((size, step), []).append(1 - other / value)
    return [{"size": size, "step": step, "gain_by_seed": values} for (size, step), values in sorted(rows.items())]


def turns(runs: Sequence[Run], setting: Setting) -> Iterator[tuple[Run, int]]:
    """Always the run that has made the fewest steps, and the step that it is to reach."""
    while True:
        run = min(runs, key=lambda each: steps_made(each, setting))
        yield run, steps_made(run, setting) + setting.turn


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.gpu experiment", None, DESCRIPTION, formatter_class=form)
    add = parser.add_argument
    add("--minutes", type=float, default=8.0, help="time that may be spent in this call (default 8)")
    add("--device", default="cuda", help="cuda or cuda:N; cpu with --tiny (default cuda)")
    add("--sizes", nargs="+", default=["S/2", "B/2"], help="size and patch of the networks (default S/2 B/2)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of weights, data and noise (default 0 1 2)")
    add("--side", type=int, default=64, choices=(64, 128), help="pixels (default 64)")
    add("--batch", type=int, default=128, help="samples of a step (default 128)")
    add("--turn", type=int, default=500, help="steps between two measurements of a run (default 500)")
    add("--workers", type=int, default=12, help="processes that render (default 12)")
    add("--runs-dir", default="runs/gpu_experiment", help="where the runs go on from (default runs/gpu_experiment)")
    add("--tiny", action="store_true", help="toy networks, batch 4, turns of 2 steps, to try the command")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-gpu_experiment-<device>.json")
    return parser


def make_setting(options: argparse.Namespace) -> Setting:
    """The options as a setting; ValueError for what cannot run here."""
    if not options.minutes > 0:
        raise ValueError(f"--minutes is {options.minutes:g}; it must be above 0")
    for size in options.sizes:
        letter, _, patch = size.partition("/")
        if letter not in SIZES or not patch.isdigit() or int(patch) < 1 or options.side % int(patch):
            raise ValueError(f"--sizes has {size!r}; allowed: {'|'.join(SIZES)}/<patch>, which divides {options.side}")
    device = measure.pick_device(options.device)
    if device.type != "cuda" and not options.tiny:
        raise ValueError(f"--device {device} needs --tiny: SiT-S/2 takes hours without a GPU")
    batch, turn = (4, 2) if options.tiny else (options.batch, options.turn)
    shape = tuple(options.sizes), tuple(options.seeds), options.side, batch, turn
    return Setting(str(device), options.minutes, *shape, options.workers, options.runs_dir, options.tiny)


def main(argv: Sequence[str] | None = None) -> int:
    """Let the runs take turns until the time is over; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = make_parser()
    options = parser.parse_args(argv)
    budget = Budget(60 * options.minutes)
    try:
        setting = make_setting(options)
        # in this order: both methods of a size before the next size, all sizes before the next seed
        runs = [Run(size, seed, method) for seed in setting.seeds for size in setting.sizes for method in METHODS]
        for run in runs:
            run.config(setting, setting.turn)
    except ValueError as error:
        parser.error(str(error))
    record = measure.record("gpu experiment", argv, setting, {})
    record["versions"] = measure.versions(torch.device(setting.device))
    kind = torch.device(setting.device).type
    path = Path(options.out) if options.out else measure.RESULTS / f"{record['date'][:10]}-gpu_experiment-{kind}.json"
    for run, steps in turns(runs, setting):
        print(f"{run.name(setting.side)} to step {steps} ({budget.left:.0f} s left)", flush=True)
        going = take_turn(run, setting, steps, budget)
        found = [curves(each, setting) for each in runs]
        record["results"] = {"runs": found, "gains": gains(found)}
        write_atomic(path, json.dumps(record, indent=1) + "\n")
        if not going or budget.left <= 0:
            break
    for row in record["results"]["gains"]:
        values = ", ".join(f"{value:+.1%}" for value in row["gain_by_seed"])
        print(f"{row['size']} step {row['step']}: Fréchet distance, gain of LayerSync by seed: {values}")
    print(f"written to {measure.shown(path)}; the same command goes on")
    return 0

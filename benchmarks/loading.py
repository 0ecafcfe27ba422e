"""`python -m benchmarks.loading`: CPU seconds and memory until a large network has the weights of a file."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks import measure
from benchmarks.models import PRESETS
from core.alignment.teacher import Teacher
from core.draws import seeded_weights
from core.storage.coming import give_memory, same_without_weights, without_weights
from core.storage.weights import load_into, load_safetensors
from core.train.ema import EMA, EMAConfig

AIM, AIM_COPIES = 1 / 3, 2.0
LIMITS = ("copy",)
WAYS, CASES = ("drawn", "without"), ("sample", "resume")

DESCRIPTION = """\
Measure how long a SiT takes to be built and to get the weights of a safetensors file, and how much memory, in a process
of its own for each turn. Two ways take turns: `drawn` initialises the weights and overwrites them; `without` builds the
network without weights, as sampling, evaluation and a resumed run do. `sample` is one network. `resume` is what a run
with a teacher (SRA) builds: network, teacher up to its block, one average, and both groups loaded; no optimizer. The
file is in the page cache, and seconds are the processor's: reading from a disk comes on top.

The aim is a third of the time, and in `sample` at most one copy more than the weights."""

EXAMPLES = """\
examples:
  python -m benchmarks.loading                        SiT-L/2, 1.8 GB of weights
  python -m benchmarks.loading --size tiny            to try the command"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    size: str
    cases: Sequence[str]
    rounds: int
    threads: int
    device: str = "cpu"


def write_weights(size: str, file: Path) -> int:
    """A file of weights that are all 0.5; its bytes."""
    preset = PRESETS[size]
    with without_weights():
        model = preset.backbone.build(preset.latent_shape, preset.num_classes)
    save_file({name: torch.full(each.shape, 0.5) for name, each in model.state_dict().items()}, file)
    return file.stat().st_size


def turn(size: str, threads: int, case: str, way: str, file: Path) -> dict[str, float]:
    """CPU seconds until all is loaded, and MiB that the process has grown by at most; in a new process."""
    torch.set_num_threads(threads)
    preset, empty = PRESETS[size], way == "without"
    before, started = _peak_mib(), time.process_time()
    with without_weights() if empty else seeded_weights(0, "weights"):
        model = preset.backbone.build(preset.latent_shape, preset.num_classes)
    give_memory(model, "cpu")
    built = time.process_time() - started
    if case == "resume":
        depth = preset.backbone.num_blocks
        memo = same_without_weights(model) if empty else None
        teacher = Teacher(model, [max(1, round(0.7 * depth))], memo=memo)
        ema = EMA(model, EMAConfig(), teacher.model, filled=not empty)
    state = load_safetensors(file)
    load_into(model, state, str(file))
    if case == "resume":
        ema.load_state_dicts({"ema": state})
    seconds = time.process_time() - started
    return {"seconds": seconds, "build_seconds": built, "mib": _peak_mib() - before}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def alone(function: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function).result()


def run_case(setting: Setting, case: str, file: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Both ways in turns."""
    say(f"{case} {setting.size}, {setting.rounds} rounds and one that is not counted ...")
    told = (setting.size, setting.threads, case)
    runs = {way: partial(alone, partial(turn, *told, way, file)) for way in WAYS}
    measure.interleave(runs, 1)  # fills the page cache
    taken = measure.interleave(runs, setting.rounds)
    seconds = {way: [each["seconds"] for each in turns] for way, turns in taken.items()}
    found = {
        way: {key: measure.spread([each[key] for each in turns]) for key in turns[0]} for way, turns in taken.items()
    }
    return {"ways": found, "time_ratio": measure.spread(measure.pair_ratios(seconds["without"], seconds["drawn"]))}


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        mib = write_weights(setting.size, file) / 2**20
        cases = {case: run_case(setting, case, file, say) for case in setting.cases}
    torch.set_num_threads(setting.threads)
    limits = measure.limits(LIMITS, setting.rounds)
    for case in cases.values():
        case["copies"] = {way: found["mib"]["median"] / mib for way, found in case["ways"].items()}
    return {
        "weights_mib": mib,
        "cases": cases,
        "limits": limits,
        "aim": {"time_ratio": AIM, "copies": AIM_COPIES},
        "time_met": all(case["time_ratio"]["median"] <= AIM for case in cases.values()),
        "copies_met": "sample" not in cases or cases["sample"]["copies"]["without"] <= AIM_COPIES + 0.05,
    }


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    results = measured["results"]
    rows = [
        [
            f"{name}, {way}",
            measure.spread_cell(found["seconds"]),
            measure.spread_cell(found["build_seconds"]),
            f"{case['copies'][way]:.2f}",
            measure.spread_cell(case["time_ratio"]) if way == "without" else "",
        ]
        for name, case in results["cases"].items()
        for way, found in case["ways"].items()
    ]
    verdicts = {key: "met" if results[f"{key}_met"] else "not met" for key in ("time", "copies")}
    return "\n".join(
        [
            measure.headline(measured),
            f"SiT-{measured['settings']['size']}, weights of {results['weights_mib']:.0f} MiB",
            "",
            measure.table(["case", "CPU s (low-high)", "of it building", "memory / weights", "time ratio"], rows),
            "",
            f"aim: a third of the time: {verdicts['time']}; sampling at most one copy more: {verdicts['copies']}",
            measure.limits_line(results["limits"]),
        ]
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("loading", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--size", choices=list(PRESETS), default="L/2", help="of the network (default L/2)")
    add("--cases", nargs="+", choices=CASES, default=CASES, help="default: both")
    add("--rounds", type=measure.positive, default=3, help="times that each way has its turn (default 3)")
    add("--threads", type=measure.positive, default=1, help="of PyTorch, for both ways alike (default 1)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-loading-<size>-cpu.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options = make_parser().parse_args(argv)
    setting = Setting(options.size, options.cases, options.rounds, options.threads)
    measured = measure.record("loading", argv, setting, run(setting))
    return measure.conclude(measured, f"loading-{options.size.replace('/', '')}", options.out, report)


if __name__ == "__main__":
    main()

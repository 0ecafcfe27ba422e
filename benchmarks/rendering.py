"""`python -m benchmarks.rendering`: scenes/s of one core, as training asks for them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import measure
from image.datasets.scenes import ScenesConfig, ScenesDataset

SIDES = (32, 64, 128)
AIM_SIDE, AIM = 32, 3000.0

DESCRIPTION = """\
Render scenes (image/scenes) of 32, 64 and 128 pixels in turns, in batches of neighbouring rows: scenes a CPU second of
one core, as bytes; rendering is numpy's and takes no other core.

The aim is 3000 scenes/s at 32 pixels."""

EXAMPLES = """\
examples:
  python -m benchmarks.rendering                         128 scenes a batch
  python -m benchmarks.rendering --batch 16 --rounds 3"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    batch: int
    batches: int
    rounds: int
    threads: int = 1
    device: str = "cpu"


def rate(scenes: ScenesDataset, setting: Setting) -> float:
    """Scenes a CPU second over some batches."""
    count = setting.batch * setting.batches
    started = time.process_time()
    for first in range(0, count, setting.batch):
        scenes.bytes_at(range(first, first + setting.batch))
    return count / (time.process_time() - started)


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure every side; the `results` of the record."""
    torch.set_num_threads(setting.threads)
    count = max(25, setting.batch * setting.batches)  # the least that the data set has
    sets = {side: ScenesConfig(num_images=count, size=side).build() for side in SIDES}
    say(f"{setting.batches} batches of {setting.batch}, {setting.rounds} rounds ...")
    runs = {str(side): (lambda each=each: rate(each, setting)) for side, each in sets.items()}
    taken = {side: measure.spread(rates) for side, rates in measure.interleave(runs, setting.rounds).items()}
    return {"scenes_per_cpu_second": taken, "aim": AIM, "aim_met": taken[str(AIM_SIDE)]["median"] >= AIM}


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    results, setting = measured["results"], measured["settings"]
    rows = [[side, measure.spread_cell(each, 0)] for side, each in results["scenes_per_cpu_second"].items()]
    met = "met" if results["aim_met"] else "not met"
    lines = [measure.headline(measured), f"batches of {setting['batch']}", ""]
    lines += [measure.table(["pixels", "scenes a CPU second (low-high)"], rows), ""]
    return "\n".join([*lines, f"aim: {results['aim']:g} at {AIM_SIDE} pixels: {met}"])


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("rendering", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--batch", type=measure.positive, default=128, help="scenes of a batch (default 128)")
    add("--batches", type=measure.positive, default=8, help="batches of a turn (default 8)")
    add("--rounds", type=measure.positive, default=7, help="times that each side has its turn (default 7)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-rendering-cpu.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options = make_parser().parse_args(argv)
    setting = Setting(options.batch, options.batches, options.rounds)
    measured = measure.record("rendering", argv, setting, run(setting))
    return measure.conclude(measured, "rendering", options.out, report)


if __name__ == "__main__":
    main()

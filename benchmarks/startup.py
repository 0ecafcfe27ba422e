"""`python -m benchmarks.startup`: CPU seconds until a command has said `--help`, against those of `import torch`."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import measure

AIM = 1.5  # times `import torch`
BASE = "import torch"
PACKAGES = ("layersync", "core", "eval", "image", "audio", "video", "motion", "slurm")

DESCRIPTION = """\
Measure what every command costs before it does anything: the CPU seconds, user and system, of `--help` in a process of
its own, against those of `import torch`. They take turns, after one turn each that is not counted: it fills caches and
compiles our files. `--print-config` and the refusal of a config import the same and compose the same files.

The aim is at most 1.5 times `import torch`. CPU seconds depend less on what else the machine does than time does; the
ratio, taken within a round, depends less still."""

EXAMPLES = """\
examples:
  python -m benchmarks.startup                                     every command, a few minutes
  python -m benchmarks.startup --commands image.train --rounds 15  one of them, closely"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    commands: Sequence[str]
    rounds: int
    device: str = "cpu"


def commands() -> list[str]:
    """The modules of ours that are commands: `python -m <module>`."""
    files = [path for package in PACKAGES for path in sorted((measure.ROOT / package).glob("*.py"))]
    return [f"{path.parent.name}.{path.stem}" for path in files if 'if __name__ == "__main__":' in path.read_text()]


def cpu_seconds(arguments: Sequence[str]) -> float:
    """User and system seconds of a Python process with these arguments, and of the processes that it waited for.

    Raises RuntimeError with what the process wrote on stderr when it does not exit with 0.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], cwd=measure.ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise RuntimeError(f"python {' '.join(arguments)} exits with {done.returncode}: {done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    say(f"{len(setting.commands)} commands, {setting.rounds} rounds and one that is not counted ...")
    turns = {BASE: ["-c", BASE]} | {name: ["-m", name, "--help"] for name in setting.commands}
    runs = {name: (lambda arguments=arguments: cpu_seconds(arguments)) for name, arguments in turns.items()}
    measure.interleave(runs, 1)
    taken = measure.interleave(runs, setting.rounds)
    ratios = {name: measure.spread(measure.pair_ratios(taken[name], taken[BASE])) for name in setting.commands}
    return {
        "cpu_seconds": {name: measure.spread(seconds) for name, seconds in taken.items()},
        "ratios": ratios,
        "aim": AIM,
        "met": all(ratio["median"] <= AIM for ratio in ratios.values()),
    }


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    results = measured["results"]
    ratios = results["ratios"]
    rows = [
        [name, measure.spread_cell(seconds), measure.spread_cell(ratios[name]) if name in ratios else ""]
        for name, seconds in results["cpu_seconds"].items()
    ]
    slowest = max(ratios, key=lambda name: ratios[name]["median"])
    return "\n".join(
        [
            measure.headline(measured),
            "",
            measure.table(["command", "CPU s (low-high)", f"times `{BASE}`"], rows),
            "",
            f"aim: at most {results['aim']:g} times `{BASE}`, highest {ratios[slowest]['median']:.2f} ({slowest}): "
            f"{'met' if results['met'] else 'not met'}",
        ]
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("startup", DESCRIPTION, EXAMPLES)
    add, names = parser.add_argument, commands()
    add("--commands", nargs="+", metavar="MODULE", choices=names, default=names, help="default: all of them")
    add("--rounds", type=measure.positive, default=5, help="times that every command has its turn (default 5)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-startup-cpu.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options = make_parser().parse_args(argv)
    setting = Setting(options.commands, options.rounds)
    measured = measure.record("startup", argv, setting, run(setting))
    return measure.conclude(measured, "startup", options.out, report)


if __name__ == "__main__":
    main()

"""`python -m benchmarks.teachers`: what a teacher's second pass costs, as a share of a step."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import measure
from benchmarks.models import PRESETS, SIZES_HELP, Work, model_facts
from benchmarks.steps import OurStep
from core.alignment.self_flow import SelfFlowConfig
from core.alignment.sra import SRAConfig
from core.alignment.teacher import Teacher
from core.nets.layers import TRAINING_FACTOR

AIM = 0.25
LIMITS = ("float32",)
HEAD = ["alignment", "CPU s a step (low-high)", "over none", "its teacher's pass", "FLOPs", "GFLOP/s"]
# (student, teacher) by depth, as in core/conf/alignment
PAIRS = {2: ((1, 2), (1, 2)), 8: ((2, 5), (2, 5)), 12: ((3, 8), (4, 8)), 24: ((7, 17), (7, 17)), 28: ((8, 20), (8, 20))}

DESCRIPTION = """\
Measure one training step without an alignment, with SRA and with Self-Flow, at the pairs of the presets, in turns in
one process: the CPU seconds of a step, of the teacher's pass in it, and the FLOPs. The teacher is the average of the
weights, in its memory; its pass ends at the last block that is asked for.

The aim is a pass of at most a quarter of the step without: one of 20 of 28 blocks is 0.24 of its FLOPs. A whole step
has more than that: heads and their cosine, and in Self-Flow two conditionings a sample, chosen token by token."""

EXAMPLES = """\
examples:
  python -m benchmarks.teachers --batch 2                B/2; minutes on a small CPU
  python -m benchmarks.teachers --size tiny --rounds 1   to try the command"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    size: str
    batch: int
    rounds: int
    threads: int
    seed: int = 0
    device: str = "cpu"


def make_steps(setting: Setting) -> dict[str, OurStep]:
    """The three steps."""
    work, cpu = Work(size=setting.size, batch=setting.batch, precision="fp32", seed=setting.seed), torch.device("cpu")
    sra, self_flow = PAIRS[work.preset.backbone.num_blocks]
    methods = {"sra": SRAConfig(pairs=[sra]), "self_flow": SelfFlowConfig(pairs=[self_flow])}
    steps = {"none": OurStep(work, cpu, mode="none", aligned=False)}
    return steps | {name: OurStep(work, cpu, mode="none", aligned=True, method=each) for name, each in methods.items()}


def time_passes(teacher: Teacher) -> list[float]:
    """CPU seconds of each pass that the teacher makes from now on."""
    passes, tokens = [], teacher.tokens

    def timed(*arguments: Any) -> Any:
        started = time.process_time()
        found = tokens(*arguments)
        passes.append(time.process_time() - started)
        return found

    teacher.tokens = timed
    return passes


def cpu_seconds(step: OurStep) -> float:
    """CPU seconds of one step."""
    started = time.process_time()
    step(lambda: None)
    return time.process_time() - started


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    torch.set_num_threads(setting.threads)
    say(f"SiT-{setting.size}, batch {setting.batch}, {setting.rounds} rounds and one that is not counted ...")
    steps, facts = make_steps(setting), model_facts(PRESETS[setting.size])
    whole = TRAINING_FACTOR * facts.forward_flops
    extra = {name: each.alignment.extra_flops(facts.forward_flops, facts.tokens) for name, each in steps.items()}
    runs = {name: (lambda step=step: cpu_seconds(step)) for name, step in steps.items()}
    measure.interleave(runs, 1)
    passes = {name: time_passes(step.loss.teacher) for name, step in steps.items() if step.loss.teacher is not None}
    taken = measure.interleave(runs, setting.rounds)
    limits = measure.limits(LIMITS, setting.rounds)
    ratios = {name: measure.spread(measure.pair_ratios(each, taken["none"])) for name, each in taken.items()}
    shares = {name: measure.spread(measure.pair_ratios(each, taken["none"])) for name, each in passes.items()}
    return {
        "cpu_seconds": {name: measure.spread(each) for name, each in taken.items()},
        "ratio": ratios,
        "teacher": shares,
        "gflops": {name: (whole + extra[name]) * setting.batch / 1e9 for name in steps},
        "limits": limits,
        "flops_ratio": {name: 1 + each / whole for name, each in extra.items()},
        "aim": AIM,
        "met": all(each["median"] <= AIM for each in shares.values()),
    }


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    results, setting = measured["results"], measured["settings"]
    rows = [
        [
            name,
            measure.spread_cell(each),
            measure.spread_cell(results["ratio"][name], 3),
            measure.spread_cell(results["teacher"][name], 3) if name in results["teacher"] else "-",
            f"{results['flops_ratio'][name]:.3f}",
            f"{results['gflops'][name] / each['median']:.1f}",
        ]
        for name, each in results["cpu_seconds"].items()
    ]
    return "\n".join(
        [
            measure.headline(measured),
            f"SiT-{setting['size']}, batch {setting['batch']}, fp32",
            "",
            measure.table(HEAD, rows),
            "",
            f"aim: a pass of at most {results['aim']:g} of a step without: {'met' if results['met'] else 'not met'}",
            measure.limits_line(results["limits"]),
        ]
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("teachers", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--size", choices=list(PRESETS), default="B/2", help=f"{SIZES_HELP} (default B/2)")
    add("--batch", type=measure.positive, default=2, help="samples of a step (default 2)")
    add("--rounds", type=measure.positive, default=5, help="times that each has its turn (default 5)")
    add("--threads", type=measure.positive, default=1, help="of PyTorch (default 1)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-teachers-<size>-cpu.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options = make_parser().parse_args(argv)
    setting = Setting(options.size, options.batch, options.rounds, options.threads)
    measured = measure.record("teachers", argv, setting, run(setting))
    return measure.conclude(measured, f"teachers-{options.size.replace('/', '')}", options.out, report)


if __name__ == "__main__":
    main()

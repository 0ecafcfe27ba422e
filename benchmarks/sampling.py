"""`python -m benchmarks.sampling`: images per second of the samplers.

Letters: B batch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.models import PRESETS, SIZES_HELP, Facts, build_backbone, model_facts
from core.conditioning.labels import LabelConditioning, LabelConfig
from core.draws import SampleRandom
from core.flow.path import Interpolant, Linear
from core.flow.sampler import Sampler, SamplerConfig
from core.precision import Precision, autocast
from core.train.flops import matmul_peak

SOLVERS = ("heun", "euler", "dopri5", "euler_maruyama")
MODES = ("eager", "compiled")
GUIDED, UNGUIDED, INTERVAL = "guided", "unguided", "interval"

DESCRIPTION = """\
Measure how fast samples are made, without decoding them: images/s of each solver at each batch size, eager and
compiled, all with classifier-free guidance. Heun's rule is also run without guidance and with guidance in an interval
of the flow time (t = 0 noise, t = 1 data), which spares the unconditional half of the batch outside it.

The cases of a batch size take turns in one process; ratios are taken turn by turn. dopri5 chooses its own steps: the
weights here are random, and how many it needs with trained ones is another matter. Its milliseconds per evaluation
carry over."""

EXAMPLES = """\
examples:
  python -m benchmarks.sampling                                       the default experiment's network
  python -m benchmarks.sampling --size S/2 --batch 1 4 --solver heun --steps 10 --mode eager
  python -m benchmarks.sampling --size XL/2 --batch 16 64 --precision bf16 --device cuda"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    size: str
    batches: tuple[int, ...]
    solvers: tuple[str, ...]
    modes: tuple[str, ...]
    steps: int
    guidance: float
    interval: tuple[float, float]
    device: str
    precision: str
    rounds: int
    seed: int
    threads: int | None


@dataclass(frozen=True)
class Case:
    """One way to sample: a solver under guidance, no guidance, or guidance in an interval."""

    solver: str
    guidance: str
    mode: str

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return " ".join([self.solver, self.guidance, self.mode])

    def config(self, setting: Setting) -> SamplerConfig:
        """The sampler's own config."""
        return SamplerConfig(
            solver=self.solver,
            num_steps=setting.steps,
            guidance_scale=1.0 if self.guidance == UNGUIDED else setting.guidance,
            guidance_interval=setting.interval if self.guidance == INTERVAL else (0.0, 1.0),
        )


class CountedNetwork:
    """A backbone in the wanted precision that counts its evaluations and the rows in them."""

    def __init__(self, network: Callable[..., Tensor], precision: Precision):
        self.network, self.precision = network, precision
        self.evaluations, self.rows = 0, 0

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """x (B, C, Y, X), t (B,), condition (B,) -> (B, C, Y, X)."""
        self.evaluations += 1
        self.rows += len(x)
        with autocast(x.device, self.precision):
            return self.network(x, t, condition).float()


def cases(setting: Setting) -> list[Case]:
    """Every solver guided, and Heun's rule in all three ways; a case's modes stand next to each other."""
    ways = [(solver, GUIDED) for solver in setting.solvers]
    if "heun" in setting.solvers:
        ways += [("heun", UNGUIDED), ("heun", INTERVAL)]
    return [Case(solver, guidance, mode) for solver, guidance in ways for mode in setting.modes]


@dataclass(frozen=True)
class Turn:
    """One batch sampled: seconds, evaluations of the network, and rows evaluated in all of them."""

    seconds: float
    evaluations: int
    rows: int


def sample(setting: Setting, case: Case, batch: int, network: Callable[..., Tensor], clock: measure.Clock) -> Turn:
    """Sample one batch of latents through the core's sampler."""
    preset = PRESETS[setting.size]
    sampler = Sampler(case.config(setting), Interpolant(Linear()), "velocity")
    conditioning = LabelConditioning(LabelConfig(), preset.num_classes)
    labels = conditioning.requests(batch, setting.seed).to(clock.device)
    counted = CountedNetwork(network, setting.precision)
    clock.start()
    random = SampleRandom(setting.seed, range(batch), clock.device)
    sampler(counted, (batch, *preset.latent_shape), labels, conditioning.null(labels), random)
    clock.mark()
    return Turn(clock.intervals()[0], counted.evaluations, counted.rows)


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    device = measure.pick_device(setting.device)
    say("matrix product ...")
    peak = matmul_peak(device, measure.DTYPES[setting.precision])
    model = build_backbone(PRESETS[setting.size], setting.seed, device).eval()
    batches = {}
    for batch in setting.batches:
        torch.compiler.reset()  # each batch size is compiled for itself, not as one of many
        networks = {"eager": model, "compiled": torch.compile(model, dynamic=False)}
        wanted, clock = cases(setting), measure.Clock(device)
        say(f"batch {batch}: warming up ...")
        for case in wanted:  # two steps meet every shape and layout of the inputs, so that nothing is compiled later
            sample(replace(setting, steps=2), case, batch, networks[case.mode], clock)
        say(f"batch {batch}: {setting.rounds} rounds of {len(wanted)} cases ...")
        turns = {each: partial(sample, setting, each, batch, networks[each.mode], clock) for each in wanted}
        batches[batch] = measure.interleave(turns, setting.rounds)
    return summarise(model_facts(PRESETS[setting.size]), peak, batches)


def summarise(model: Facts, peak: float, batches: Mapping[int, Mapping[Case, Sequence[Turn]]]) -> dict[str, Any]:
    """The `results` of the record from the turns of each case; `peak` is the matrix product's FLOP/s."""
    flops = model.forward_flops
    return {
        "model": {
            "parameters": model.parameters,
            "tokens": model.tokens,
            "gflops_per_image_evaluation": flops / 1e9,
        },
        "matmul_peak_tflops_per_second": peak / 1e12,
        "cases": [
            describe(case, batch, turns, flops, peak)
            for batch, taken in batches.items()
            for case, turns in taken.items()
        ],
        "ratios": {
            f"batch {batch}: {name}": measure.spread(values)
            for batch, taken in batches.items()
            for name, values in time_ratios(taken).items()
        },
    }


def describe(case: Case, batch: int, turns: Sequence[Turn], flops: int, peak: float) -> dict[str, Any]:
    """One row: speed, evaluations, and MFU over the rows that were evaluated."""
    seconds = measure.spread([turn.seconds for turn in turns])
    evaluations, rows = turns[0].evaluations, turns[0].rows
    return {
        "solver": case.solver,
        "guidance": case.guidance,
        "mode": case.mode,
        "batch": batch,
        "images_per_second": batch / seconds["median"],
        "seconds": seconds,
        "evaluations": evaluations,
        "rows_per_image": rows / batch,
        "ms_per_evaluation": 1000 * seconds["median"] / evaluations,
        "mfu": rows * flops / seconds["median"] / peak,
    }


def time_ratios(taken: Mapping[Case, Sequence[Turn]]) -> dict[str, list[float]]:
    """Times of sampling over each other, turn by turn, as `above / below`: compiling, guidance, and its interval."""
    found = {}
    seconds = {case: [turn.seconds for turn in turns] for case, turns in taken.items()}
    for case in taken:
        eager = Case(case.solver, case.guidance, "eager")
        guided = Case(case.solver, GUIDED, case.mode)
        for above in (eager, guided):
            if above != case and above in taken:
                found[f"{above.name} / {case.name}"] = measure.pair_ratios(seconds[above], seconds[case])
    return found


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    setting, results = measured["settings"], measured["results"]
    low, high = setting["interval"]
    lines = [
        measure.headline(measured),
        f"SiT {setting['size']}, {setting['precision']}; {setting['steps']} steps, guidance {setting['guidance']:g}, "
        f"interval {low:g} to {high:g}; {results['model']['gflops_per_image_evaluation']:.3f} GFLOP for an image and "
        f"evaluation, matrix product {results['matmul_peak_tflops_per_second']:.3f} TFLOP/s",
        "",
    ]
    header = ["case", "batch", "images/s", "s/batch (low-high)", "evaluations", "rows/image", "MFU"]
    lines.append(measure.table(header, [_row(each) for each in results["cases"]]))
    ratios = [[name, measure.spread_cell(ratio)] for name, ratio in results["ratios"].items()]
    if ratios:
        lines += ["", measure.table(["time over time", "median (low-high)"], ratios)]
    return "\n".join(lines)


def _row(case: Mapping[str, Any]) -> list[str]:
    return [
        f"{case['solver']} {case['guidance']} {case['mode']}",
        str(case["batch"]),
        f"{case['images_per_second']:.3g}",
        measure.spread_cell(case["seconds"], 3),
        str(case["evaluations"]),
        f"{case['rows_per_image']:g}",
        f"{case['mfu']:.1%}",
    ]


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.make_parser("sampling", DESCRIPTION, EXAMPLES, rounds=3)
    add = parser.add_argument
    add("--size", choices=list(PRESETS), default="digits", help=f"{SIZES_HELP} (default digits)")
    add("--batch", nargs="+", type=measure.positive, default=[1, 16, 64], help="batch sizes (default 1 16 64)")
    add("--solver", nargs="+", choices=SOLVERS, default=list(SOLVERS), help="default all")
    add("--mode", nargs="+", choices=MODES, default=list(MODES), help="default both")
    add("--steps", type=measure.positive, default=50, help="steps of the fixed-step solvers (default 50)")
    add("--guidance", type=float, default=1.5, help="scale of classifier-free guidance (default 1.5)")
    add("--interval", nargs=2, type=float, default=[0.3, 0.8], metavar=("LOW", "HIGH"), help="default 0.3 0.8")
    return parser


def make_setting(options: argparse.Namespace) -> Setting:
    """The options as a setting, with the device that is meant; ValueError for what cannot be run."""
    setting = Setting(
        size=options.size,
        batches=tuple(dict.fromkeys(options.batch)),
        solvers=tuple(dict.fromkeys(options.solver)),
        modes=tuple(mode for mode in MODES if mode in options.mode),
        steps=options.steps,
        guidance=options.guidance,
        interval=tuple(options.interval),
        device=str(measure.pick_device(options.device)),
        precision=options.precision,
        rounds=options.rounds,
        seed=options.seed,
        threads=options.threads,
    )
    for case in cases(setting):
        case.config(setting)
    return setting


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = make_parser()
    options = parser.parse_args(argv)
    try:
        setting = make_setting(options)
    except ValueError as error:
        parser.error(str(error))
    measured = measure.record("sampling", argv, setting, run(setting))
    name = f"sampling-{setting.size.replace('/', '')}-{setting.precision}"
    return measure.conclude(measured, name, options.out, report)


if __name__ == "__main__":
    main()

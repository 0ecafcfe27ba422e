"""`python -m benchmarks.frechet`: the Fréchet distance against the matrix square root that published code takes.

Letters: n samples, D features.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import sqrtm
from threadpoolctl import threadpool_limits

from benchmarks import measure
from eval.statistics.frechet import Moments, frechet_distance, moments

AIM_SPEEDUP, AIM_DIFFERENCE = 30.0, 1e-6
LIMITS = ("float64", "copy")
DECAY = 1e-4  # of the deviations of the features from the first to the last, about as in Inception's

DESCRIPTION = """\
Measure one Fréchet distance from two means and covariances, as eval.statistics.frechet computes it and in two ways that
published code does: scipy.linalg.sqrtm of the product of the covariances (FID's own code, guided-diffusion), and the
eigenvalues of that product (torch-fidelity). They take turns. The features are normal numbers with deviations that
decay, mixed by a rotation, other ones on each side. On a busy machine several threads measure how BLAS's threads wait
for each other; one thread is timed by its own seconds on a processor.

The aim is a thirtieth of sqrtm's time at a relative difference below 1e-6, with more samples than features. The second
case has fewer: there sqrtm has no true value, and the difference says how far it is off."""

EXAMPLES = """\
examples:
  python -m benchmarks.frechet --rounds 1                minutes: sqrtm takes 10 to 60 s a turn
  python -m benchmarks.frechet --width 256 --rounds 5    seconds, and a smaller gain"""


Clock = Callable[[], float]


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    width: int
    samples: int
    few: int
    rounds: int
    seed: int
    threads: int
    device: str = "cpu"


def make_moments(samples: int, width: int, seed: int) -> Moments:
    """Moments of made-up features, as they come from a file: mean and covariance only."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(width, width)))
    features = rng.normal(size=(samples, width)) * np.geomspace(1, DECAY, width) @ rotation + 0.01 * rng.normal(
        size=width
    )
    found = moments(features)
    return Moments(found.mean, found.covariance, None)


def by_square_root(a: Moments, b: Moments) -> float:
    """The distance by scipy's matrix square root, imaginary part dropped."""
    return _with_trace(a, b, np.trace(sqrtm(a.covariance @ b.covariance)))


def by_eigenvalues(a: Moments, b: Moments) -> float:
    """The distance by the complex eigenvalues of the product of the covariances."""
    return _with_trace(a, b, np.sqrt(np.linalg.eigvals(a.covariance @ b.covariance).astype(complex)).sum())


def _with_trace(a: Moments, b: Moments, trace_root: complex) -> float:
    difference = a.mean - b.mean
    covariances = np.trace(a.covariance) + np.trace(b.covariance)
    return float(difference @ difference + covariances - 2 * np.real(trace_root))


WAYS = {"sqrtm": by_square_root, "eigenvalues": by_eigenvalues, "ours": frechet_distance}


def timed(way: Callable[[Moments, Moments], float], a: Moments, b: Moments, clock: Clock) -> tuple[float, float]:
    """(seconds, distance)."""
    started = clock()
    value = way(a, b)
    return clock() - started, value


def run_case(samples: int, setting: Setting, say: Callable[[str], None]) -> dict[str, Any]:
    """All ways in turns on one pair of sets of `samples` each."""
    say(f"{samples} samples of {setting.width} features, {setting.rounds} rounds of {len(WAYS)} ways ...")
    pair = [make_moments(samples, setting.width, setting.seed + side) for side in range(2)]
    frechet_distance(*pair)  # warms up
    clock = time.thread_time if setting.threads == 1 else time.perf_counter
    runs = {name: (lambda way=way: timed(way, *pair, clock)) for name, way in WAYS.items()}
    taken = measure.interleave(runs, setting.rounds)
    seconds = {name: [turn[0] for turn in turns] for name, turns in taken.items()}
    values = {name: turns[0][1] for name, turns in taken.items()}
    return {
        "milliseconds": {name: measure.spread(times, 1000) for name, times in seconds.items()},
        "values": values,
        "relative_difference": {name: abs(value / values["ours"] - 1) for name, value in values.items()},
        "speedup": {name: measure.spread(measure.pair_ratios(seconds[name], seconds["ours"])) for name in WAYS},
    }


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    torch.set_num_threads(setting.threads)
    with threadpool_limits(setting.threads):
        cases = {str(samples): run_case(samples, setting, say) for samples in (setting.samples, setting.few)}
        limits = measure.limits(LIMITS, setting.rounds)
    full = cases[str(setting.samples)]
    return {
        "cases": cases,
        "limits": limits,
        "aim": {"speedup": AIM_SPEEDUP, "relative_difference": AIM_DIFFERENCE},
        "speedup_met": full["speedup"]["sqrtm"]["median"] >= AIM_SPEEDUP,
        "difference_met": full["relative_difference"]["sqrtm"] < AIM_DIFFERENCE,
    }


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    setting, results = measured["settings"], measured["results"]
    rows = [
        [
            f"{name}, {samples} samples",
            measure.spread_cell(case["milliseconds"][name], 0),
            measure.spread_cell(case["speedup"][name], 1),
            f"{case['values'][name]:.9g}",
            f"{case['relative_difference'][name]:.1e}",
        ]
        for samples, case in results["cases"].items()
        for name in WAYS
    ]
    full = results["cases"][str(setting["samples"])]
    verdicts = {key: "met" if results[f"{key}_met"] else "not met" for key in ("speedup", "difference")}
    return "\n".join(
        [
            measure.headline(measured),
            f"{setting['width']} features",
            "",
            measure.table(["way", "ms (low-high)", "times ours", "distance", "difference"], rows),
            "",
            f"aim: {AIM_SPEEDUP:g} times as fast as sqrtm, measured {full['speedup']['sqrtm']['median']:.1f}: "
            f"{verdicts['speedup']}",
            f"aim: relative difference below {AIM_DIFFERENCE:g}, measured {full['relative_difference']['sqrtm']:.1e}: "
            f"{verdicts['difference']}",
            measure.limits_line(results["limits"]),
        ]
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("frechet", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--width", type=measure.positive, default=2048, help="features (default 2048, Inception's)")
    add("--samples", type=measure.positive, default=10_000, help="of each side, more than features (default 10000)")
    add("--few", type=measure.positive, default=1000, help="of each side in the second case (default 1000)")
    add("--rounds", type=measure.positive, default=3, help="times that every way has its turn (default 3)")
    add("--threads", type=measure.positive, default=1, help="of BLAS, for all ways alike (default 1)")
    add("--seed", type=int, default=0, help="of the features (default 0)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-frechet-cpu.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options = make_parser().parse_args(argv)
    names = ("width", "samples", "few", "rounds", "seed", "threads")
    setting = Setting(**{name: getattr(options, name) for name in names})
    measured = measure.record("frechet", argv, setting, run(setting))
    return measure.conclude(measured, "frechet", options.out, report)


if __name__ == "__main__":
    main()

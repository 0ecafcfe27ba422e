"""`python -m benchmarks.train_step`: what one training step of SiT costs, with and without LayerSync."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch

from benchmarks import measure
from benchmarks.models import PRESETS, SIZES_HELP, Facts, Work, model_facts
from benchmarks.steps import OURS, VARIANTS, AlignmentAlone, OurStep, Step, build_step
from core.nets.layers import TRAINING_FACTOR
from core.train.flops import matmul_peak
from image.backbone import SIZES

PUBLISHED = [f"{size}/2" for size in SIZES]
ALIGNMENT_AIM = 0.01  # of a step, at S/2 and larger
SPEED_AIM = 1.2  # baseline over ours, on a CPU
TURN_SECONDS, MOST_STEPS = 0.3, 50

DESCRIPTION = """\
Measure one training step of SiT: images/s, milliseconds of forward, backward and update (gradient norm, AdamW, EMA),
MFU against the matrix product of the same device, and peak memory.

The variants take turns in one process, so that a busy machine slows all of them alike; ratios are taken turn by turn.
LayerSync is measured twice: as a step with it over a step without, and by itself (forward and backward of its term),
since one percent drowns in the noise of a step. `baseline` is a plain training loop, see benchmarks/baseline.py."""

EXAMPLES = """\
examples:
  python -m benchmarks.train_step                              S/2, batch 8, on whatever is here
  python -m benchmarks.train_step --size digits --batch 128    the default experiment's step
  python -m benchmarks.train_step --size XL/2 --batch 64 --precision bf16 --device cuda
  python -m benchmarks.train_step --variants eager eager+layersync --no-memory"""


@dataclass(frozen=True, kw_only=True)
class Setting(Work):
    """What is measured, and how often; `steps` are taken in each turn of a variant, None: as many as fill it."""

    device: str
    variants: tuple[str, ...]
    rounds: int
    steps: int | None
    warmup: int
    memory: bool
    threads: int | None


def prepare(setting: Setting) -> torch.device:
    """Threads, seed and the device."""
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    torch.manual_seed(setting.seed)
    return measure.pick_device(setting.device)


def take_turn(step: Step, clock: measure.Clock, steps: int) -> dict[str, float]:
    """Seconds per step of each segment and, where there are several, of the whole, over `steps` steps on end."""
    clock.start(queue=isinstance(step, AlignmentAlone))
    for _ in range(steps):
        step(clock.mark)
    taken, count = clock.intervals(), len(step.segments)
    parts = {name: sum(taken[i::count]) / steps for i, name in enumerate(step.segments)}
    return parts if count == 1 else {"step": sum(taken) / steps, **parts}


def peak_memory(setting: Setting, name: str) -> dict[str, float | None]:
    """Peak memory of one variant in MiB, in a process of its own: side by side they could not be told apart."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_memory, setting, name).result()


def _peak_memory(setting: Setting, name: str) -> dict[str, float | None]:
    device = prepare(setting)
    measure.reset_peak_memory(device)
    before = measure.peak_memory_mib(device)
    step = build_step(setting, name, device)
    for _ in range(2):
        step(lambda: None)
    measure.reset_peak_memory(device)  # compiling is not part of a step
    step(lambda: None)
    return {"peak_mib": measure.peak_memory_mib(device), "before_mib": before}


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    memory = {}
    for name in setting.variants if setting.memory else ():
        say(f"peak memory of {name} ...")
        memory[name] = peak_memory(setting, name)
    device = prepare(setting)
    say("matrix product ...")
    peak = matmul_peak(device, measure.DTYPES[setting.precision])
    steps = {name: build_step(setting, name, device) for name in setting.variants}
    aligned = next((step for step in steps.values() if isinstance(step, OurStep) and step.aligned), None)
    if aligned is not None:
        steps["alignment"] = AlignmentAlone(aligned.preset.alignment, *aligned.pair(), aligned.options)
    first = {}
    for name, step in steps.items():
        say(f"warming up {name} ...")
        first[name] = warm_up(step, setting.warmup)
    say(f"{setting.rounds} rounds of {', '.join(steps)} ...")
    clock = measure.Clock(device)
    count = setting.steps or steps_per_turn([steps[name] for name in setting.variants], clock)
    turns = {name: partial(take_turn, step, clock, count) for name, step in steps.items()}
    taken = measure.interleave(turns, setting.rounds)
    results = summarise(setting, model_facts(setting.preset), peak, taken, first_seconds=first, memory=memory)
    return {"steps_per_turn": count, **results}


def warm_up(step: Step, times: int) -> float:
    """Seconds of the first step, which compiles where there is something to compile; the others are not timed."""
    started = time.perf_counter()
    step(lambda: None)
    seconds = time.perf_counter() - started
    for _ in range(times - 1):
        step(lambda: None)
    return seconds


def steps_per_turn(steps: Sequence[Step], clock: measure.Clock) -> int:
    """How many steps of the slowest variant fill a turn: a few milliseconds would measure the machine's scheduler."""
    slowest = max(take_turn(step, clock, 1)["step"] for step in steps)
    return min(MOST_STEPS, math.ceil(TURN_SECONDS / slowest))


# What came out


def summarise(
    setting: Setting,
    model: Facts,
    peak: float,
    taken: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    first_seconds: Mapping[str, float],
    memory: Mapping[str, Mapping[str, float | None]],
) -> dict[str, Any]:
    """The `results` of the record from the turns of each variant; `peak` is the matrix product's FLOP/s."""
    flops = TRAINING_FACTOR * model.forward_flops
    variants = {}
    for name in setting.variants:
        segments = {part: [turn[part] for turn in taken[name]] for part in taken[name][0]}
        spreads = {part: measure.spread(seconds, 1000) for part, seconds in segments.items()}
        rate = 1000 * setting.batch / spreads["step"]["median"]
        variants[name] = {
            "images_per_second": rate,
            "ms": spreads,
            "tflops_per_second": rate * flops / 1e12,
            "mfu": rate * flops / peak,
            "first_step_seconds": first_seconds[name],
            "memory": memory.get(name),
        }
    results = {
        "model": {
            "parameters": model.parameters,
            "tokens": model.tokens,
            "gflops_per_image_forward": model.forward_flops / 1e9,
            "gflops_per_image_training": flops / 1e9,
        },
        "matmul_peak_tflops_per_second": peak / 1e12,
        "variants": variants,
        "ratios": {name: measure.spread(values) for name, values in step_ratios(taken).items()},
        "alignment": alignment_cost(taken),
    }
    return {**results, "aims": aims(setting, results)}


def step_ratios(taken: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, list[float]]:
    """Times of a step over each other, turn by turn, as `above / below`, for the variants that ran."""
    wanted = [("baseline", name) for name in OURS] + [("eager", "compiled")]
    wanted += [("eager+layersync", "eager"), ("compiled+layersync", "compiled")]
    seconds = {name: [turn["step"] for turn in turns] for name, turns in taken.items() if name in VARIANTS}
    present = [(above, below) for above, below in wanted if above in seconds and below in seconds]
    return {f"{above} / {below}": measure.pair_ratios(seconds[above], seconds[below]) for above, below in present}


def alignment_cost(taken: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any] | None:
    """LayerSync's term by itself: its milliseconds and its share of the steps without it; None if it did not run."""
    if "alignment" not in taken:
        return None
    alone = [turn["alignment"] for turn in taken["alignment"]]
    steps = {name: [turn["step"] for turn in taken[name]] for name in ("eager", "compiled") if name in taken}
    share = {name: measure.spread(measure.pair_ratios(alone, seconds)) for name, seconds in steps.items()}
    return {"ms": measure.spread(alone, 1000), "share_of_step": share}


def aims(setting: Setting, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What we want of the step, what was measured, and whether that is it; only aims that this run can judge.

    `limit` is the ratio of a step that would be matrix products at their best rate and nothing else.
    """
    if setting.size == "tiny":
        return []
    found = []
    alignment = results["alignment"]
    if setting.size in PUBLISHED and alignment is not None:
        for name, share in alignment["share_of_step"].items():
            text = f"LayerSync by itself is at most {ALIGNMENT_AIM:.0%} of the {name} step"
            found.append({"aim": text, "measured": share["median"], "met": share["median"] <= ALIGNMENT_AIM})
    ratios = {name: results["ratios"].get(f"baseline / {name}") for name in ("eager", "compiled")}
    ratios = {name: ratio["median"] for name, ratio in ratios.items() if ratio is not None}
    if ratios and torch.device(setting.device).type == "cpu":
        best = max(ratios, key=ratios.get)
        text = f"our faster step ({best}) is at least {SPEED_AIM} times as fast as the baseline on a CPU"
        limit = 1 / results["variants"]["baseline"]["mfu"]
        found.append({"aim": text, "measured": ratios[best], "met": ratios[best] >= SPEED_AIM, "limit": limit})
    return found


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    setting, results = measured["settings"], measured["results"]
    model = results["model"]
    lines = [
        measure.headline(measured),
        f"SiT {setting['size']}, {model['parameters'] / 1e6:.1f} M parameters, batch {setting['batch']}, "
        f"{setting['precision']}; {model['gflops_per_image_training']:.2f} GFLOP/image, matrix product "
        f"{results['matmul_peak_tflops_per_second']:.3f} TFLOP/s",
        "",
    ]
    libraries = [each["memory"]["before_mib"] for each in results["variants"].values() if each["memory"]]
    if libraries and measured["hardware"]["device"] == "cpu":
        lines[-1:] = [f"peak memory is the resident set, with {libraries[0] or 0:.0f} MiB of Python and libraries", ""]
    header = ["variant", "images/s", "ms/step (low-high)", "forward", "backward", "update", "MFU", "peak MiB"]
    lines.append(measure.table(header, [_row(name, each) for name, each in results["variants"].items()]))
    ratios = [[name, measure.spread_cell(ratio, 3)] for name, ratio in results["ratios"].items()]
    if ratios:
        lines += ["", measure.table(["time over time", "median (low-high)"], ratios)]
    if results["alignment"] is not None:
        lines += ["", f"LayerSync by itself: {measure.spread_cell(results['alignment']['ms'], 3)} ms"]
    for each in results["aims"]:
        limit = f" (matrix products alone would allow {each['limit']:.3g})" if "limit" in each else ""
        lines.append(f"{'met    ' if each['met'] else 'NOT met'}  {each['aim']}: {each['measured']:.4g}{limit}")
    return "\n".join(lines)


def _row(name: str, variant: Mapping[str, Any]) -> list[str]:
    parts = [f"{variant['ms'][part]['median']:.2f}" for part in OurStep.segments]
    peak = (variant["memory"] or {}).get("peak_mib")
    step, mfu = measure.spread_cell(variant["ms"]["step"]), f"{variant['mfu']:.1%}"
    return [name, f"{variant['images_per_second']:.2f}", step, *parts, mfu, "-" if peak is None else f"{peak:.0f}"]


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.make_parser("train_step", DESCRIPTION, EXAMPLES, rounds=7)
    add = parser.add_argument
    add("--size", choices=list(PRESETS), default="S/2", help=f"{SIZES_HELP} (default S/2)")
    add("--batch", type=measure.positive, default=8, help="images per step (default 8)")
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="what takes turns (default all)")
    add("--steps", type=measure.positive, help=f"steps in a turn (default: {TURN_SECONDS} s of them)")
    add("--warmup", type=measure.positive, default=2, help="steps before the first round (default 2)")
    add("--no-memory", action="store_true", help="skip peak memory, which starts a process per variant")
    return parser


def make_setting(options: argparse.Namespace) -> Setting:
    """The options as a setting, with the device that is meant; ValueError for one that is not here."""
    return Setting(
        size=options.size,
        batch=options.batch,
        device=str(measure.pick_device(options.device)),
        precision=options.precision,
        variants=tuple(dict.fromkeys(options.variants)),
        rounds=options.rounds,
        steps=options.steps,
        warmup=options.warmup,
        memory=not options.no_memory,
        seed=options.seed,
        threads=options.threads,
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = make_parser()
    options = parser.parse_args(argv)
    try:
        setting = make_setting(options)
    except ValueError as error:
        parser.error(str(error))
    measured = measure.record("train_step", argv, setting, run(setting))
    name = f"train_step-{setting.size.replace('/', '')}-b{setting.batch}-{setting.precision}"
    return measure.conclude(measured, name, options.out, report)


if __name__ == "__main__":
    main()

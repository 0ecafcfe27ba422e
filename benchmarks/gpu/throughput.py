"""How fast a device trains and samples: batch sizes swept, LayerSync on and off, and the yardsticks beside them.

Letters: B batch, N tokens, D width, H heads, K width of a head.
"""

from __future__ import annotations

import gc
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import measure, sampling
from benchmarks.models import Preset, Work, build_backbone, compiled, model_facts
from benchmarks.steps import AlignmentAlone, OurStep
from benchmarks.train_step import take_turn
from core.nets.layers import TRAINING_FACTOR
from core.processes.spread import Compile
from layersync.tokens import token_cosine

GROWTH = 1.03  # a larger batch that gives less than this ends a sweep
KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
KERNELS["memory efficient"] = SDPBackend.EFFICIENT_ATTENTION


@dataclass(frozen=True)
class Rig:
    """What every measurement shares: where and in which precision, the matrix product's FLOP/s there, the seconds that
    one turn should take, how often turns are taken; backend: another compiler than PyTorch's own."""

    device: torch.device
    precision: str
    peak: float
    turn_seconds: float
    rounds: int
    seed: int = 0
    backend: str = "inductor"

    def work(self, size: str, batch: int) -> Work:
        """The model of that size at that batch."""
        return Work(size=size, batch=batch, precision=self.precision, seed=self.seed)

    def step(self, work: Work, mode: Compile, *, aligned: bool) -> OurStep:
        """The trainer's step, not yet compiled."""
        return OurStep(work, self.device, mode=mode, aligned=aligned, backend=self.backend)


def release(device: torch.device) -> None:
    """Give back what nobody holds any more, compiled code and what it holds included."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def sweep(
    batches: Sequence[int],
    run: Callable[[int], dict[str, Any]],
    left: Callable[[], float],
    keep: Callable[[list[dict[str, Any]]], None],
) -> dict[str, Any]:
    """`run(batch)` for growing batches, each a row with `images_per_second`; why the sweep ended stands in `ended`.

    It ends when memory is exhausted, when a batch gives less than 3 % over the one before, or when the time that the
    last batch took would not fit twice into the `left()` seconds. `keep` gets the rows after each batch.
    """
    rows: list[dict[str, Any]] = []
    ended, took = "all batches were measured", 0.0
    for batch in batches:
        if left() < 2 * took:
            ended = f"batch {batch} was not tried: about {2 * took:.0f} s, {left():.0f} s are left"
            break
        started = time.monotonic()
        row, out_of_memory = {}, None
        try:
            row = run(batch)
        except torch.OutOfMemoryError as error:
            out_of_memory = str(error).partition("\n")[0] or "out of memory"
        took = time.monotonic() - started
        if out_of_memory is not None:  # outside `except`: the error holds the frames that hold the memory
            keep(rows)
            ended = f"batch {batch} does not fit: {out_of_memory}"
            break
        rows.append({"batch": batch, "seconds_for_this": round(took, 2), **row})
        keep(rows)
        if len(rows) > 1 and row["images_per_second"] < GROWTH * rows[-2]["images_per_second"]:
            ended = f"batch {batch} gives less than {GROWTH - 1:.0%} over batch {rows[-2]['batch']}"
            break
    return {"rows": rows, "ended": ended}


def best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row with the most images/s; None where nothing was measured."""
    return max(rows, key=lambda row: row["images_per_second"], default=None)


# Training


def train_row(rig: Rig, size: str, mode: Compile, batch: int) -> dict[str, Any]:
    """Our step with LayerSync: images/s, milliseconds, MFU and peak memory, medians over turns."""
    release(rig.device)
    work = rig.work(size, batch)
    step = rig.step(work, mode, aligned=True)
    started = time.monotonic()
    step(nothing)
    synchronize(rig.device)
    first = time.monotonic() - started
    step(nothing)
    turns = take_turns({"step": step}, rig)["step"]
    segments = {part: measure.spread([turn[part] for turn in turns], 1000) for part in turns[0] if part != "peak_mib"}
    rate = 1000 * batch / segments["step"]["median"]
    flops = rate * TRAINING_FACTOR * model_facts(work.preset).forward_flops
    return {
        "mode": mode,
        "images_per_second": rate,
        "ms": segments,
        "tflops_per_second": flops / 1e12,
        "mfu": flops / rig.peak,
        "peak_mib": max_or_none([turn["peak_mib"] for turn in turns]),
        "first_step_seconds": first,
    }


def take_turns(steps: Mapping[str, Any], rig: Rig) -> dict[str, list[dict[str, Any]]]:
    """Turns of warmed-up steps, one after the other in each round, each with its seconds per step and peak memory."""
    clock = measure.Clock(rig.device)
    slowest = max(take_turn(step, clock, 1).get("step", 0.0) for step in steps.values())
    count = max(1, math.ceil(rig.turn_seconds / slowest))

    def turn(step: Any) -> dict[str, Any]:
        measure.reset_peak_memory(rig.device)
        taken = take_turn(step, clock, count)
        return {**taken, "peak_mib": measure.peak_memory_mib(rig.device)}

    return measure.interleave({name: partial(turn, step) for name, step in steps.items()}, rig.rounds)


def overhead(rig: Rig, size: str, mode: Compile, batch: int) -> dict[str, Any]:
    """What LayerSync costs: a step with it over one without, in turns in one process, and its term by itself.

    Memory is the difference of the peaks of the two kinds of turns; both models are there in both.
    """
    release(rig.device)
    work = rig.work(size, batch)
    steps: dict[str, Any] = {"with": rig.step(work, mode, aligned=True), "without": rig.step(work, mode, aligned=False)}
    steps["term"] = AlignmentAlone(work.preset.alignment, *steps["with"].pair(), steps["with"].options)
    for step in steps.values():
        step(nothing)
        step(nothing)
    turns = take_turns(steps, rig)
    with_it, without = ([turn["step"] for turn in turns[name]] for name in ("with", "without"))
    term = [turn["alignment"] for turn in turns["term"]]
    peaks = {name: max_or_none([turn["peak_mib"] for turn in turns[name]]) for name in ("with", "without")}
    known = None not in peaks.values()
    return {
        "batch": batch,
        "mode": mode,
        "ms_with": measure.spread(with_it, 1000),
        "ms_without": measure.spread(without, 1000),
        "step_over_step": measure.spread(measure.pair_ratios(with_it, without)),
        "term_ms": measure.spread(term, 1000),
        "term_share": measure.spread(measure.pair_ratios(term, without)),
        "extra_mib": peaks["with"] - peaks["without"] if known else None,
    }


def largest_that_fits(batch: int, run: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """`run` at that batch or, where memory is exhausted, at half of it, and so on; the result says what did not fit."""
    too_large: list[int] = []
    while batch >= 1:
        try:
            return {**run(batch), "did_not_fit": too_large}
        except torch.OutOfMemoryError:
            too_large.append(batch)
        batch //= 2
    return {"did_not_fit": too_large}


# Sampling


def sampling_setting(rig: Rig, size: str, steps: int) -> sampling.Setting:
    """Heun's rule with guidance at every step."""
    return sampling.Setting(
        size=size,
        batches=(),
        solvers=("heun",),
        modes=(),
        steps=steps,
        guidance=1.5,
        interval=(0.0, 1.0),
        device=str(rig.device),
        precision=rig.precision,
        rounds=rig.rounds,
        seed=rig.seed,
        threads=None,
    )


def sampling_row(rig: Rig, size: str, mode: Compile, steps: int, batch: int) -> dict[str, Any]:
    """Latents made by the core's sampler: images/s, milliseconds of an evaluation, MFU; no decoding.

    As many turns as fit into the rig's turns of training, at least one.
    """
    release(rig.device)
    setting, clock = sampling_setting(rig, size, steps), measure.Clock(rig.device)
    preset = setting_preset(rig, size)
    model = build_backbone(preset, rig.seed, rig.device).eval()
    network = compiled(model, mode, rig.backend)
    case = sampling.Case("heun", sampling.GUIDED, mode)
    measure.reset_peak_memory(rig.device)
    sampling.sample(replace(setting, steps=2), case, batch, network, clock)
    turns = [sampling.sample(setting, case, batch, network, clock)]
    count = math.floor(rig.rounds * rig.turn_seconds / turns[0].seconds)
    turns += [sampling.sample(setting, case, batch, network, clock) for _ in range(min(count, rig.rounds) - 1)]
    row = sampling.describe(case, batch, turns, model_facts(preset).forward_flops, rig.peak)
    return {**row, "precision": rig.precision, "turns": len(turns), "peak_mib": measure.peak_memory_mib(rig.device)}


def setting_preset(rig: Rig, size: str) -> Preset:
    """The preset of that size."""
    return rig.work(size, 1).preset


# Yardsticks and a look inside


@torch.no_grad()
def shape_rates(rig: Rig, size: str, batch: int) -> dict[str, Any]:
    """FLOP/s of the products that a block does at that batch, forward and backward, and of all of them together:
    what is possible with these shapes."""
    preset = setting_preset(rig, size)
    tokens, width = batch * model_facts(preset).tokens, preset.backbone.dimensions[1]
    hidden = int(width * preset.backbone.mlp_ratio)
    maps = {"qkv": (width, 3 * width), "proj": (width, width), "fc1": (width, hidden), "fc2": (hidden, width)}
    dtype, found, flops, seconds = measure.DTYPES[rig.precision], {}, 0.0, 0.0
    for name, (inner, outer) in maps.items():
        x, y = (torch.randn(tokens, each, device=rig.device).to(dtype) for each in (inner, outer))
        weight = torch.randn(outer, inner, device=rig.device).to(dtype)
        products = {"forward": (x, weight.T), "input gradient": (y, weight), "weight gradient": (y.T, x)}
        for part, pair in products.items():
            taken = seconds_of(partial(torch.mm, *pair), rig.device)
            found[f"{name} {part}"] = 2e-12 * tokens * inner * outer / taken
            flops, seconds = flops + 2 * tokens * inner * outer, seconds + taken
    return {"batch": batch, "tflops_per_second": found, "all_tflops_per_second": flops / seconds / 1e12}


def attention_rates(rig: Rig, size: str, batch: int) -> dict[str, Any]:
    """Milliseconds and TFLOP/s of attention by kernel, on q, k, v (B, H, N, K) laid out as in the model, forward alone
    and forward with backward; a kernel that refuses says why."""
    preset = setting_preset(rig, size)
    _, width, heads = preset.backbone.dimensions
    tokens, dtype = model_facts(preset).tokens, measure.DTYPES[rig.precision]
    qkv = torch.randn(batch, tokens, 3, heads, width // heads, device=rig.device).to(dtype).requires_grad_()
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    upstream = torch.randn(batch, tokens, heads, width // heads, device=rig.device).to(dtype).transpose(1, 2)

    def forward() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def measured() -> dict[str, float]:
        once = seconds_of(forward, rig.device)
        both = seconds_of(lambda: torch.autograd.grad(forward(), (q, k, v), upstream), rig.device)
        rate = 4e-12 * batch * tokens**2 * width
        ms = {"ms_forward": 1000 * once, "ms_both": 1000 * both}
        return ms | {"tflops_forward": rate / once, "tflops_both": TRAINING_FACTOR * rate / both}

    found: dict[str, Any] = {"PyTorch's choice": measured()}
    for name, kernel in KERNELS.items():
        try:
            with sdpa_kernel(kernel):
                found[name] = measured()
        except RuntimeError as error:
            found[name] = {"refused": str(error)[:200]}
    return found


def cosine_times(rig: Rig, size: str, batch: int) -> dict[str, float]:
    """Milliseconds of LayerSync's cosine, forward and backward, on fp32 tokens (B, N, D): as it is, and compiled."""
    preset = setting_preset(rig, size)
    shape = (batch, model_facts(preset).tokens, preset.backbone.dimensions[1])
    weak, strong = torch.randn(shape, device=rig.device, requires_grad=True), torch.randn(shape, device=rig.device)
    ways = {"eager": token_cosine, "compiled": torch.compile(token_cosine, backend=rig.backend)}

    def both(cosine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        torch.autograd.grad(cosine(weak, strong).mean(), weak)

    return {f"ms_{name}": 1000 * seconds_of(partial(both, way), rig.device) for name, way in ways.items()}


def seconds_of(run: Callable[[], Any], device: torch.device, times: int = 10) -> float:
    """Median seconds of one of `times` calls, queued behind each other, over five tries after one."""
    clock, taken = measure.Clock(device), []
    for _ in range(6):
        clock.start()
        for _ in range(times):
            run()
        clock.mark()
        taken.append(clock.intervals()[0] / times)
    return measure.spread(taken[1:])["median"]


def kernels(rig: Rig, size: str, mode: Compile, batch: int, top: int = 20) -> dict[str, Any]:
    """Which kernels a step with LayerSync spends its time in, the longest first; the share of the time from the first
    to the last in which the device was busy: the rest it waited for the host; and how often a step waits for it."""
    release(rig.device)
    step, steps = rig.step(rig.work(size, batch), mode, aligned=True), 4
    for _ in range(2):
        step(nothing)
    waits = host_waits(step, rig.device)
    synchronize(rig.device)
    activity, on_gpu = torch.profiler.ProfilerActivity, rig.device.type == "cuda"
    # Of a GPU its own events alone: noting those of the host would slow the host down.
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU], acc_events=True) as profile:
        for _ in range(steps):
            step(nothing)
        synchronize(rig.device)
    kind, field = ("CUDA", "self_device_time_total") if on_gpu else ("CPU", "self_cpu_time_total")
    ranges = [each.time_range for each in profile.events() if each.device_type.name == kind]
    busy, span = busy_microseconds([(each.start, each.end) for each in ranges])
    listed = (each for each in profile.key_averages() if each.device_type.name == kind and not each.is_user_annotation)
    events = [each for each in listed if getattr(each, field) > 0]
    events.sort(key=lambda each: getattr(each, field), reverse=True)
    shown = [[each.key[:120], each.count / steps, getattr(each, field) / 1000 / steps] for each in events[:top]]
    per_step = {"busy_share": busy / span if span else 0.0, "ms_per_step": span / 1000 / steps, "host_waits": waits}
    return {"batch": batch, **per_step, "name_calls_ms": shown}


def busy_microseconds(intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of intervals (begin, end), which may overlap: the time that any covers, and that from the first to the last."""
    covered, reached = 0.0, -math.inf
    for begin, end in sorted(intervals):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered, reached - min(intervals)[0] if intervals else 0.0


def host_waits(step: Any, device: torch.device) -> int | None:
    """How often the host waits for the device in one step, by PyTorch's own watch; None where there is no GPU.

    The number of the step before, which is there, is not among them.
    """
    if device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            step(nothing)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in told)


def nothing() -> None:
    """A mark that nobody looks at."""


def synchronize(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def max_or_none(values: Sequence[float | None]) -> float | None:
    """The largest, None where one is not known."""
    return None if None in values else max(values)

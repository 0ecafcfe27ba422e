"""Shared by the benchmarks: clocks, ratios, peak memory, the facts of a machine, and the record that is written.

Times are seconds where they are taken and milliseconds where they are reported.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch

from core.precision import DTYPES
from core.storage.atomic import write_atomic
from core.storage.provenance import ROOT, git
from core.train.flops import matmul_peak

RESULTS = ROOT / "benchmarks" / "results"
MIB = 2**20
T = TypeVar("T")


# Clocks


class Clock:
    """Marks in time on one device: CUDA events, which do not make the device wait, or the processor's clock."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.device, self.marks = device, []

    def start(self, *, queue: bool = False) -> None:
        """Wait until the device is idle and set the first mark.

        queue: give a GPU 10 ms or so of other work first, so that what follows is queued by the time it runs; its time
        is then that of the kernels, as inside a step, and not of launching them.
        """
        self.marks = []
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
            if queue:
                torch.cuda._sleep(20_000_000)  # clock cycles
        self.mark()

    def mark(self) -> None:
        """Set a mark."""
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def intervals(self) -> list[float]:
        """Seconds between one mark and the next."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        if not self.on_gpu:
            return [after - before for before, after in pairs]
        torch.cuda.synchronize(self.device)
        return [before.elapsed_time(after) / 1000 for before, after in pairs]


def interleave(runs: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each run returned in each round, A B C A B C ...: a slow minute of the machine hits all of them alike."""
    taken: dict[str, list[T]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(run())
    return taken


def spread(values: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Median, lowest and highest of `values`, each times `scale`."""
    return {
        "median": scale * statistics.median(values),
        "low": scale * min(values),
        "high": scale * max(values),
    }


def pair_ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """above / below, round by round: numbers that were taken right after each other."""
    return [a / b for a, b in zip(above, below, strict=True)]


# Memory


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak so far. Linux does it for the resident set; where it does not, the peak is the process's own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib(device: torch.device) -> float | None:
    """Peak of the memory allocated on a GPU, or of this process's resident set; None where neither can be known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    peaks = [line for line in lines if line.startswith("VmHWM")]  # in kB
    return int(peaks[0].split()[1]) / 1024 if peaks else None


# The machine and the repository


def pick_device(name: str) -> torch.device:
    """The device that --device names, made the current one; ValueError when it is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device is {name!r}; allowed: auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device is {name}, but PyTorch sees no CUDA device here")
        torch.cuda.init()  # its memory statistics can be reset from here on
        torch.cuda.set_device(device.index or 0)
    return device


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, threads and, for a run on one, the GPU. Never the machine's name."""
    facts: dict[str, Any] = {
        "device": device.type,
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        facts |= {"gpu": gpu.name, "gpu_memory_mib": gpu.total_memory // MIB, "cuda": torch.version.cuda}
    return facts


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def revision() -> dict[str, Any]:
    """The commit that is measured, and whether files differ from it (results do not count); nulls without git."""
    commit = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


# Its limits

LIMIT_BYTES = 2**28
LIMIT_UNITS = {
    "copy": "GB/s copied within memory",
    "hash": "GB/s through SHA-256",
    "disk": "GB/s to the disk, synced",
    "float32": "GFLOP/s of products in float32",
    "float64": "GFLOP/s of products in float64",
}


def limit_turns(names: Sequence[str], folder: Path | None = None) -> dict[str, Callable[[], float]]:
    """What the machine can do at best, by keys of `LIMIT_UNITS`: functions that measure it once, in those units.

    folder: on the disk. On the CPU, with the threads that PyTorch has; SHA-256 and the disk with one.
    """
    source = torch.randint(0, 256, (LIMIT_BYTES,), dtype=torch.uint8)
    target = source.clone()

    def written() -> None:
        file = folder / "limit"
        with file.open("wb", buffering=0) as stream:
            stream.write(memoryview(source.numpy()))
            os.fsync(stream.fileno())
        file.unlink()

    moved = {
        "copy": lambda: target.copy_(source),
        "hash": lambda: hashlib.sha256(source.numpy()),
        "disk": written,
    }
    rates = {name: (lambda move=move: LIMIT_BYTES / seconds(move) / 1e9) for name, move in moved.items()}
    cpu = torch.device("cpu")
    rates |= {each: (lambda each=each: matmul_peak(cpu, getattr(torch, each)) / 1e9) for each in ("float32", "float64")}
    return {name: rates[name] for name in names}


def limits(names: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """The spread of each of these limits over some rounds."""
    return {name: spread(rates) for name, rates in interleave(limit_turns(names), rounds).items()}


def seconds(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def limits_line(taken: Mapping[str, Mapping[str, float]]) -> str:
    """The limits as a report says them; taken: the spread of each."""
    return "limits: " + ", ".join(f"{spread_cell(each, 1)} {LIMIT_UNITS[name]}" for name, each in taken.items())


# The record


def versions(device: torch.device) -> dict[str, Any]:
    """Versions of what computes, null for what is not here."""
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = None
    found = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton}
    if device.type == "cuda":
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": _driver()}
    return found


def _driver() -> str | None:
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def record(benchmark: str, argv: Sequence[str], setting: Any, results: Any) -> dict[str, Any]:
    """Everything that a number needs to be believed: what ran, on what, from which commit, and what came out.

    setting: a dataclass with at least a `device`.
    """
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *without_out(argv)]),
        "git": revision(),
        "torch": torch.__version__,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "hardware": hardware(torch.device(setting.device)),
        "settings": asdict(setting),
        "results": results,
    }


def without_out(argv: Sequence[str]) -> list[str]:
    """The command line without --out: a path belongs to a machine, not to a measurement."""
    kept, skip = [], False
    for word in argv:
        if not skip and word != "--out" and not word.startswith("--out="):
            kept.append(word)
        skip = word == "--out"
    return kept


def write(measured: Mapping[str, Any], name: str, out: str | None) -> Path:
    """Write the record to `out`, else to benchmarks/results/<date>-<name>-<device>.json; returns the path to show."""
    day, device = measured["date"][:10], measured["hardware"]["device"]
    path = Path(out) if out else RESULTS / f"{day}-{name}-{device}.json"
    write_atomic(path, json.dumps(measured, indent=1) + "\n")
    return shown(path)


def conclude(
    measured: dict[str, Any], name: str, out: str | None, report: Callable[[Mapping[str, Any]], str]
) -> dict[str, Any]:
    """Write the record and print its report, the last thing that a benchmark does; returns the record."""
    path = write(measured, name, out)
    print(f"\n{report(measured)}\n\nwritten to {path}")
    return measured


def shown(path: Path) -> Path:
    """The path to print: relative to the repository where it lies in it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def headline(measured: Mapping[str, Any]) -> str:
    """One line that says what was measured where."""
    facts, git = measured["hardware"], measured["git"]
    place = facts.get("gpu") or f"{facts['cpu']}, {facts['threads']} threads"
    commit = (git["commit"] or "no commit")[:9] + ("+changes" if git["dirty"] else "")
    return f"{measured['benchmark']} on {place}; torch {measured['torch']}, {commit}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text, the first column to the left, numbers to the right."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for first, *others in cells:
        padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]))
    return "\n".join(lines)


def spread_cell(value: Mapping[str, float], digits: int = 2) -> str:
    """A spread as `median (low-high)`."""
    return f"{value['median']:.{digits}f} ({value['low']:.{digits}f}-{value['high']:.{digits}f})"


# Command lines


def plain_parser(benchmark: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser without options yet: paragraphs stay as written, and no option is guessed from its beginning."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{benchmark}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def make_parser(benchmark: str, description: str, examples: str, *, rounds: int) -> argparse.ArgumentParser:
    """A parser with --device, --precision, --rounds, --threads, --seed and --out."""
    parser = plain_parser(benchmark, description, examples)
    add = parser.add_argument
    add("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda or cuda:N")
    add("--precision", choices=list(DTYPES), default="fp32", help="of the backbone, under autocast; default fp32")
    add("--rounds", type=positive, default=rounds, help=f"times that every variant has its turn (default {rounds})")
    add("--threads", type=positive, help="CPU threads (default: PyTorch's own choice)")
    add("--seed", type=int, default=0, help="of weights, latents and noise (default 0)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-<name>-<device>.json")
    return parser


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number

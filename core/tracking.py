"""What a run tells: metrics.jsonl, speed.jsonl, TensorBoard events, a loss curve, one progress bar.

metrics.jsonl holds what the mathematics determines, one line for each logged step, so that two equal runs have equal
files; what the machine determines (speed) is in speed.jsonl.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from tqdm import tqdm

METRICS, SPEED = "metrics.jsonl", "speed.jsonl"


class JsonLines:
    """An append-only file of one JSON object a line, each with its `step`."""

    def __init__(self, path: Path, resume_step: int):
        """Lines of steps after `resume_step`, and a line cut short, are dropped: those steps will be made again."""
        self.path = path
        kept = [line for line in read_lines(path) if line["step"] <= resume_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(path)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line and hand it to the system."""
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSON-lines file; a last line cut short by a crash is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break  # only the last line can be cut short: lines are appended whole
    return lines


class Tracker:
    """All records of one run, from optimizer step `start` on."""

    def __init__(self, folder: Path, start: int):
        self.folder = folder
        self.metrics, self.speed = JsonLines(folder / METRICS, start), JsonLines(folder / SPEED, start)
        self.events = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def log(self, step: int, metrics: dict[str, float], speed: dict[str, float]) -> None:
        """Record one step everywhere."""
        self.metrics.write({"step": step, **metrics})
        self.speed.write({"step": step, **speed})
        if self.events is not None:
            for name, value in {**metrics, **speed}.items():
                self.events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the events and draw the loss curve."""
        if self.events is not None:
            self.events.close()
        draw_curves(self.folder / METRICS, self.folder / "loss_curve.png")


def draw_curves(metrics: Path, target: Path) -> None:
    """Flow loss, and below it the similarity of every pair, over optimizer steps."""
    from matplotlib.figure import Figure

    lines = read_lines(metrics)
    if not lines:
        return
    pairs = [name for name in lines[0] if name.startswith("similarity/")]
    figure = Figure(figsize=(7, 5 if pairs else 3), layout="constrained")
    axes = figure.subplots(2 if pairs else 1, 1, sharex=True, squeeze=False)[:, 0]
    steps = [line["step"] for line in lines]
    axes[0].plot(steps, [line["flow_loss"] for line in lines])
    axes[0].set_ylabel("flow loss")
    for pair in pairs:
        axes[1].plot(steps, [line[pair] for line in lines], label=pair.removeprefix("similarity/"))
        axes[1].set_ylabel("cosine of the pair")
        axes[1].legend()
    axes[-1].set_xlabel("optimizer step")
    figure.savefig(target, dpi=120)


class Progress:
    """One bar: step, flow loss, similarity of each pair, samples a second (over the last 50 steps), time left."""

    def __init__(self, total: int, start: int, name: str, unit: str):
        self.unit = unit
        self.times: deque[tuple[float, int]] = deque([(time.perf_counter(), 0)], maxlen=50)
        self.samples = 0
        layout = "{desc} {n_fmt}/{total_fmt} |{bar:20}| {remaining} left{postfix}"
        quiet = 0.2 if sys.stderr.isatty() else 20.0  # seconds between redraws; a log file should not fill up
        self.bar = tqdm(total=total, initial=start, desc=name, bar_format=layout, mininterval=quiet, dynamic_ncols=True)

    def advance(self, samples: int) -> float:
        """Count a step of `samples`; returns the moving samples per second."""
        self.samples += samples
        self.times.append((time.perf_counter(), self.samples))
        (begin, first), (end, last) = self.times[0], self.times[-1]
        rate = (last - first) / max(end - begin, 1e-9)
        self.bar.update(1)
        return rate

    def show(self, metrics: dict[str, float], rate: float) -> None:
        """Put the newest numbers beside the bar."""
        pairs = [f"{name.removeprefix('similarity/')} {v:.3f}" for name, v in metrics.items() if "similarity/" in name]
        similarity = f"similarity {' '.join(pairs)}, " if pairs else ""
        text = f"flow {metrics['flow_loss']:.4f}, {similarity}{rate:.0f} {self.unit}/s"
        self.bar.set_postfix_str(text, refresh=False)

    def pause(self) -> None:
        """Leave time spent on previews and checkpoints out of the moving average."""
        self.times.clear()
        self.times.append((time.perf_counter(), self.samples))

    def close(self) -> None:
        """Leave the finished bar on the screen."""
        self.bar.close()

"""What a run tells: metrics.jsonl, speed.jsonl, TensorBoard events, Weights & Biases, a loss curve, one progress bar.

metrics.jsonl holds what the mathematics determines, one line for each logged step, so that two equal runs have equal
files; what the machine determines (speed) is in speed.jsonl. TensorBoard and W&B show both, and are extras.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from core.checkpoint import sync, write_atomic
from core.speed import Speedometer, in_words

METRICS, SPEED, EVALUATIONS = "metrics.jsonl", "speed.jsonl", "evaluations.jsonl"
WANDB_ID = "wandb_id.txt"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackingConfig:
    """Records besides the files: both need the extra 'log' (pip install 'layersync[log]').

    tensorboard: auto writes events where TensorBoard is installed, on insists, off does not. wandb_project: the W&B
    project that the run is logged to, null is none; wandb_entity: its team or user, null is the account's default.
    """

    tensorboard: Literal["auto", "on", "off"] = "auto"
    wandb_project: str | None = None
    wandb_entity: str | None = None

    def __post_init__(self) -> None:
        if self.wandb_project == "":
            raise ValueError("tracking.wandb_project is ''; it must be a project's name, or null for no W&B")
        if self.wandb_entity is not None and self.wandb_project is None:
            raise ValueError(f"tracking.wandb_entity is {self.wandb_entity!r}, but tracking.wandb_project is null")


class JsonLines:
    """An append-only file of one JSON object a line, each with its `step`.

    A process may be killed at any moment: a line cut short belongs to a step after the newest checkpoint, and the next
    session starts by rewriting the file without it.
    """

    def __init__(self, path: Path, resume_step: int):
        """Lines of steps after `resume_step`, and a line cut short, are dropped: those steps will be made again.

        The other lines keep their bytes, and the last one gets the line end that it may lack.
        """
        self.path = path
        kept = b"".join(text + b"\n" for text, line in _whole_lines(path) if line["step"] <= resume_step)
        temporary = path.with_name(f".{path.name}.tmp")  # one left over from a killed process is overwritten
        temporary.write_bytes(kept)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line and hand it to the system.

        Raises ValueError for a number that is not finite, OSError naming the file where it cannot be written.
        """
        for name, value in line.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"{self.path.name}, step {line['step']}: {name} is {value}; records hold finite numbers"
                )
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise OSError(f"{self.path} could not be written: {error.strerror}") from error

    def sync(self) -> None:
        """Return when every line is on the disk."""
        sync(self.path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file, [] where there is none; a line cut short by a crash is left out.

    A damaged line that is not the last (after a power cut, say) is left out too, with a warning in the log.
    """
    return [line for _, line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The text of each whole line, without its end, and what it says."""
    texts = path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() else []
    whole = []
    for number, text in enumerate(texts, start=1):
        line = _parse(text)
        if line is not None:
            whole.append((text, line))
        elif number < len(texts):
            log.warning("%s: line %d cannot be read and is left out: %r", path, number, text[:40])
    return whole


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:  # no JSON, or no UTF-8
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def _installed(name: str) -> bool:
    """Whether the package is there; a mere folder of its name (W&B makes one where it runs) is not."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def _require(name: str, key: str, value: str) -> None:
    if not _installed(name):
        raise ImportError(f"{key} is {value!r}, but {name} is not installed: pip install 'layersync[log]'", name=name)


class Tracker:
    """All records of one run, from optimizer step `start` on.

    `run_config` is what W&B shows as the run's config. Raises ImportError where an extra is asked for and is absent,
    OSError where W&B cannot begin.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        config: TrackingConfig = TrackingConfig(),
        run_config: Mapping[str, Any] | None = None,
    ):
        if config.tensorboard == "on":
            _require("tensorboard", "tracking.tensorboard", "on")
        if config.wandb_project is not None:
            _require("wandb", "tracking.wandb_project", config.wandb_project)
        self.folder = folder
        self.metrics, self.speed = JsonLines(folder / METRICS, start), JsonLines(folder / SPEED, start)
        self.wandb = WandbRun(folder, start, config, run_config or {}) if config.wandb_project is not None else None
        self.events = None
        if config.tensorboard != "off" and _installed("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def log(self, step: int, metrics: dict[str, float], speed: dict[str, float]) -> None:
        """Record one step everywhere. Raises ValueError for a number that is not finite."""
        self.metrics.write({"step": step, **metrics})
        self.speed.write({"step": step, **speed})
        if self.events is not None:
            for name, value in {**metrics, **speed}.items():
                self.events.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(step, {**metrics, **speed})

    def sync(self) -> None:
        """Return when the lines so far are on the disk. Before a checkpoint is final: its steps are not made again.

        May be called after `close`.
        """
        self.metrics.sync()
        self.speed.sync()
        if self.events is not None:
            self.events.flush()

    def close(self) -> None:
        """Flush the events, end the W&B run and draw the loss curve."""
        if self.events is not None:
            self.events.close()
        if self.wandb is not None:
            self.wandb.close()
        draw_curves(self.folder / METRICS, self.folder / "loss_curve.png")


class WandbRun:
    """The run at Weights & Biases, under an id that <run>/wandb_id.txt keeps. WANDB_MODE (offline, ...) is respected.

    W&B's step is the optimizer step, and only grows. A resumed run makes some steps again, and a crash cuts off what
    W&B had not stored; so a session first sends the lines of metrics.jsonl that W&B lacks, and never a step that it has
    (being functions of seed and step, the two are equal in all but speed). Online the server says what it has. Offline
    nobody does: each session's folder begins with all earlier lines, so the newest one alone holds the whole run, every
    step once, and is the one to give to `wandb sync`.
    """

    def __init__(self, folder: Path, start: int, config: TrackingConfig, run_config: Mapping[str, Any]):
        import wandb

        file = folder / WANDB_ID
        known = file.read_text().strip() if file.exists() else ""
        try:
            self.run = wandb.init(
                project=config.wandb_project,
                entity=config.wandb_entity,
                dir=folder,
                id=known or uuid.uuid4().hex[:12],
                name=folder.name,
                config=dict(run_config),
                resume="allow",
                settings=wandb.Settings(console="off"),  # redraws of the progress bar are no log
            )
        except (wandb.Error, OSError) as error:
            raise OSError(f"W&B could not begin (tracking.wandb_project={config.wandb_project}): {error}") from error
        self.failures = (wandb.Error, OSError)
        write_atomic(file, self.run.id + "\n")
        self.first = self.run.starting_step  # the first step that W&B lacks; 0 offline
        speed = {line["step"]: line for line in read_lines(folder / SPEED)}
        for line in read_lines(folder / METRICS):
            both = line | speed.get(line["step"], {})
            self.log(both.pop("step"), both)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send one step in the background; training outlives the end of W&B's own process, with a warning."""
        if self.run is None or step < self.first:
            return
        try:
            self.run.log(values, step=step)
        except self.failures as error:
            log.warning("W&B has stopped at step %d (%s); metrics.jsonl goes on", step, error)
            self.run = None

    def close(self) -> None:
        """End the run; waits for its uploads."""
        if self.run is None:
            return
        try:
            self.run.finish()
        except self.failures as error:
            log.warning("W&B did not end well (%s); metrics.jsonl is complete", error)
        self.run = None


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


class _Bar(tqdm):
    """tqdm with {left} for its layout: the time left in words, which `seconds_left(format_dict)` knows."""

    def __init__(self, *args: Any, seconds_left: Callable[[dict[str, Any]], float | None], **kwargs: Any):
        self.seconds_left = seconds_left
        super().__init__(*args, **kwargs)

    @property
    def format_dict(self) -> dict[str, Any]:
        numbers = super().format_dict
        return {**numbers, "left": in_words(self.seconds_left(numbers))}


class Progress:
    """One bar: step, time left, flow loss, similarity of each pair, samples a second, a long wait for data.

    Rate and time left are of this session's last 50 steps. They come from `speed`, which the loop feeds before it calls
    `advance`; without one the bar measures from `advance` to `advance`. enabled=False shows nothing, for all but the
    first of several processes. A bar moved by `bar.update` alone, as in sampling, shows the session's average.
    """

    def __init__(
        self, total: int, start: int, name: str, unit: str, enabled: bool = True, speed: Speedometer | None = None
    ):
        self.unit, self.measures = unit, speed is None
        self.speed = Speedometer(unit, torch.device("cpu")) if speed is None else speed
        self.mark = time.perf_counter()
        terminal = sys.stderr.isatty()
        self.bar = _Bar(
            seconds_left=self._seconds_left,
            total=total,
            initial=start,
            desc=name,
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar:20}| {left} left{postfix}",
            mininterval=0.2 if terminal else 20.0,  # seconds between redraws; a log file should not fill up
            maxinterval=10.0 if terminal else 60.0,
            dynamic_ncols=True,
            disable=not enabled,
        )

    def _seconds_left(self, numbers: dict[str, Any]) -> float | None:
        left, done = max(0, numbers["total"] - numbers["n"]), numbers["n"] - numbers["initial"]
        if self.speed.count == 0 and done > 0:  # moved by bar.update
            return left * numbers["elapsed"] / done
        return self.speed.seconds_left(left)

    def advance(self, samples: int) -> float:
        """Count a step of `samples`; returns the moving samples per second."""
        if self.measures:
            now = time.perf_counter()
            self.speed.stepped(samples, now - self.mark)
            self.mark = now
        self.bar.update(1)
        return self.speed.rate

    def show(self, metrics: dict[str, float], rate: float | None = None) -> None:
        """Put the newest numbers beside the bar; `rate` in samples a second, None is the moving one."""
        rate = self.speed.rate if rate is None else rate
        pairs = [f"{name.removeprefix('similarity/')} {v:.3f}" for name, v in metrics.items() if "similarity/" in name]
        texts = [f"flow {metrics['flow_loss']:.4f}"]
        texts += [f"similarity {' '.join(pairs)}"] if pairs else []
        texts += [f"{rate:.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s"]
        texts += [f"data wait {self.speed.data_wait:.0%}".replace("%", " %")] if self.speed.data_wait > 0.1 else []
        self.bar.set_postfix_str(", ".join(texts), refresh=False)

    def pause(self) -> None:
        """Leave time spent on previews and checkpoints out of the moving average."""
        self.speed.pause()
        self.mark = time.perf_counter()

    def close(self) -> None:
        """Leave the finished bar on the screen."""
        self.bar.close()

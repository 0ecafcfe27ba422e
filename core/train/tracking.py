"""What a run tells: metrics.jsonl, speed.jsonl, TensorBoard events, Weights & Biases, a loss curve.

metrics.jsonl holds what the mathematics determines, one line for each logged step, so that two equal runs have equal
files; what the machine determines (speed) is in speed.jsonl. TensorBoard and W&B show both, and are extras.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.storage.atomic import write_atomic, writing
from core.storage.lines import JsonLines, curve, read_lines

METRICS, SPEED, EVALUATIONS = "metrics.jsonl", "speed.jsonl", "evaluations.jsonl"
SESSIONS = "sessions.jsonl"
WANDB_ID = "wandb_id.txt"
BY_TIME, BY_TIME_EMA = "loss_by_time", "loss_by_time_ema"  # of the weights, and of their average: names before a /
MOST_BINS = 50
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossByTimeConfig:
    """The flow loss in equal bins of t, of fixed rows, noise and times (`core.train.loss_by_time`).

    bins     how many, from noise (t = 0) to data (t = 1)
    every    optimizer steps between two measurements; the last step is always measured
    samples  rows of data; each is in every bin once
    """

    bins: int = 5
    every: int = 1000
    samples: int = 64

    def __post_init__(self) -> None:
        for name, most in (("bins", MOST_BINS), ("every", None), ("samples", None)):
            value = getattr(self, name)
            if value < 1 or (most is not None and value > most):
                limit = "" if most is None else f", and {most} at most"
                raise ValueError(f"tracking.loss_by_time.{name} is {value}; it must be at least 1{limit}")


@dataclass(frozen=True)
class TrackingConfig:
    """Records besides the files: both need the extra 'log' (pip install 'layersync[log]').

    tensorboard: auto writes events where TensorBoard is installed, on insists, off does not. wandb_project: the W&B
    project that the run is logged to, null is none; wandb_entity: its team or user, null is the account's default.
    loss_by_time: a measurement that is recorded with the losses, null is none.
    """

    tensorboard: Literal["auto", "on", "off"] = "auto"
    wandb_project: str | None = None
    wandb_entity: str | None = None
    loss_by_time: LossByTimeConfig | None = None

    def __post_init__(self) -> None:
        if self.wandb_project == "":
            raise ValueError("tracking.wandb_project is ''; it must be a project's name, or null for no W&B")
        if self.wandb_entity is not None and self.wandb_project is None:
            raise ValueError(f"tracking.wandb_entity is {self.wandb_entity!r}, but tracking.wandb_project is null")


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
        # W&B, which may refuse, comes before the records are cut at `start`.
        self.wandb = WandbRun(folder, start, config, run_config or {}) if config.wandb_project is not None else None
        self.metrics, self.speed = JsonLines(folder / METRICS, start), JsonLines(folder / SPEED, start)
        self.events = None
        if config.tensorboard != "off" and _installed("tensorboard"):
            self.events = Events(folder / "tensorboard", start)

    def log(self, step: int, metrics: dict[str, float], speed: dict[str, float]) -> None:
        """Record one step everywhere. Raises ValueError for a number that is not finite."""
        self.metrics.write({"step": step, **metrics})
        self.speed.write({"step": step, **speed})
        if self.events is not None:
            self.events.log(step, {**metrics, **speed})
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

    def close(self, draw: bool = True) -> None:
        """Flush the events, end the W&B run and draw the loss curve."""
        if self.events is not None:
            self.events.close()
        if self.wandb is not None:
            self.wandb.close()
        picture = self.folder / "loss_curve.png"
        try:
            if draw:
                draw_curves(self.folder / METRICS, picture)
        except OSError as error:  # what is drawn stands in metrics.jsonl, and what ended the run is to be heard
            log.warning("%s could not be written: %s", picture, error.strerror or error)


class Events:
    """TensorBoard's events of the steps after `start`, in a folder of their own.

    They are written by a thread, which would print what it fails with (a full disk, say) and end; here the next call
    raises it, as OSError naming the folder.
    """

    def __init__(self, folder: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.hook = folder, threading.excepthook
        threading.excepthook = self._told_later
        _leave_the_second_of_the_last_file(folder)
        with writing(self.folder):
            self.writer = SummaryWriter(str(folder), purge_step=start + 1)

    def _told_later(self, args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__name__ != "_AsyncWriterThread":
            self.hook(args)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record the numbers of a step."""
        with writing(self.folder):
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Return when they are on the disk; after `close` they are."""
        with writing(self.folder):
            self.writer.flush()

    def close(self) -> None:
        """Flush and end; what cannot be written any more is told."""
        try:
            self.writer.close()
        except OSError as error:
            log.warning("%s could not be written: %s", self.folder, error.strerror or error)
        threading.excepthook = self.hook


def _leave_the_second_of_the_last_file(folder: Path) -> None:
    """Sleep until a new file of events is the last one by name, as TensorBoard reads them; a second at most.

    A name begins with the second that the file was made in, and goes on with numbers that do not sort: 10 before 9.
    """
    while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(1 - time.time() % 1)


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
        for line in (each for each in read_lines(folder / METRICS) if each["step"] <= start):
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
    """Flow loss, and below it the similarity of every pair and the loss by noise level, over optimizer steps."""
    from matplotlib.figure import Figure

    lines = read_lines(metrics)
    if not lines:
        return
    names = list(dict.fromkeys(key for line in lines for key in line))
    panels = {"cosine of the pair": "similarity/", "flow loss by t": f"{BY_TIME}/"}
    shown = {label: [name for name in names if name.startswith(prefix)] for label, prefix in panels.items()}
    shown = {label: curves for label, curves in shown.items() if curves}
    figure = Figure(figsize=(7, 3 + 2 * len(shown)), layout="constrained")
    axes = figure.subplots(1 + len(shown), 1, sharex=True, squeeze=False)[:, 0]
    axes[0].plot(*curve(lines, "flow_loss"))
    axes[0].set_ylabel("flow loss")
    for axis, (label, curves) in zip(axes[1:], shown.items(), strict=True):
        for name in curves:
            axis.plot(*curve(lines, name), label=name.partition("/")[2])
        axis.set_ylabel(label)
        axis.legend()
    axes[-1].set_xlabel("optimizer step")
    figure.savefig(target, dpi=120)

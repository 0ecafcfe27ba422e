"""The progress bar of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from core.train.speed import Speedometer, in_words
from core.train.tracking import BY_TIME


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
    """One bar: step, time left, flow loss, similarity of each pair, the newest loss by noise level (from
    noise to data), samples a second, a long wait for data.

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
        self.by_time = ""  # the newest loss by noise level, which few steps measure
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
        levels = [f"{value:.3f}" for name, value in metrics.items() if name.startswith(f"{BY_TIME}/")]
        self.by_time = f"by t {' '.join(levels)}" if levels else self.by_time
        texts = [f"flow {metrics['flow_loss']:.4f}"]
        texts += [f"similarity {' '.join(pairs)}"] if pairs else []
        texts += [self.by_time] if self.by_time else []
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

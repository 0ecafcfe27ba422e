"""How fast a run is: moving rate, share of waiting for data, model FLOPs utilisation, peak memory, time left."""

from __future__ import annotations

import sys
from collections import deque

import torch


class Speedometer:
    """Speed over the last `window` optimizer steps of this session, from durations that the loop measures.

    unit               one sample of the domain, singular ("image")
    device             whose peak memory is reported; anything but CUDA reports the process's resident set
    flops_per_sample   floating-point operations of forward and backward, without what is recomputed
    peak_flops         operations a second of all processes' devices together, for the precision in use
    window             number of steps, at least 1

    The session's first step pays for compilation and for filling the loader, so it is forgotten after the second.
    Raises ValueError for a window below 1 and for operations that are not positive.
    """

    def __init__(
        self,
        unit: str,
        device: torch.device,
        flops_per_sample: float | None = None,
        peak_flops: float | None = None,
        window: int = 50,
    ):
        if window < 1:
            raise ValueError(f"the window of the speed is {window} steps; it must be at least 1")
        for name, value in (("flops_per_sample", flops_per_sample), ("peak_flops", peak_flops)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive, or None where it is not known")
        self.unit, self.device = unit, device
        self.flops_per_sample, self.peak_flops = flops_per_sample, peak_flops
        self.count = 0
        self._steps: deque[tuple[int, float, float]] = deque(maxlen=window)  # samples, seconds in the step, waiting
        self._waiting = 0.0

    def waited(self, seconds: float) -> None:
        """Seconds spent waiting for the data of the step that comes; several calls add up."""
        self._waiting += seconds

    def stepped(self, samples: int, seconds: float) -> None:
        """One step: its samples (of all processes) and its seconds without the wait."""
        if self.count == 1:
            self._steps.clear()
        self._steps.append((samples, seconds, self._waiting))
        self._waiting = 0.0
        self.count += 1

    def pause(self) -> None:
        """Forget a wait that a preview or a checkpoint fell into. What is not handed in does not count anyway."""
        self._waiting = 0.0

    @property
    def rate(self) -> float:
        """Samples a second, waits included; 0 before the first step."""
        samples = sum(step[0] for step in self._steps)
        return samples / max(self._seconds(), 1e-9)

    @property
    def data_wait(self) -> float:
        """Share of the window's time spent waiting for data, in [0, 1]."""
        return sum(step[2] for step in self._steps) / max(self._seconds(), 1e-9)

    def seconds_left(self, steps_left: int) -> float | None:
        """Time for `steps_left` steps at the moving speed; None until two steps are done."""
        if steps_left <= 0:
            return 0.0
        return steps_left * self._seconds() / len(self._steps) if self.count >= 2 else None

    def values(self) -> dict[str, float]:
        """What speed.jsonl records: <unit>s_per_second, mfu (where both numbers are known), data_wait, memory."""
        values = {f"{self.unit}s_per_second": self.rate}
        if self.flops_per_sample is not None and self.peak_flops is not None:
            values["mfu"] = self.rate * self.flops_per_sample / self.peak_flops
        return values | {"data_wait": self.data_wait, "peak_memory_mib": peak_memory_mib(self.device)}

    def _seconds(self) -> float:
        return sum(seconds + waiting for _, seconds, waiting in self._steps)


def peak_memory_mib(device: torch.device) -> float:
    """Most memory in MiB since the process began: allocated tensors on CUDA, elsewhere the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource  # Unix only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB on Linux


def in_words(seconds: float | None) -> str:
    """A duration as "45 s", "12 min" or "3 h 20 min", rounded; "?" where it is not known."""
    if seconds is None:
        return "?"
    if round(seconds) < 60:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

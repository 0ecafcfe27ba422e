"""What a method costs: parameters, FLOPs and seconds of a step, and all until a measure has a value k (EP@k)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.methods.numbers import Reached


@dataclass(frozen=True)
class Cost:
    """Means over the runs of a method; null where a run did not record it, and where the value is not reached.

    parameters        trained ones, heads among them
    flops_per_step    of all samples of a step, forward and backward, teachers and heads among them
    seconds_per_step  of training, without evaluations
    cpu_seconds_per_step  processor time of the main process in the same time: what other programs take is not in it
    steps             until the mean curve first has the value k
    epochs            the same in passes of the data, the field's EP@k
    at_most           it has it at the first evaluation, perhaps before
    seconds, cpu_seconds, flops   of these steps
    """

    parameters: float | None
    flops_per_step: float | None
    seconds_per_step: float | None
    cpu_seconds_per_step: float | None
    steps: float | None
    epochs: float | None
    at_most: bool
    seconds: float | None
    cpu_seconds: float | None
    flops: float | None


def cost_of(summaries: Sequence[Mapping[str, Any]], reached: Reached | None) -> Cost:
    """The cost of a method from the summaries of its runs, and the step at which it has the value."""
    steps = _mean(summaries, "steps")
    flops = _mean(summaries, "flops_per_step")
    seconds = _over(_mean(summaries, "train_seconds"), steps)
    cpu = _over(_mean(summaries, "train_cpu_seconds"), steps)
    epochs = _over(_mean(summaries, "epochs"), steps)
    taken = None if reached is None else reached.step

    def until(each: float | None) -> float | None:
        return None if each is None or taken is None else each * taken

    at_most = reached is not None and reached.at_most
    return Cost(
        parameters=_mean(summaries, "parameters"),
        flops_per_step=flops,
        seconds_per_step=seconds,
        cpu_seconds_per_step=cpu,
        steps=taken,
        epochs=until(epochs),
        at_most=at_most,
        seconds=until(seconds),
        cpu_seconds=until(cpu),
        flops=until(flops),
    )


def _over(total: float | None, steps: float) -> float | None:
    return None if total is None else total / steps


def _mean(summaries: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [each.get(name) for each in summaries]
    return None if None in values else float(np.mean(values))

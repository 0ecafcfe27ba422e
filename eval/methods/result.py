"""The result of a comparison as a JSON file: every value, and everything computed from them.

comparison_<metric>.json, where "_" stands for "/" in a metric's name
  metric, better, methods, seeds, steps   the first method is the baseline
  values    method -> S lists of E values
  mean      method -> for each evaluation {value, low, high}, over seeds
  gain      method -> for each evaluation {value, low, high} or null, in units of the baseline's mean
  speed_up  method -> the fields of `eval.methods.numbers.SpeedUp`
  costs     method -> `eval.methods.costs.Cost`: of a step, and until the mean curve has the value `target`
  changes   method -> keys of its config that are not the baseline's
  protocol, num_samples, made   how the samples were made and counted; code, PyTorch and device of the first run

Letters: S seeds, E evaluations.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.storage.atomic import write_atomic
from core.storage.json_files import read_json
from core.storage.lines import read_lines
from core.storage.run_folder import RunDirectory
from core.train.tracking import EVALUATIONS, SESSIONS
from eval.methods.costs import cost_of
from eval.methods.matched import Evaluations, MatchedRuns
from eval.methods.numbers import Better, first_reached, mean_over_seeds, relative_gain, speed_up
from eval.statistics.estimate import Estimate

SCHEMA_VERSION = 1
KIND = "comparison"
NEEDED = {"domain": str, "metric": str, "methods": list, "seeds": list, "steps": list, "values": dict, "mean": dict}


def protocol_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol by which a run's own evaluations make and measure their samples."""
    return {"weights": "ema", "sampler": config.get("sampler"), "evaluation": config.get("evaluation")}


def made_by(run: RunDirectory) -> dict[str, Any]:
    """Code, PyTorch, device and processes of a run's newest session; {} where it kept none."""
    lines = read_lines(run.path / SESSIONS)
    names = ("code", "torch", "device", "processes")
    return {name: lines[-1][name] for name in names if name in lines[-1]} if lines else {}


def samples_of(run: RunDirectory) -> int | None:
    """The number of samples that the run's last evaluation measured; None where it does not say."""
    lines = read_lines(run.path / EVALUATIONS)
    return lines[-1].get("num_samples") if lines else None


def make_comparison(
    runs: MatchedRuns,
    evaluations: Evaluations,
    changes: Mapping[str, dict[str, Any]],
    better: Better,
    replicates: int,
    threshold: float | None = None,
) -> dict[str, Any]:
    """The content of the file; threshold: the value until which costs are counted, None for the baseline's final."""
    baseline, *others = runs.methods
    first = runs.runs(baseline)[0]
    values, steps, record = evaluations.values, evaluations.steps, evaluations.record
    target = float(values[baseline].mean(0)[-1]) if threshold is None else threshold
    costs = {
        method: cost_of(
            [run.summary() for run in runs.runs(method)], first_reached(steps, each.mean(0), target, better)
        )
        for method, each in values.items()
    }
    seconds = {method: cost.seconds_per_step for method, cost in costs.items()}
    factors = {}
    for method in others:
        found = speed_up(steps, values[baseline], values[method], better, replicates)
        if found.factor is not None and seconds[baseline] and seconds[method]:
            found = dataclasses.replace(found, wall_factor=found.factor * seconds[baseline] / seconds[method])
        factors[method] = dataclasses.asdict(found)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "domain": runs.domain,
        "metric": evaluations.metric,
        "better": better,
        "methods": list(runs.methods),
        "seeds": list(runs.seeds),
        "steps": list(steps),
        "values": {method: each.tolist() for method, each in values.items()},
        "mean": {m: [as_numbers(mean_over_seeds(column)) for column in each.T] for m, each in values.items()},
        "gain": {method: _gains(values[baseline], values[method], better) for method in others},
        "speed_up": factors,
        "replicates": replicates,
        "seconds_per_step": seconds,
        "target": target,
        "stated": threshold is not None,
        "costs": {method: dataclasses.asdict(cost) for method, cost in costs.items()},
        "changes": dict(changes),
        "protocol": protocol_of(first.config()) if record is None else record.protocol,
        "num_samples": samples_of(first) if record is None else record.num_samples,
        "made": made_by(first),
    }


def _gains(baseline: np.ndarray, method: np.ndarray, better: Better) -> list[dict[str, Any] | None]:
    gains = [relative_gain(one, other, better) for one, other in zip(baseline.T, method.T, strict=True)]
    return [None if gain is None else as_numbers(gain) for gain in gains]


def as_numbers(estimate: Estimate) -> dict[str, float | None]:
    """An estimate as values of JSON: its value and the ends of its interval."""
    low, high = (None, None) if estimate.interval is None else (estimate.interval.low, estimate.interval.high)
    return {"value": estimate.value, "low": low, "high": high}


def write_comparison(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write <folder>/comparison_<metric>.json; its path. Raises ValueError for a number that is not finite."""
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"the comparison by {content['metric']} is not finite: {error}") from error
    return write_atomic(folder / f"comparison_{content['metric'].replace('/', '_')}.json", text + "\n")


def read_comparison(file: Path) -> dict[str, Any]:
    """The content of such a file; ValueError naming the file for another one."""
    try:
        content = read_json(file)
        kind, version = content["kind"], content["schema_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is no comparison, or is damaged: {error!r}") from error
    if kind != KIND or version != SCHEMA_VERSION:
        raise ValueError(f"{file} is {kind!r} of schema {version}; this version reads {KIND!r} of {SCHEMA_VERSION}")
    wrong = [name for name, needed in NEEDED.items() if not isinstance(content.get(name), needed)]
    if wrong:
        raise ValueError(f"{file} is damaged: {', '.join(wrong)} missing, or of another kind")
    return content

"""Runs that differ in their method only: where they are, whether they are matched, and what they measured.

A comparison's folder holds <domain>/<method>-seed<k>, whether `eval.compare` or `slurm/launch.py` made the runs.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.commands.entry import Entry
from core.schema import changed_keys, free_keys
from core.storage.lines import is_number, read_lines
from core.storage.run_folder import RunDirectory
from core.train.tracking import EVALUATIONS, METRICS
from eval.measure.record import FOLDER as RECORDS
from eval.measure.record import Record, differences, read_records

log = logging.getLogger(__name__)

RUN_NAME = re.compile(r"(?P<method>[A-Za-z0-9][\w.+-]*)-seed(?P<seed>\d+)")
# What a value of an evaluation means, though a run may go on with other values of it.
MEASURED = ("sampler", "evaluation")
# What decides order of data, noise, times and the length of a run: equal in matched runs.
MATCHED = (*MEASURED, "data", "tokenizer", "conditioning", "objective", "trainer.batch_size", "trainer.steps", "seed")
LOSS = "flow_loss"
COUNTS = ("step", "num_samples")  # of a line of evaluations.jsonl: no measurement
TOLERANCE = {"fp32": 1e-5}  # of first losses, relative; the same sums, perhaps in another order
LOW_PRECISION_TOLERANCE = 1e-3


def is_below(key: str, groups: Sequence[str]) -> bool:
    """Whether a dotted key is one of `groups` or below one."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def is_free(key: str, schema: type) -> bool:
    """Whether a key of a config says where and how fast a run is made, and nothing about its numbers."""
    return is_below(key, free_keys(schema)) and not is_below(key, MEASURED)


def value_at(config: Any, key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


@dataclass(frozen=True)
class MatchedRuns:
    """Finished runs of several methods, the baseline first, each with the same seeds."""

    folder: Path
    domain: str
    methods: list[str]
    seeds: list[int]

    def path(self, method: str, seed: int) -> Path:
        """The folder of a run."""
        return self.folder / self.domain / f"{method}-seed{seed}"

    def runs(self, method: str) -> list[RunDirectory]:
        """The runs of a method, one for each seed; ValueError for one that is missing."""
        return [RunDirectory.find(self.path(method, seed), "runs") for seed in self.seeds]

    def check(self) -> dict[str, dict[str, Any]]:
        """Raise ValueError unless all runs are complete and matched; what each method changes of the baseline's config.

        Matched runs have equal `MATCHED` keys, the seed apart, and, where step 1 was recorded, the same flow loss there
        for the same seed: weights, data and noise were the same.
        """
        self._check_complete()
        first = self.runs(self.methods[0])[0].config()
        changes, schema = {}, find_command(self.domain).schema
        for method in self.methods:
            own = self.runs(method)[0].config()
            for seed, run in zip(self.seeds, self.runs(method), strict=True):
                self._check_config(run, seed, own, first)
            keys = [key for key in changed_keys(first, own) if not is_free(key, schema) and key != "seed"]
            changes[method] = {key: value_at(own, key) for key in keys}
        for seed in self.seeds:
            self._check_first_losses(seed)
        return changes

    def _check_complete(self) -> None:
        states = [(run, run.summary()) for method in self.methods for run in self.runs(method)]
        short = [run.shown() for run, done in states if not done or done["steps"] < run.setting("trainer.steps", int)]
        if short:
            raise ValueError(
                f"runs that are not complete: {', '.join(short)}; the command that made them continues them"
            )

    def _check_config(self, run: RunDirectory, seed: int, own: Mapping[str, Any], first: Mapping[str, Any]) -> None:
        config, schema = run.config(), find_command(self.domain).schema
        own_seed = run.setting("seed", int)
        if own_seed != seed:
            raise ValueError(f"{run.shown()} has seed {own_seed}; its name says {seed}")
        wrong = [key for key in changed_keys(own, config) if not is_free(key, schema) and key != "seed"]
        before = own
        if not wrong:
            unmatched = [key for key in changed_keys(first, config) if is_below(key, MATCHED) and key != "seed"]
            wrong, before = [key for key in unmatched if not is_free(key, schema)], first
        if wrong:
            details = "; ".join(f"{key} is {value_at(config, key)!r}, not {value_at(before, key)!r}" for key in wrong)
            raise ValueError(f"{run.shown()} is not matched with the other runs: {details}")

    def _check_first_losses(self, seed: int) -> None:
        """ValueError when the flow losses of step 1 differ among the methods."""
        losses = {}
        for method in self.methods:
            lines = read_lines(self.path(method, seed) / METRICS)
            if not lines or lines[0]["step"] != 1 or not is_number(lines[0].get(LOSS)):
                log.info("step 1 is not in %s: matched by config only (log_every=1 records it)", METRICS)
                return
            losses[method] = lines[0][LOSS]
        precision = RunDirectory(self.path(self.methods[0], seed)).setting("trainer.precision", str)
        tolerance = TOLERANCE.get(precision, LOW_PRECISION_TOLERANCE)
        reference = losses[self.methods[0]]
        if any(abs(loss - reference) > tolerance * abs(reference) for loss in losses.values()):
            details = ", ".join(f"{method} {loss:.8g}" for method, loss in losses.items())
            raise ValueError(
                f"the runs with seed {seed} are not matched: {LOSS} of step 1 is {details}; with the same weights, "
                "data and noise it is the same"
            )


def find_seeds(folder: Path, domain: str, methods: Sequence[str]) -> list[int]:
    """The seeds for which each method has a run in the folder; ValueError where there is none, or methods differ."""
    found: dict[str, set[int]] = {method: set() for method in methods}
    for config in sorted((folder / domain).glob("*-seed*/config.yaml")):
        match = RUN_NAME.fullmatch(config.parent.name)
        if match and match["method"] in found:
            found[match["method"]].add(int(match["seed"]))
    if not all(found.values()):
        missing = ", ".join(method for method, seeds in found.items() if not seeds)
        raise ValueError(f"{folder / domain} holds no run of {missing}; needed: folders such as {methods[0]}-seed0")
    if len({frozenset(seeds) for seeds in found.values()}) > 1:
        details = "; ".join(f"{method} {sorted(seeds)}" for method, seeds in found.items())
        raise ValueError(f"the methods have other seeds in {folder / domain}: {details}; seeds=[...] chooses")
    return sorted(found[methods[0]])


@dataclass(frozen=True)
class Evaluations:
    """The values that runs measured at the steps common to all: values[method] is (S, E).

    record  one of the records that the values are from; None where they are from evaluations.jsonl
    """

    metric: str
    steps: list[int]
    values: dict[str, np.ndarray]
    record: Record | None = None


Curves = dict[str, dict[int, float]]  # metric -> step -> value


def read_evaluations(runs: MatchedRuns, metric: str | None) -> Evaluations:
    """The evaluations of one metric, null for the first that the runs have, from evaluations.jsonl.

    A metric that is not there is looked for in the records of evaluations (`eval.measure.record`) in the runs' folders,
    which a domain's `evaluate` writes for the checkpoints that were kept. Raises ValueError for a metric that is in
    neither, for records of different protocols, and where the last step was not measured.
    """
    keys = [(method, seed) for method in runs.methods for seed in runs.seeds]
    lines = {key: _lines(runs.path(*key)) for key in keys}
    records = {key: _records(runs.path(*key)) for key in keys}
    known = list(dict.fromkeys([*lines[keys[0]], *(record.metric for record in records[keys[0]])]))
    metric = metric or (known[0] if known else "")
    used = [r for key in keys for r in records[key] if r.metric == metric and metric not in lines[key]]
    _check_same_protocol(used)
    curves = {key: lines[key].get(metric) or _by_step(records[key], metric) for key in keys}
    missing = [f"{method}-seed{seed}" for (method, seed), curve in curves.items() if not curve]
    if missing:
        raise ValueError(f"metric is {metric!r}; {', '.join(missing)} measured {', '.join(known) or 'nothing'}")
    common = sorted(set.intersection(*(set(curve) for curve in curves.values())))
    last = max(step for curve in curves.values() for step in curve)
    if not common or common[-1] != last:
        raise ValueError(
            f"step {last} was not measured by {metric} in every run of {runs.folder}; measure the others too"
        )
    values = {m: np.array([[curves[m, s][step] for step in common] for s in runs.seeds]) for m in runs.methods}
    return Evaluations(metric, common, values, used[0] if used else None)


def _lines(path: Path) -> Curves:
    """The curves in evaluations.jsonl of a run."""
    found: Curves = {}
    for line in read_lines(path / EVALUATIONS):
        for name, value in line.items():
            if name not in COUNTS and is_number(value):
                found.setdefault(name, {})[line["step"]] = value
    return found


def _records(path: Path) -> list[Record]:
    """The records of evaluations in a run's folder."""
    return read_records([path]) if any((path / RECORDS).glob("evaluation_*.json")) else []


def _by_step(records: Sequence[Record], metric: str) -> dict[int, float]:
    return {r.step: r.value for r in records if r.metric == metric and r.step is not None}


def _check_same_protocol(records: Sequence[Record]) -> None:
    for record in records[1:]:
        found = differences(records[0], record)
        if found:
            details = "; ".join(f"{key} is {now}, not {before}" for key, (before, now) in found.items())
            raise ValueError(f"records of {record.metric} in {record.run} are of another protocol: {details}")


def find_command(domain: str) -> Entry:
    """The training command of a domain; ValueError where there is none."""
    name = f"{domain}.train"
    try:
        module = importlib.import_module(name) if re.fullmatch(r"\w+", domain) else None
    except ModuleNotFoundError as error:
        if error.name not in (domain, name):
            raise  # the command is there and lacks something
        module = None
    entry = getattr(module, "ENTRY", None)
    if not isinstance(entry, Entry):
        raise ValueError(f"domain is {domain!r}, but there is no command python -m {name}; image is a domain")
    return entry

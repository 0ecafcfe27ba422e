"""What a study found, as the JSON record that the page is made of. Its keys are explained in benchmarks/README.md.

Every method is compared with the baseline over the seeds that both have finished, by `eval.methods`. Letters: S seeds.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import record, versions
from benchmarks.study.networks import Network
from benchmarks.study.plan import (
    LOSS_ROWS,
    TOKENIZER_PATH,
    RunConfigs,
    Study,
    floor_file,
    likeness_file,
    tokenizer_path,
)
from core.commands.train_tokenizer import METRICS_FILE
from core.schema import plain
from core.storage.json_files import read_mapping
from core.storage.lines import curve, read_lines
from core.storage.run_folder import RunDirectory
from core.train.tracking import BY_TIME_EMA, METRICS, SPEED
from eval.methods.matched import MatchedRuns, read_evaluations, value_at
from eval.methods.numbers import direction, mean_over_seeds, relative_gain
from eval.methods.plan import RunPlan, is_complete, key_of
from eval.methods.result import as_numbers, make_comparison

PLACES = re.compile(r"(runs_dir|runs|results|sweep)=.*")  # words that belong to a machine, not to a measurement
MEASURED, NOT_RUN, REFUSED, FAILED = "measured", "not run", "refused", "failed"
REPLICATES = 2000
THREADS = "OMP_NUM_THREADS"  # of each run


@dataclass(frozen=True)
class StudySetting:
    """How the runs of a study were made."""

    device: str
    network: str
    domain: str
    title: str
    experiment: str
    overrides: list[str]
    tokenizer: dict[str, Any]
    depth: int | None
    hidden_size: int | None
    steps: int
    every: int
    seeds: list[int]
    parallel: int
    threads: int
    loss_rows: int = LOSS_ROWS


def study_record(
    study: Study, plan: RunPlan, configs: RunConfigs, reasons: Mapping[str, str], argv: Sequence[str]
) -> dict[str, Any]:
    """The record of all runs that are complete; `reasons` of the methods that made none."""
    complete = find_complete(study, plan, configs)
    baseline = study.methods[0]
    first = plain(configs[baseline, plan.seeds[0]])
    methods = {}
    for name in study.methods:
        seeds = [seed for seed in complete.get(name, []) if seed in complete[baseline]]
        state = {"keys": study.network.method(name)}
        if seeds:
            state |= {"state": MEASURED, **measured(study, baseline, name, seeds)}
        else:
            reason = reasons.get(name, "")
            kind = REFUSED if reason.startswith(REFUSED) else FAILED if reason.startswith(FAILED) else NOT_RUN
            state |= {"state": kind, "reason": reason.partition(": ")[2] if kind != NOT_RUN else reason}
        methods[name] = state
    device = _device(study, complete)
    setting = StudySetting(
        device=device,
        network=study.network.name,
        domain=study.network.domain,
        title=study.network.title,
        experiment=study.network.experiment,
        overrides=[word for word in plan.common if key_of(word) != TOKENIZER_PATH],
        tokenizer=study.network.tokenizer,
        depth=value_at(first, "backbone.depth"),
        hidden_size=value_at(first, "backbone.hidden_size"),
        steps=value_at(first, "trainer.steps"),
        every=value_at(first, "trainer.evaluate_every"),
        seeds=plan.seeds,
        parallel=study.config.parallel,
        threads=int(os.environ[THREADS]),
    )
    pairs = dict.fromkeys(pair for each in methods.values() for pair in each.get("similarity", ()))
    likeness = baseline_likeness(study, complete[baseline], list(pairs))
    results = {"methods": methods, "pair": pair_facts(study), "baseline_similarity": likeness}
    results["tokenizer"] = tokenizer_facts(study, complete[baseline])
    words = [word for word in argv if not PLACES.fullmatch(word)]
    return {**record("study", words, setting, results), "versions": versions(torch.device(device))}


def find_complete(study: Study, plan: RunPlan, configs: RunConfigs) -> dict[str, list[int]]:
    """The seeds of each method whose runs are complete."""
    runs = MatchedRuns(study.folder, plan.domain, list(plan.methods), plan.seeds)
    found: dict[str, list[int]] = {method: [] for method in plan.methods}
    for (method, seed), config in configs.items():
        if is_complete(config, runs.path(method, seed)):
            found[method].append(seed)
    return found


def _device(study: Study, complete: Mapping[str, list[int]]) -> str:
    """The kind of device that the first complete run was made on; the CPU where there is none yet."""
    for method, seeds in complete.items():
        for seed in seeds:
            run = RunDirectory(study.folder / study.network.domain / f"{method}-seed{seed}")
            return str((run.summary() or {}).get("device", "cpu")).partition(":")[0]
    return "cpu"


def measured(study: Study, baseline: str, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """What was measured of a method, beside the baseline of the same seeds."""
    methods = list(dict.fromkeys([baseline, name]))
    runs = MatchedRuns(study.folder, study.network.domain, methods, list(seeds))
    changes, evaluations = runs.check(), read_evaluations(runs, None)
    better = direction(evaluations.metric)
    comparison = make_comparison(runs, evaluations, changes, better, REPLICATES)
    steps = evaluations.steps
    return {
        "seeds": list(seeds),
        "comparison": comparison,
        "loss_by_time": loss_by_time(runs, baseline, name),
        "similarity": similarity(runs, name, steps),
        "peak_memory_mib": {method: peak_memory(runs, method, steps[0]) for method in methods},
    }


def loss_by_time(runs: MatchedRuns, baseline: str, name: str) -> dict[str, dict[str, Any]]:
    """Final flow loss of the averaged weights by bin of t: mean over seeds, and the gain over the baseline."""
    ends = {method: [read_lines(run.path / METRICS)[-1] for run in runs.runs(method)] for method in runs.methods}
    bins = [key for key in ends[baseline][0] if key.startswith(f"{BY_TIME_EMA}/")]
    found = {}
    for key in bins:
        values = {method: np.array([line[key] for line in lines]) for method, lines in ends.items()}
        gain = relative_gain(values[baseline], values[name], "lower") if name != baseline else None
        found[key.partition("/")[2]] = {
            "mean": as_numbers(mean_over_seeds(values[name])),
            "gain": None if gain is None else as_numbers(gain),
        }
    return found


def similarity(runs: MatchedRuns, name: str, steps: Sequence[int]) -> dict[str, list[float]]:
    """Mean similarity of each pair from one of `steps` to the next, over the seeds that have the pair."""
    found: dict[str, list[list[float]]] = {}
    for run in runs.runs(name):
        lines = read_lines(run.path / METRICS)
        for key in dict.fromkeys(key for line in lines for key in line if key.startswith("similarity/")):
            at, values = (np.array(each) for each in curve(lines, key))
            ends = [0, *steps]
            parts = [values[(at > begin) & (at <= end)] for begin, end in itertools.pairwise(ends)]
            if all(len(part) for part in parts):
                found.setdefault(key.partition("/")[2], []).append([float(part.mean()) for part in parts])
    return {pair: np.mean(rows, axis=0).tolist() for pair, rows in found.items()}


def baseline_likeness(study: Study, seeds: Sequence[int], pairs: Sequence[str]) -> dict[str, Any] | None:
    """Cosine of the same token after the two blocks of each pair in the trained baseline: mean over seeds and times."""
    runs = MatchedRuns(study.folder, study.network.domain, study.methods[:1], list(seeds))
    files = [likeness_file(run.path) for run in runs.runs(study.methods[0])]
    found = [read_mapping(file)["results"]["cosine"]["cosine"] for file in files if file.is_file()]
    if not found:
        return None
    mean = np.mean([list(matrices.values()) for matrices in found], axis=(0, 1))
    blocks = [(pair, pair.split("->")) for pair in pairs]
    places = {pair: tuple(int(each) - 1 for each in ends) for pair, ends in blocks if all(e.isdigit() for e in ends)}
    return {
        "times": [float(t) for t in found[0]],
        "runs": len(found),
        "pairs": {pair: float(mean[place]) for pair, place in places.items()},
    }


def peak_memory(runs: MatchedRuns, method: str, first: int) -> float | None:
    """Median over seeds of the peak of memory in MiB before the first evaluation: of training alone."""
    peaks = []
    for run in runs.runs(method):
        lines = [line for line in read_lines(run.path / SPEED) if line["step"] <= first and "peak_memory_mib" in line]
        peaks += [max(line["peak_memory_mib"] for line in lines)] if lines else []
    return float(np.median(peaks)) if peaks else None


def tokenizer_facts(study: Study, seeds: Sequence[int]) -> dict[str, Any] | None:
    """The numbers of the tokenizer that all runs have, and of real data through it; None where the study makes none."""
    file = tokenizer_path(study.config, study.network) / METRICS_FILE
    if not study.network.tokenizer or not file.is_file():
        return None
    found = {key: value for key, value in read_mapping(file).items() if key != "config"}
    runs = MatchedRuns(study.folder, study.network.domain, study.methods[:1], list(seeds[:1]))
    floors = [
        read_mapping(floor_file(run.path))["results"]
        for run in runs.runs(study.methods[0])
        if floor_file(run.path).is_file()
    ]
    return {**found, "floor": floors[0] if floors else None}


def pair_facts(study: Study) -> dict[str, Any] | None:
    """What `eval.choose_pair` said of the short baseline run: its pairs, the rule's, and how it was asked."""
    if not study.pair_file.is_file():
        return None
    content = read_mapping(study.pair_file)
    results = content["results"]
    return {
        "step": content["step"],
        "criteria": content["settings"]["criteria"],
        "times": content["settings"]["t"],
        "pairs": results["pairs"],
        "rule": results["rule"],
        "notes": results["notes"],
    }


def record_file(folder: Path, network: Network, content: Mapping[str, Any]) -> Path:
    """Where the record of this day goes."""
    return folder / f"{content['date'][:10]}-study-{network.name}-{content['hardware']['device']}.json"

"""The material of a report: runs by themselves, runs compared over seeds, and records of evaluations, found from paths.

Letters: S seeds, E evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core.storage.json_files import read_mapping
from core.storage.lines import is_number, read_lines
from core.storage.run_folder import RunDirectory
from core.train.tracking import EVALUATIONS, METRICS
from eval.measure.record import FOLDER, Record, read_records
from eval.methods.matched import COUNTS
from eval.methods.result import KIND, read_comparison

Series = tuple[list[int], np.ndarray]


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only, or one run; a curve of the report is the mean over a group."""

    name: str
    runs: list[RunDirectory]

    def evaluations(self) -> dict[str, Series]:
        """metric -> (steps, values (S, E)) at the steps that every run measured."""
        shared = _at_common_steps([read_lines(run.path / EVALUATIONS) for run in self.runs])
        return {name: series for name, series in shared.items() if name not in COUNTS}

    def by_time(self, prefix: str) -> dict[str, Series]:
        """Bin of t -> (steps, values (S, E)) of the losses by noise level whose names in metrics.jsonl begin so."""
        runs = [read_lines(run.path / METRICS) for run in self.runs]
        measured = [[line for line in lines if any(name.startswith(f"{prefix}/") for name in line)] for lines in runs]
        shared = _at_common_steps(measured)
        return {name.partition("/")[2]: series for name, series in shared.items() if name.startswith(f"{prefix}/")}

    def training(self, points: int) -> dict[str, tuple[list[float], np.ndarray]]:
        """Name in metrics.jsonl -> (steps, values (S, points)): means of neighbouring steps, at most `points` of them.

        Loss and similarity of pairs; runs of different length are shown as far as all of them go.
        """
        runs = [read_lines(run.path / METRICS) for run in self.runs]
        length = min(map(len, runs))
        runs = [lines[:length] for lines in runs]
        if not length:
            return {}
        names = [name for name in runs[0][0] if name == "flow_loss" or name.startswith("similarity/")]
        parts = np.array_split(np.arange(length), min(points, length))
        found = {}
        for name in names:
            if all(is_number(line.get(name)) for lines in runs for line in lines):
                values = np.array([[line[name] for line in lines] for lines in runs])
                steps = np.array([line["step"] for line in runs[0]])
                means = np.stack([values[:, part].mean(1) for part in parts], axis=1)
                found[name] = ([float(steps[part].mean()) for part in parts], means)
        return found


def _at_common_steps(runs: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Series]:
    """Name -> (steps, values (S, E)) of the numbers that each of the S runs has in all E steps that they share."""
    found = [{line["step"]: line for line in lines} for lines in runs]
    common = sorted(set.intersection(*(set(lines) for lines in found)))
    lines = [[run[step] for step in common] for run in found]
    names = [name for name in (lines[0][-1] if common else {}) if name != "step"]
    shared = [name for name in names if all(is_number(line.get(name)) for run in lines for line in run)]
    return {name: (common, np.array([[line[name] for line in run] for run in lines])) for name in shared}


@dataclass
class Material:
    """The runs, comparisons and records that the paths hold."""

    groups: list[Group] = field(default_factory=list)
    comparisons: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def add_run(self, path: Path) -> None:
        """A run by itself, and the records of evaluations in its folder."""
        self.groups.append(Group(RunDirectory.find(path, "runs").path.resolve().name, [RunDirectory(path)]))
        self._add_records(path)

    def add_comparison(self, file: Path) -> None:
        """A comparison, the groups of its methods, and the records of its runs."""
        content, folder = read_comparison(file), file.parent
        known = {run.path.resolve() for group in self.groups for run in group.runs}
        for method in content["methods"]:
            paths = [folder / content["domain"] / f"{method}-seed{seed}" for seed in content["seeds"]]
            runs = [RunDirectory(path) for path in paths if (path / "config.yaml").is_file()]
            if runs and not known & {run.path.resolve() for run in runs}:  # two metrics of one comparison
                self.groups.append(Group(f"{folder.resolve().name}/{method}", runs))
                for run in runs:
                    self._add_records(run.path)
        self.comparisons.append((file, content))

    def _add_records(self, path: Path) -> None:
        if any((path / FOLDER).glob("evaluation_*.json")):
            self.records += read_records([path])


def gather(paths: Sequence[str]) -> Material:
    """Collect what is at the paths: folders of runs, of comparisons or of records, and files of the latter two.

    Raises ValueError naming the path that is none of these.
    """
    material = Material()
    for path in map(Path, paths):
        comparisons = sorted(path.glob("comparison_*.json")) if path.is_dir() else []
        if (path / "config.yaml").is_file():
            material.add_run(path)
        elif comparisons:
            for file in comparisons:
                material.add_comparison(file)
        elif path.is_dir() and any(path.glob("evaluation_*.json")):
            material.records += read_records([path])
        elif path.is_file():
            _add_file(material, path)
        else:
            raise ValueError(
                f"runs holds {str(path)!r}; needed: the folder of a run (config.yaml), of a comparison "
                "(comparison_*.json, which eval.compare writes) or of records (evaluation_*.json), or such a JSON file"
            )
    return material


def _add_file(material: Material, path: Path) -> None:
    try:
        kind = read_mapping(path).get("kind")
    except ValueError as error:
        raise ValueError(f"runs holds {str(path)!r}, which is no JSON object: {error}") from error
    if kind == KIND:
        material.add_comparison(path)
    else:
        material.records += read_records([path])

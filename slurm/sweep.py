"""A sweep: one file that says which runs there are and what each of them needs.

    name: weights                         # <runs_dir>/sweeps/weights holds the runs, their logs and the manifest
    entry: image.train
    overrides: {trainer.steps: 500}       # for every run
    grid: {alignment.weight: [0.1, 0.3]}  # every combination
    cases: [{seed_of_data: 1}, ...]       # or a list of combinations; `case` in one gives it its name
    seeds: [0, 1, 2]
    resources: {profile: one_gpu, time: 2h}

A run is a case of the list, a point of the grid and a seed.
"""

from __future__ import annotations

import importlib
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from core.commands.entry import Entry
from core.commands.overrides import override
from core.schema import strict
from core.storage.yaml_files import read_yaml
from slurm.resources import Resources, check_text

PROFILES = Path(__file__).parent / "profiles"
NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,199}")
KEY = re.compile(r"[+~]{0,2}[\w$@/.:-]+")
ENTRY_NAME = re.compile(r"\w+(\.\w+)+")
MAX_RUNS = 10_000
MAX_NAME = 255  # bytes
OWN_KEYS = ("name", "runs_dir", "seed")  # of the run's config: the sweep sets them


def is_name(text: str) -> bool:
    """Whether a text can be the name of a sweep or run: of a job, and of a folder on any disk."""
    return bool(NAME.fullmatch(text)) and len(text.encode()) <= MAX_NAME


@dataclass(frozen=True)
class Case:
    """One run: its name, which is the run's folder too, and the keys that its config changes."""

    name: str
    overrides: dict[str, Any]

    def arguments(self, runs_dir: Path) -> list[str]:
        """The run's command line, after `python -m <entry>`."""
        own = {"name": self.name, "runs_dir": str(runs_dir)}
        return [override(key, value) for key, value in {**self.overrides, **own}.items()]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The keys of a sweep file; `metric` is the key of summary.json that tables show, null for the first one there."""

    name: str
    entry: str
    runs_dir: str = "runs"
    overrides: dict = field(default_factory=dict)
    grid: dict = field(default_factory=dict)
    cases: list[dict] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    metric: str | None = None
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        check_text("runs_dir", self.runs_dir)
        if "%" in self.runs_dir or self.runs_dir.startswith("~"):
            raise ValueError(f"runs_dir is {self.runs_dir!r}; needed: a folder without %, for SLURM, and without ~")
        if not is_name(self.name):
            raise ValueError(f"name is {self.name!r}; a sweep's name has letters, digits and . _ + - only")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}; needed: different numbers, one at least")
        for key, values in self.grid.items():
            if not isinstance(values, list) or not values:
                raise ValueError(f"grid.{key} is {values!r}; needed: a list of values")
        for where, keys in (("overrides", self.overrides), ("grid", self.grid), *_named(self.cases)):
            _check_keys(where, keys)
            twice = sorted(set(self.grid) & set(keys))
            if where.startswith("cases") and twice:
                raise ValueError(f"{where} and grid both hold {', '.join(twice)}; a run has one value of a key")

    @property
    def folder(self) -> Path:
        """The folder of the sweep's runs, logs and manifest."""
        return Path(self.runs_dir) / "sweeps" / self.name

    def run_path(self, case: str) -> Path:
        """The folder of a run: a domain's entry writes below the domain's name."""
        return self.folder / self.entry.split(".")[0] / case

    def runs(self) -> list[Case]:
        """Every case; ValueError when two have the same name."""
        count = math.prod([len(self.cases) or 1, len(self.seeds), *map(len, self.grid.values())])
        if count > MAX_RUNS:
            raise ValueError(f"cases, grid and seeds make {count} runs; a sweep has {MAX_RUNS} at most")
        points = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        found: dict[str, Case] = {}
        for case, point, seed in itertools.product(self.cases or [{}], points, self.seeds):
            given = {key: value for key, value in case.items() if key != "case"}
            label = str(case["case"]) if "case" in case else _label(given)
            name = "-".join(part for part in (label, _label(point), f"seed{seed}") if part)
            if not is_name(name):
                raise ValueError(
                    f"a run is called {name!r}; a name has 200 letters, digits and . _ + - at most and begins with one "
                    "of the first two: `case: NAME` in a case of the list gives another"
                )
            if name in found:
                raise ValueError(f"two runs are called {name!r}; `case: NAME` in a case of the list tells them apart")
            found[name] = Case(name, {**_groups_first({**self.overrides, **given, **point}), "seed": seed})
        return list(found.values())


def _check_keys(where: str, keys: dict) -> None:
    for key, value in keys.items():
        if not isinstance(key, str):
            raise ValueError(f"{where} holds {key!r} of type {type(key).__name__}; needed: keys of the run's config")
        if not KEY.fullmatch(key):
            raise ValueError(f"{where} holds {key!r}; needed: keys of the run's config, such as trainer.steps")
        if key.lstrip("+~") in OWN_KEYS:
            raise ValueError(f"{where} holds {key}; the sweep itself sets name, runs_dir and seed")
        if key == "case" and where.startswith("cases") and not isinstance(value, str | int | float):
            raise ValueError(f"{where}.case is {value!r}; needed: the name of the case")
        if any(isinstance(each, dict) for each in (value, *(value if isinstance(value, list) else ()))):
            raise ValueError(f"{where}.{key} is {value!r}; needed: values of single keys, such as {key}.name")


def _named(cases: list[dict]) -> list[tuple[str, dict]]:
    return [(f"cases[{number}]", case) for number, case in enumerate(cases)]


def _groups_first(overrides: dict[str, Any]) -> dict[str, Any]:
    """An experiment is chosen before its keys are changed; hydra does not mind, people do."""
    return dict(sorted(overrides.items(), key=lambda item: ("." in item[0], item[0] != "experiment")))


def _label(overrides: Mapping[str, Any]) -> str:
    """Values as part of a name: imagenet256_b2, weight0.3."""
    parts = []
    for key, value in overrides.items():
        text = re.sub(r"[^\w.+-]+", "_", str(value)).strip("_")
        parts.append(text if "." not in key and isinstance(value, str) else f"{key.rpartition('.')[2]}{text}")
    return "-".join(parts)


def load_sweep(path: Path | str) -> Sweep:
    """The sweep of a YAML file; ValueError naming the file, the key and what is allowed there."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no sweep file {path}")
    values = read_yaml(path)
    where, resources = str(path), values.get("resources")
    try:
        if isinstance(resources, dict) and resources.get("profile") is not None:
            values = {**values, "resources": {**load_profile(resources["profile"]), **resources}}
            where += f" with profile {resources['profile']}"
        sweep = strict(Sweep, values)
        sweep.runs()  # their names are theirs, and checked
        return sweep
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def load_profile(name: str) -> dict[str, Any]:
    """The keys of a cluster profile, by name or path."""
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = sorted(each.stem for each in PROFILES.glob("*.yaml"))
        raise ValueError(f"resources.profile is {name!r}; allowed: {', '.join(known)}, or the path of a YAML file")
    values, allowed = read_yaml(path), [each.name for each in fields(Resources) if each.name != "profile"]
    unknown = [str(key) for key in values if key not in allowed]
    if unknown:
        raise ValueError(f"{path} holds {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    return values


def find_entry(name: str) -> Entry:
    """The command behind `python -m <name>`; ValueError where there is none."""
    if not ENTRY_NAME.fullmatch(name):
        raise ValueError(f"entry is {name!r}; needed: a domain and its command, such as image.train")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise  # the entry is there and lacks something
        raise ValueError(f"entry is {name!r}; there is no such module (image.train is one)") from None
    entry = getattr(module, "ENTRY", None)
    if not isinstance(entry, Entry):
        raise ValueError(f"entry is {name!r}, a module that is no command (image.train is one)")
    return entry


def check_runs(sweep: Sweep, cases: list[Case]) -> None:
    """Compose the config of every run; ValueError naming the run for one that does not fit."""
    entry = find_entry(sweep.entry)
    for case in cases:
        try:
            config = entry.config(case.arguments(sweep.folder))
        except ValueError as error:
            raise ValueError(f"run {case.name}: {error}") from error
        trainer = getattr(config, "trainer", None)
        if trainer is not None:
            try:
                trainer.check_parts(sweep.resources.processes)
            except ValueError as error:
                raise ValueError(f"run {case.name}: {error}") from error

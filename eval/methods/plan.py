"""From methods and seeds to the runs of a comparison: their command lines, and the sweep file that SLURM starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from core.commands.overrides import override, read_overrides
from core.schema import changed_keys, plain
from core.storage.atomic import write_atomic
from core.storage.run_folder import RunDirectory
from eval.methods.matched import find_command, is_below, is_free, value_at

# The methods that need no definition: without alignment, with that of the experiment, and controls of the latter: the
# baseline's gradient with the norm that the method's has, and a pair by chance, another for each seed. And the pair by
# the paper's rule, and one that is revised in training.
BUILT_IN = {
    "baseline": ["alignment=none"],
    "layersync": [],
    "gradient_matched": ["optimizer.gradient=matched"],
    "random_pair": ["alignment.pairs=random"],
    "rule_pair": ["alignment.pairs=auto"],
    "adaptive_pair": ["alignment.pairs=adaptive"],
}
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
SET_BY_COMPARE = ("name", "runs_dir", "seed", "trainer.evaluate_every", "trainer.log_every")


def key_of(word: str) -> str:
    """The key of an override `key=value`, without hydra's signs before it."""
    return word.partition("=")[0].lstrip("+~")


def split_words(words: Sequence[str], schema: type) -> tuple[list[str], list[str]]:
    """A command line as hydra reads it, the first word being the domain, and the words that are for the runs.

    schema: the command's own config; a key of it is the command's. Raises ValueError for a second word without `=`.
    """
    own = {field.name for field in fields(schema)}
    ours, runs = [], []
    for place, word in enumerate(words):
        if word.startswith("-"):
            ours.append(word)
        elif "=" not in word and not word.startswith("~"):
            if place:
                raise ValueError(f"{word!r} is no key=value; the domain alone stands by itself, as the first word")
            ours.append(override("domain", word))
        else:
            (ours if key_of(word) in own else runs).append(word)
    return ours, runs


@dataclass(frozen=True)
class RunPlan:
    """The runs of a comparison: what all of them share, and what makes a method.

    common   overrides of every run; one that a method sets itself is left out there
    methods  overrides of each method, the baseline first
    """

    domain: str
    common: list[str]
    methods: dict[str, list[str]]
    seeds: list[int]

    def overrides(self, method: str) -> list[str]:
        """The overrides of a method's runs, those of the method last."""
        own = self.methods[method]
        kept = [word for word in self.common if not is_below(key_of(word), [key_of(each) for each in own])]
        return [*kept, *own]

    def arguments(self, method: str, seed: int, folder: Path) -> list[str]:
        """The command line of a run after `python -m <domain>.train`."""
        own = [override("seed", seed), override("name", f"{method}-seed{seed}"), override("runs_dir", str(folder))]
        return [*self.overrides(method), *own]

    def check(self, folder: Path) -> dict[tuple[str, int], Any]:
        """The config of every run, by method and seed; ValueError naming the run that does not fit."""
        entry, configs = find_command(self.domain), {}
        for seed in self.seeds:
            for method in self.methods:
                try:
                    configs[method, seed] = entry.config(self.arguments(method, seed, folder))
                except ValueError as error:
                    raise ValueError(f"run {method}-seed{seed}: {error}") from error
        plains = {method: plain(configs[method, self.seeds[0]]) for method in self.methods}
        self._check_methods(plains, entry.schema)
        return configs

    @staticmethod
    def _check_methods(configs: Mapping[str, dict[str, Any]], schema: type) -> None:
        """Two methods compute different things."""
        for method, config in configs.items():
            if method == "layersync" and value_at(config, "alignment.name") == "none":
                raise ValueError("methods holds 'layersync', but the experiment's alignment is none; choose another")
        names = list(configs)
        for place, one in enumerate(names):
            for other in names[place + 1 :]:
                changes = [key for key in changed_keys(configs[one], configs[other]) if not is_free(key, schema)]
                if not changes:
                    raise ValueError(f"methods holds {one!r} and {other!r}, which are the same run")


def measures_samples(config: Any) -> bool:
    """Whether a run with this config measures its samples by itself."""
    return value_at(plain(config), "evaluation.name") != "none"


def check_overrides(common: Sequence[str], methods: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError for a name that is none, and for overrides that the comparison sets itself."""
    for method, words in {"": common, **methods}.items():
        where = f"cases.{method}" if method else "overrides"
        if method and not NAME.fullmatch(method):
            raise ValueError(f"methods holds {method!r}; a method's name has letters, digits and . _ + - only")
        for word in words:
            if not isinstance(word, str) or "=" not in word:
                raise ValueError(f"{where} holds {word!r}; needed: key=value for the runs")
            if key_of(word) in SET_BY_COMPARE:
                raise ValueError(f"{where} holds {key_of(word)}; the comparison sets it: seeds, name, runs_dir, every")


def is_complete(config: Any, path: Path) -> bool:
    """Whether the run at `path` is complete with this config.

    Raises ValueError when it was begun with a config that computes or measures something else.
    """
    if not (path / "config.yaml").is_file():
        return False
    run, wanted = RunDirectory(path), plain(config)
    begun = run.summary_file.exists() or any(run.checkpoints.glob("step_*"))
    changes = [key for key in changed_keys(run.config(), wanted) if not is_free(key, type(config))] if begun else []
    if changes:
        before = run.config()
        details = ", ".join(f"{key} ({value_at(before, key)} before, {value_at(wanted, key)} now)" for key in changes)
        raise ValueError(f"{run.shown()} was made with another {details}; choose another name=..., or the same values")
    summary = run.summary()
    return summary is not None and summary["steps"] == config.trainer.steps


def sweep_content(plan: RunPlan, name: str, runs_dir: str, metric: str | None) -> dict[str, Any]:
    """The keys of a sweep file for `slurm/launch.py` with the runs of the plan; its folder is <runs_dir>/sweeps/<name>.

    Raises ValueError for an override that is not key=value, or points to another key.
    """
    each = {method: read_overrides(plan.overrides(method)) for method in plan.methods}
    first = next(iter(each.values()))
    shared = {
        key: value
        for key, value in first.items()
        if all(key in own and own[key] == value for own in each.values())  # also where a method has none of it
    }
    cases = [
        {"case": method, **{key: value for key, value in own.items() if key not in shared}}
        for method, own in each.items()
    ]
    content = {"name": name, "entry": f"{plan.domain}.train", "runs_dir": runs_dir, "overrides": shared}
    return {**content, "cases": cases, "seeds": plan.seeds, "metric": metric, "resources": {"profile": "one_gpu"}}


def write_sweep(file: Path, content: dict[str, Any]) -> None:
    """Write a sweep file; ValueError for one that is there and says something else, OSError where it cannot be."""
    text = yaml.safe_dump(content, sort_keys=False, width=120)
    if file.exists() and file.read_text() != text:
        raise ValueError(f"sweep is {str(file)!r}, a file that says something else; choose another, or remove it")
    write_atomic(file, text)

"""`python -m eval.compare <domain>`: matched runs of several methods, and what one gains over the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from core.commands.entry import Entry
from core.commands.overrides import override
from core.storage.run_folder import RunDirectory
from eval.methods.matched import MatchedRuns, find_command, find_seeds, read_evaluations
from eval.methods.numbers import direction
from eval.methods.plan import (
    BUILT_IN,
    NAME,
    RunPlan,
    check_overrides,
    is_complete,
    measures_samples,
    split_words,
    sweep_content,
    write_sweep,
)
from eval.methods.queue import QueuedRun, RunQueue
from eval.methods.result import make_comparison, write_comparison
from eval.methods.text import draw_comparison, report

CASE = re.compile(r"\+{0,2}cases\.([^.=\[]+)\.([^=]+=.*)", re.DOTALL)
DEFAULT_SEEDS = 3
MAX_SEEDS = 10_000
MAX_REPLICATES = 1_000_000
DEFAULT_EVALUATIONS = 10  # of a run, when `every` is null


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """The methods to compare and their runs; the keys are explained in eval/conf/compare.yaml."""

    domain: str
    methods: list[str]
    cases: dict
    overrides: list[str]
    seeds: int | list[int] | None
    steps: int | None
    every: int | None
    log_every: int
    metric: str | None
    better: Literal["auto", "lower", "higher"]
    threshold: float | None
    name: str | None
    runs_dir: str
    parallel: int
    replicates: int
    sweep: str | None
    runs: str | None

    def __post_init__(self) -> None:
        if len(self.methods) < 2 or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods is {self.methods}; needed: two different ones at least, the baseline first")
        unknown = [method for method in self.methods if method not in {**BUILT_IN, **self.cases}]
        if unknown:
            known = ", ".join({**BUILT_IN, **self.cases})
            raise ValueError(
                f"methods holds {', '.join(unknown)}; allowed: {known}, and those that +cases.NAME.KEY= defines"
            )
        for name in ("steps", "every", "log_every", "parallel", "replicates"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.replicates > MAX_REPLICATES:
            raise ValueError(f"replicates is {self.replicates}; it must be {MAX_REPLICATES} at most")
        if isinstance(self.seeds, int) and self.seeds > MAX_SEEDS:
            raise ValueError(
                f"seeds is {self.seeds}; needed: a number of seeds, {MAX_SEEDS} at most, or a list of them"
            )
        seeds = self.seed_list
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"seeds is {self.seeds}; needed: a number of seeds, or a list of different ones from 0 on")
        if self.name is not None and not NAME.fullmatch(self.name):
            raise ValueError(f"name is {self.name!r}; a comparison's name has letters, digits and . _ + - only")
        if self.sweep is not None and self.runs is not None:
            raise ValueError(f"sweep is {self.sweep!r} and runs {self.runs!r}; write runs down, or read them, not both")

    @property
    def label(self) -> str:
        """The name of the comparison."""
        return self.name or "-".join(self.methods)

    @property
    def folder(self) -> Path:
        """The folder of the runs and of the result."""
        return Path(self.runs) if self.runs is not None else Path(self.runs_dir) / "compare" / self.label

    @property
    def seed_list(self) -> list[int]:
        """The seeds of the runs to make, in order."""
        if isinstance(self.seeds, list):
            return sorted(self.seeds)
        return list(range(DEFAULT_SEEDS if self.seeds is None else self.seeds))


def plan_runs(config: CompareConfig) -> RunPlan:
    """The runs that the config asks for; ValueError for keys of them that do not fit."""
    methods = {method: list({**BUILT_IN, **config.cases}[method]) for method in config.methods}
    check_overrides(config.overrides, methods)
    common = [*config.overrides, *([] if config.steps is None else [f"trainer.steps={config.steps}"])]
    plan = RunPlan(config.domain, common, methods, config.seed_list)
    every = config.every
    if every is None:
        entry = find_command(config.domain)
        steps = entry.config(plan.overrides(config.methods[0])).trainer.steps
        every = max(1, steps // DEFAULT_EVALUATIONS)
    rhythm = [f"trainer.evaluate_every={every}", f"trainer.log_every={config.log_every}"]
    return replace(plan, common=[*common, *rhythm])


def make_runs(config: CompareConfig) -> None:
    """Make the runs that are not complete yet, each by the domain's own command."""
    plan = plan_runs(config)
    configs = plan.check(config.folder)
    if not all(map(measures_samples, configs.values())):
        raise ValueError("evaluation is none in the runs: nothing is compared; choose evaluation=..., or sweep=...")
    jobs = []
    for (method, seed), run_config in configs.items():
        path = MatchedRuns(config.folder, config.domain, config.methods, plan.seeds).path(method, seed)
        if is_complete(run_config, path):
            print(f"{path.name}: complete", flush=True)
            continue
        arguments = ("-m", f"{config.domain}.train", *plan.arguments(method, seed, config.folder))
        jobs.append(QueuedRun(path.name, path, arguments))
    RunQueue(config.folder / "logs", config.parallel, show=lambda text: print(text, flush=True)).make(jobs)


def compare(config: CompareConfig, seeds: list[int]) -> None:
    """Check that the runs are matched, compare them, write the result and say it."""
    runs = MatchedRuns(config.folder, config.domain, config.methods, seeds)
    changes = runs.check()
    evaluations = read_evaluations(runs, config.metric)
    better = direction(evaluations.metric, config.better)
    result = make_comparison(runs, evaluations, changes, better, config.replicates, config.threshold)
    file = write_comparison(config.folder, result)
    picture = draw_comparison(file.with_suffix(".png"), result)
    print(report(result))
    shown = [RunDirectory(each).shown() for each in (file, picture, config.folder)]
    print(f"numbers    {shown[0]}")
    print(f"curves     {shown[1]}")
    print(f"report     python -m eval.report {shown[2]} out=report")


def main(config: CompareConfig) -> None:
    """Train matched runs of several methods, measure them along the way, and compare them with the first method.

    The first word is the domain: python -m eval.compare image steps=600. Runs of the same seed share the order
    of data, noise and times. Keys that are none of those below go to the runs (experiment=..., backbone.depth=...). The
    methods baseline (no alignment), layersync (the experiment's alignment), its controls gradient_matched and
    random_pair, and it with the pairs rule_pair and adaptive_pair are known, +cases.NAME.KEY=VALUE defines others. The
    same command again continues what was interrupted and keeps what is complete.
    """
    if config.sweep is not None:
        plan = plan_runs(config)
        configs = plan.check(config.folder)
        write_sweep(Path(config.sweep), sweep_content(plan, config.label, config.runs_dir, config.metric))
        folder = Path(config.runs_dir) / "sweeps" / config.label
        print(f"written    {config.sweep}; its resources are yours to set")
        print(f"start      python slurm/launch.py {config.sweep}")
        if not all(map(measures_samples, configs.values())):
            print(
                f"measure    python -m {config.domain}.evaluate for every checkpoint of every run: evaluation is none"
            )
        print(f"then       python -m eval.compare {config.domain} methods=[{','.join(config.methods)}] runs={folder}")
    elif config.runs is not None:
        everything = config.seeds is None
        compare(config, find_seeds(config.folder, config.domain, config.methods) if everything else config.seed_list)
    else:
        make_runs(config)
        compare(config, config.seed_list)


def arguments(words: Sequence[str]) -> list[str]:
    """The command line as hydra reads it: the domain, methods and keys of the runs become values of our own keys.

    Raises ValueError for a second word without `=`.
    """
    ours, others = split_words(words, CompareConfig)
    runs: list[str] = []
    cases: dict[str, list[str]] = {}
    for word in others:
        if case := CASE.fullmatch(word):
            cases.setdefault(case[1], []).append(case[2])
        else:
            runs.append(word)
    ours += [override(f"+cases.{name}", keys) for name, keys in cases.items()]
    return [*ours, *([override("overrides", runs)] if runs else [])]


ENTRY = Entry(main, "eval.conf", "compare", CompareConfig, rewrite=arguments)

if __name__ == "__main__":
    ENTRY.run()

"""From a network and the keys of the command to the runs of a study, a comparison's, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.study.networks import MEASURED, PAIRS, Network
from core.commands.overrides import override
from core.schema import plain
from core.storage.json_files import read_mapping
from eval.compare import CompareConfig, plan_runs
from eval.methods.matched import MatchedRuns, find_command, is_below, value_at
from eval.methods.plan import RunPlan, is_complete, key_of
from eval.methods.queue import QueuedRun
from layersync.pairs import rule_pair

RunConfigs = Mapping[tuple[str, int], Any]  # by method and seed
PILOT, CHOICE = "pilot", "choose_pair"  # the short baseline run, and what asks it
TOKENIZER = "tokenizer"  # the training of one
TOKENIZER_PATH = "tokenizer.path"
LOSS_BINS, LOSS_ROWS = 5, 64
LIKENESS = "similarity"  # what says how alike a baseline's blocks are, which no loss of its own records
LIKENESS_TIMES = [0.1, 0.3, 0.5, 0.7, 0.9]
FLOOR = "reconstruction"  # what says how far real data are from themselves once the tokenizer had them


def likeness_file(run: Path) -> Path:
    """What `eval.similarity` found in a run."""
    return run / "inside" / f"{LIKENESS}.json"


def floor_file(run: Path) -> Path:
    """What `eval.reconstruction` found of a run's tokenizer."""
    return run / "inside" / f"{FLOOR}.json"


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The study to make; the keys are explained in benchmarks/study/conf/study.yaml."""

    domain: str
    minutes: float | None
    networks: list[str] | None
    methods: list[str] | None
    seeds: int | list[int] | None
    steps: int | None
    every: int | None
    pilot_steps: int | None
    overrides: list[str]
    name: str | None
    runs_dir: str
    parallel: int
    threads: int | None
    sweep: str | None
    runs: str | None
    results: str

    def __post_init__(self) -> None:
        for name in ("minutes", "steps", "every", "pilot_steps", "parallel", "threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be above 0, or null")
        one = (self.name, self.sweep, self.runs)
        if any(one) and (self.networks is None or len(self.networks) != 1):
            raise ValueError("name, sweep and runs are of one network: networks=[digits], for one")
        if self.methods is not None and self.methods[:1] != ["baseline"]:
            raise ValueError(f"methods is {self.methods}; the first is 'baseline', which the others are compared with")


def tokenizer_path(config: StudyConfig, network: Network) -> Path:
    """Where the tokenizer of a network's runs is."""
    return Path(config.runs_dir) / "tokenizer" / network.name


def common_words(config: StudyConfig, network: Network) -> list[str]:
    """What all runs of a network share, the command's own keys last and instead of the network's."""
    every = config.every or network.every
    own = {
        "experiment": network.experiment,
        **network.overrides,
        **({TOKENIZER_PATH: str(tokenizer_path(config, network))} if network.tokenizer else {}),
        "trainer.preview_every": 0,
        "trainer.checkpoint_every": every,
        "trainer.keep_checkpoints": 1,
        "tracking.tensorboard": "off",
        "+tracking.loss_by_time.bins": LOSS_BINS,  # single keys, as a sweep takes them
        "+tracking.loss_by_time.every": every,
        "+tracking.loss_by_time.samples": LOSS_ROWS,
    }
    given = [key_of(word) for word in config.overrides]
    kept = {key: value for key, value in own.items() if not is_below(key.lstrip("+"), given)}
    return [*(override(key, value) for key, value in kept.items()), *config.overrides]


@dataclass(frozen=True)
class Study:
    """One network's study: its comparison's folder, and the short baseline run in it that chooses a pair."""

    config: StudyConfig
    network: Network

    @property
    def label(self) -> str:
        """The name of the comparison."""
        return self.config.name or f"study-{self.network.name}"

    @property
    def methods(self) -> list[str]:
        """All that are asked for."""
        return self.config.methods or self.network.methods

    def compared(self, methods: Sequence[str]) -> CompareConfig:
        """The comparison of these methods, as `eval.compare` takes it."""
        config, network = self.config, self.network
        return CompareConfig(
            domain=network.domain,
            methods=list(methods),
            cases={name: network.words(name, self.pair()) for name in methods},
            overrides=common_words(config, network),
            seeds=network.seeds if config.seeds is None else config.seeds,
            steps=config.steps or network.steps,
            every=config.every or network.every,
            log_every=1,
            metric=None,
            better="auto",
            threshold=None,
            name=self.label,
            runs_dir=config.runs_dir,
            parallel=config.parallel,
            replicates=2000,
            sweep=config.sweep,
            runs=config.runs,
        )

    @property
    def folder(self) -> Path:
        """Where the runs are."""
        own = Path(self.config.runs_dir) / "compare" / self.label
        return own if self.config.runs is None else Path(self.config.runs)

    # The tokenizer

    def tokenizer_words(self) -> list[str]:
        """The arguments of Python that train the tokenizer; [] where it is there, or none is needed."""
        path = tokenizer_path(self.config, self.network)
        if not self.network.tokenizer or path.is_dir():
            return []
        own = {**self.network.tokenizer, "runs_dir": self.config.runs_dir, "name": path.name}
        device = [word for word in self.config.overrides if key_of(word) == "device"]
        return ["-m", f"{self.network.domain}.train_tokenizer", *(override(*each) for each in own.items()), *device]

    # The pair

    @property
    def needs_pair(self) -> bool:
        """Whether one of the methods has the measured pair."""
        return any(map(self.takes_measured, self.methods))

    def takes_measured(self, name: str) -> bool:
        """Whether a method has the measured pair."""
        return self.network.method(name).get(PAIRS) == MEASURED

    @property
    def pair_file(self) -> Path:
        """What `eval.choose_pair` found in the short run."""
        return self.pilot_path / "inside" / f"{CHOICE}.json"

    @property
    def pilot_path(self) -> Path:
        """The folder of the short run."""
        return self.folder / self.network.domain / f"{PILOT}-seed{self._first_seed}"

    @property
    def _first_seed(self) -> int:
        seeds = self.config.seeds
        return min(seeds) if isinstance(seeds, list) else 0

    def pair(self) -> tuple[int, int] | None:
        """The measured pair; None where it is not measured, or no pair gains."""
        if not self.pair_file.is_file():
            return None
        pairs = read_mapping(self.pair_file)["results"]["pairs"]
        return (pairs[0]["weak"], pairs[0]["strong"]) if pairs else None

    def first_jobs(self) -> list[list[QueuedRun]]:
        """What is left to do before the runs, one after the other: the tokenizer, the short run, choosing a pair."""
        words = self.tokenizer_words()
        tokenizer = QueuedRun(TOKENIZER, tokenizer_path(self.config, self.network), tuple(words))
        return [*([[tokenizer]] if words else []), *self._pair_jobs()]

    def _pair_jobs(self) -> list[list[QueuedRun]]:
        if not self.needs_pair or self.pair_file.is_file():
            return []
        steps = override("trainer.steps", self.config.pilot_steps or self.network.pilot_steps)
        common = [*common_words(self.config, self.network), steps, "trainer.log_every=20"]
        plan = RunPlan(self.network.domain, common, {PILOT: ["alignment=none"]}, [self._first_seed])
        (config,) = plan.check(self.folder).values()
        jobs = [] if is_complete(config, self.pilot_path) else [self._job(plan, PILOT, self._first_seed)]
        chosen = ("-m", "eval.choose_pair", override("run", str(self.pilot_path)))
        return [jobs, [QueuedRun(CHOICE, self.pilot_path, chosen)]]

    # The runs

    def left_out(self) -> dict[str, str]:
        """Methods that make no run, and why: the network refuses them, their pair is not known or another's."""
        found: dict[str, str] = {}
        pair = self.pair()
        for name in self.methods:
            if self.takes_measured(name) and pair is None:
                found[name] = "no pair gains" if self.pair_file.is_file() else "the short baseline run is not done"
        entry, base = find_command(self.network.domain), [name for name in self.methods if name not in found]
        plan = RunPlan(self.network.domain, common_words(self.config, self.network), {}, [0])
        for name in base:
            each = replace(plan, methods={name: self.network.words(name, pair)})
            try:
                config = entry.config(each.arguments(name, 0, self.folder))
            except ValueError as error:
                if name == self.methods[0]:
                    raise
                found[name] = f"refused: {error}"
                continue
            depth = value_at(plain(config), "backbone.depth")
            if self.takes_measured(name) and depth and rule_pair(depth).pair == pair:
                found[name] = f"the measured pair is the rule's, {pair[0]} -> {pair[1]}"
        return found

    def plan(self, left_out: Sequence[str]) -> RunPlan:
        """The runs of all methods but these; ValueError for keys that do not fit."""
        return plan_runs(self.compared([name for name in self.methods if name not in left_out]))

    def jobs(self, plan: RunPlan, configs: RunConfigs) -> list[QueuedRun]:
        """The runs that are not complete, seed by seed over all methods."""
        runs = MatchedRuns(self.folder, plan.domain, list(plan.methods), plan.seeds)
        left = [key for key, each in configs.items() if not is_complete(each, runs.path(*key))]
        return [self._job(plan, *key) for key in sorted(left, key=lambda key: plan.seeds.index(key[1]))]

    def likeness_jobs(self, baselines: Sequence[Path]) -> list[QueuedRun]:
        """How alike the blocks of these complete runs are, where nobody asked yet."""
        words = (override("parts", ["cosine"]), override("t", LIKENESS_TIMES), "condition=own", "num=128")
        left = [path for path in baselines if not likeness_file(path).is_file()]
        return [
            QueuedRun(f"{LIKENESS}-{path.name}", path, ("-m", f"eval.{LIKENESS}", override("run", str(path)), *words))
            for path in left
        ]

    def floor_jobs(self, baselines: Sequence[Path]) -> list[QueuedRun]:
        """What the tokenizer of the study's own loses, asked of the first of these complete runs where nobody did."""
        left = [path for path in baselines[:1] if self.network.tokenizer and not floor_file(path).is_file()]
        return [QueuedRun(FLOOR, path, ("-m", f"eval.{FLOOR}", override("run", str(path)))) for path in left]

    def _job(self, plan: RunPlan, method: str, seed: int) -> QueuedRun:
        path = MatchedRuns(self.folder, plan.domain, [method], [seed]).path(method, seed)
        return QueuedRun(path.name, path, ("-m", f"{plan.domain}.train", *plan.arguments(method, seed, self.folder)))

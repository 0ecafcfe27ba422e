"""`python -m eval.choose_pair run=<dir>`: which pair of blocks to align, by what the blocks of a short run hold.

Every block is scored; a pair gains what its strong block scores above its weak one. The pairs keep the paper's rules
(`layersync.pairs`). A hint of where to look: nothing here says that training with the pair helps.

Letters: K blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from core.commands.entry import Entry
from core.precision import Precision
from core.storage.run_folder import RunDirectory
from eval.inside.figures import block_curves
from eval.inside.findings import findings_folder, write_findings
from eval.inside.linear import ProbeOptions
from eval.inside.model import ForwardOptions, TrainedModel, check_times, choose_rows, open_run
from eval.inside.quality import block_scores, label_free, quality
from eval.inside.splits import split_rows
from eval.probe import linear_probe
from layersync.pairs import Pair, check_depth, rank_pairs, rule_pair

NAME = "choose_pair"
Criterion = Literal["agreement", "cknna", "rank", "probe"]


@dataclass(frozen=True, kw_only=True)
class ChooseConfig:
    """The run whose blocks are scored, and how they are; the keys are explained in eval/conf/choose_pair.yaml."""

    run: str
    checkpoint: str | None = None
    weights: str = "ema"
    device: str = "auto"
    precision: Precision = "fp32"
    criteria: list[Criterion]
    t: list[float]
    condition: Literal["unconditional", "requested"] = "unconditional"
    num: int = 256
    neighbours: int = 10
    pairs: int = 5
    data: dict
    heldout: dict | None = None
    num_train: int | None = 2000
    num_heldout: int | None = 1000
    seed: int = 0
    batch_size: int = 64
    probe: ProbeOptions = field(default_factory=ProbeOptions)
    out: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_times(self.t)
        if not self.criteria or len(set(self.criteria)) < len(self.criteria):
            allowed = ", ".join(get_args(Criterion))
            raise ValueError(f"criteria is {self.criteria}; it must name each once, of {allowed}")
        least = {"pairs": 1, "batch_size": 2, "neighbours": 2, "num": max(4, self.neighbours + 1)}
        least |= {"num_train": 1, "num_heldout": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ValueError(f"{name} is {value}; it must be at least {smallest}")

    @property
    def forward(self) -> ForwardOptions:
        """Options of the forward passes."""
        return ForwardOptions(self.seed, self.batch_size, self.condition, self.precision)


def measure(model: TrainedModel, config: ChooseConfig) -> tuple[dict[str, Any], list[str]]:
    """The criteria, each (K,) by time, and what a person is to know of them.

    Raises ValueError where only a probe is asked for and the data have no classes.
    """
    notes, found = [], {}
    if set(config.criteria) - {"probe"}:
        rows = choose_rows(model.domain.dataset, config.num, config.seed)
        found = label_free(model, rows, config.t, config.forward, config.neighbours)
    found = {name: found[name] for name in config.criteria if name in found}
    if "probe" in config.criteria:
        if getattr(model.domain.dataset, "labels", None) is not None:
            split = split_rows(model, config.heldout, config.seed)
            sides = split.train.first(config.num_train), split.heldout.first(config.num_heldout)
            found["probe"] = linear_probe(*sides, config.t, config.forward, config.probe)["accuracy"]
        elif not found:
            raise ValueError("criteria is ['probe'], but the run's data set has no class labels; choose others")
        else:
            notes.append("the data have no classes: no probe")
    if model.alignment.layers:
        notes.append(
            "the run was aligned: its blocks show what that did; a baseline (alignment=none) is the one to ask"
        )
    return found, notes


def recommend(model: TrainedModel, config: ChooseConfig) -> dict[str, Any]:
    """What is measured, each block's quality, and the pairs that gain most, with reasons."""
    check_depth(model.depth, "a pair is to be chosen")
    criteria, notes = measure(model, config)
    scaled, flat = block_scores(criteria)
    scores = quality(scaled, flat)
    notes += [f"{name} hardly differs among the blocks and is left out" for name in flat]
    pairs = [
        {"weak": pair[0], "strong": pair[1], "score": gain, "reasons": _reasons(pair, scaled, flat)}
        for pair, gain in rank_pairs(scores, config.pairs)
    ]
    rule = rule_pair(model.depth)
    weak, strong = rule.pair
    return {
        "criteria": criteria,
        "scaled": scaled,
        "quality": scores,
        "pairs": pairs,
        "rule": {
            "weak": weak,
            "strong": strong,
            "score": scores[strong - 1] - scores[weak - 1],
            "reasons": rule.reasons,
        },
        "notes": notes,
    }


def _reasons(pair: Pair, scaled: dict[str, list[float]], flat: Sequence[str]) -> list[str]:
    """What each criterion says of a pair, scaled to [0, 1] over the blocks."""
    weak, strong = pair
    return [
        f"{name} {values[weak - 1]:.2f} at block {weak}, {values[strong - 1]:.2f} at block {strong}"
        for name, values in scaled.items()
        if name not in flat
    ]


def draw(folder: Path, model: TrainedModel, results: dict[str, Any]) -> Path:
    """The scaled criteria and the quality of every block, and the best pair."""
    best = results["pairs"][0] if results["pairs"] else None
    pair = None if best is None else (best["weak"], best["strong"])
    facts = model.facts
    title = "No pair gains" if pair is None else f"Pair {pair[0]} -> {pair[1]}, score {best['score']:.2f}"
    title += f"\n{facts['run']}, step {facts['step']}, {facts['weights']} weights"
    lines = {**results["scaled"], "quality, their mean": results["quality"]}
    return block_curves(folder / f"{NAME}.png", title, lines, "scaled over the blocks", "quality, their mean", pair)


def report(results: dict[str, Any], domain: str) -> str:
    """The pairs, why, and the words that use the best one."""
    lines = [f"note       {note}" for note in results["notes"]]
    for each in results["pairs"]:
        why = "; ".join(each["reasons"])
        lines.append(f"pair       {each['weak']} -> {each['strong']}, score {each['score']:.3f}: {why}")
    rule = results["rule"]
    lines.append(f"rule       {rule['weak']} -> {rule['strong']}, score {rule['score']:.3f} (alignment.pairs=auto)")
    if not results["pairs"]:
        return "\n".join(
            [*lines, "no pair gains: no block is better than an earlier one; alignment.pairs=auto is the rule's"]
        )
    best = results["pairs"][0]
    words = f"alignment.pairs=[[{best['weak']},{best['strong']}]]"
    methods = "methods=[baseline,layersync,rule_pair,random_pair,adaptive_pair,measured]"
    lines.append(f"use        alignment=layersync {words}")
    lines.append(f"compare    python -m eval.compare {domain} {methods} +cases.measured.{words}")
    return "\n".join(lines)


def main(config: ChooseConfig) -> None:
    """Score every block of a run and recommend pairs for LayerSync.

    Label-free: agreement across two noise draws, CKNNA with the clean latents, effective rank; and a linear probe where
    the data have classes. Writes <run>/inside/choose_pair.json and a figure beside it.
    """
    folder = findings_folder(config.run, config.out, NAME, config.overwrite)
    opened = {"checkpoint": config.checkpoint, "data": config.data}
    model = open_run(config.run, config.weights, config.device, **opened)
    results = recommend(model, config)
    file = write_findings(folder, NAME, model, config, results)
    print(report(results, model.domain.name))
    print(f"numbers    {RunDirectory(file).shown()}")
    print(f"figure     {RunDirectory(draw(folder, model, results)).shown()}")


ENTRY = Entry(main, "eval.conf", NAME, ChooseConfig)

if __name__ == "__main__":
    ENTRY.run()

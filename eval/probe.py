"""`python -m eval.probe run=<dir>`: what a linear map reads from each block's tokens, at each flow time.

The linear probe: accuracy of a logistic regression on mean-pooled tokens. The segmentation probe, for images: mean
intersection over union of a linear classifier of each token. The backbone is given no label.

Letters: K blocks, T times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from core.commands.entry import Entry
from core.precision import Precision
from core.storage.run_folder import RunDirectory
from eval.inside.figures import Range, blocks_by_time
from eval.inside.findings import findings_folder, write_findings
from eval.inside.linear import (
    ProbeOptions,
    accuracy,
    chance_level,
    fit_classes,
    fit_segments,
    mean_iou,
    predict_segments,
)
from eval.inside.masks import count_classes, read_masks
from eval.inside.model import ForwardOptions, TrainedModel, check_times, collect, open_run
from eval.inside.splits import Part, split_rows
from layersync.pairs import rank_pairs

NAME = "probe"


@dataclass(frozen=True)
class MasksConfig:
    """The segmentation probe.

    source       null: none; "foreground": pixels above `threshold`; or a folder of PNG label maps (`eval.inside.masks`)
    threshold    in [-1, 1], on the mean of a pixel's channels
    num_train    images to fit on; the tokens of all blocks are held in memory
    num_heldout  images to measure on
    """

    source: str | None = None
    threshold: float = 0.0
    num_train: int = 256
    num_heldout: int = 128

    def __post_init__(self) -> None:
        if self.num_train < 1 or self.num_heldout < 1:
            raise ValueError(
                f"masks.num_train is {self.num_train}, masks.num_heldout {self.num_heldout}; both must be at least 1"
            )
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"masks.threshold is {self.threshold}; it must lie in [-1, 1], as pixels do")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """The run to probe, and how it is probed.

    run          the run's folder
    checkpoint   weights to use instead of the run's newest
    weights      ema, model, or another average of the checkpoint
    t            flow times, 0 noise to 1 data
    condition    unconditional, or requested: made up without a look at the row. Its own label would be read off
    data         keys of the run's data node to change
    heldout      keys of the data node that give the held-out data set; null: its own split, else a hashed fifth
    num_train    rows to fit on; null: all
    num_heldout  rows to measure on; null: all
    seed         of rows, noise and posterior
    out          output folder; null: <run>/inside
    """

    run: str
    checkpoint: str | None = None
    weights: str = "ema"
    device: str = "auto"
    precision: Precision = "fp32"
    t: list[float]
    condition: Literal["unconditional", "requested"] = "unconditional"
    data: dict
    heldout: dict | None = None
    num_train: int | None = 10000
    num_heldout: int | None = 5000
    seed: int = 0
    batch_size: int = 64
    probe: ProbeOptions = field(default_factory=ProbeOptions)
    masks: MasksConfig = field(default_factory=MasksConfig)
    out: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_times(self.t)
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        for name in ("num_train", "num_heldout"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1, or null for all rows")

    @property
    def forward(self) -> ForwardOptions:
        """Options of the forward passes."""
        return ForwardOptions(self.seed, self.batch_size, self.condition, self.precision)


def with_other_noise(forward: ForwardOptions) -> ForwardOptions:
    """The options for held-out rows: row i of one data set and row i of another share no noise."""
    return replace(forward, seed=forward.seed + 1)


def linear_probe(
    train: Part, heldout: Part, times: Sequence[float], forward: ForwardOptions, options: ProbeOptions
) -> dict[str, Any]:
    """Held-out and training accuracy (K,) of every block at each time, and the level of chance.

    Raises ValueError for data without class labels.
    """
    labels, heldout_labels = train.labels(), heldout.labels()
    num_classes = len(train.model.domain.dataset.class_names)
    device = train.model.device
    results: dict[str, Any] = {"accuracy": {}, "train_accuracy": {}, "chance": chance_level(labels, heldout_labels)}
    for t in tqdm(times, desc="linear probe", unit="time"):
        features, _ = collect(train.model, train.rows, t, forward)
        unseen, _ = collect(heldout.model, heldout.rows, t, with_other_noise(forward))
        scores = []
        for seen, new in zip(features, unseen, strict=True):
            fitted = fit_classes(seen.to(device), labels.to(device), num_classes, options)
            sides = ((new, heldout_labels), (seen, labels))
            scores.append([accuracy(fitted, x.to(device), y.to(device)) for x, y in sides])
        results["accuracy"][float(t)], results["train_accuracy"][float(t)] = torch.tensor(scores).T.unbind()
    return {**results, "num_train": len(labels), "num_heldout": len(heldout_labels), "num_classes": num_classes}


def segmentation_probe(
    train: Part,
    heldout: Part,
    masks: tuple[Tensor, Tensor],
    times: Sequence[float],
    forward: ForwardOptions,
    options: ProbeOptions,
) -> dict[str, Any]:
    """Held-out mean IoU (K,) of every block at each time, for masks (n, Y, X) or (n, F, Y, X) of both sides.

    `chance` is the mean IoU of saying the most frequent label everywhere.
    """
    seen_masks, new_masks = (each.to(train.model.device) for each in masks)
    num_classes, grid = count_classes(*masks), train.model.grid
    frequent = seen_masks[seen_masks < num_classes].mode().values
    results: dict[str, Any] = {"miou": {}, "chance": mean_iou(frequent.expand_as(new_masks), new_masks, num_classes)}
    for t in tqdm(times, desc="segmentation probe", unit="time"):
        tokens, _ = collect(train.model, train.rows, t, forward, pooled=False)
        unseen, _ = collect(heldout.model, heldout.rows, t, with_other_noise(forward), pooled=False)
        scores = []
        for seen, new in zip(tokens, unseen, strict=True):
            fitted = fit_segments(seen.to(seen_masks.device), grid, seen_masks, num_classes, options)
            predicted = predict_segments(fitted, new.to(seen_masks.device), grid, tuple(new_masks.shape[1:]))
            scores.append(mean_iou(predicted, new_masks, num_classes))
        results["miou"][float(t)] = torch.tensor(scores)
    return {**results, "num_train": len(seen_masks), "num_heldout": len(new_masks), "num_classes": num_classes}


def candidate_pairs(scores: Sequence[float], count: int = 5) -> list[dict[str, float]]:
    """Pairs (weak, strong) whose strong block is read best above its weak one, by the rules of the paper, section 3.4.

    The strong block is not among the last fifth, the weak one in the first half, and they are at least 8 / 28 of the
    depth apart, as in SiT-XL. For each weak block its best partner, the largest gain first. A hint of where to look:
    nothing here says that training with the pair helps.
    """
    return [{"weak": weak, "strong": strong, "gain": gain} for (weak, strong), gain in rank_pairs(scores, count)]


def masks_of(config: ProbeConfig, parts: tuple[Part, Part]) -> tuple[Tensor, Tensor]:
    """The masks of both sides, see `read_masks`; ValueError where there are none, or the media have no pixels."""
    masks, passes = config.masks, (config.forward, with_other_noise(config.forward))
    train, heldout = (
        read_masks(part.model, part.rows, masks.source, masks.threshold, forward).cpu()
        for part, forward in zip(parts, passes, strict=True)
    )
    return train, heldout


def draw(folder: Path, model: TrainedModel, results: dict[str, Any]) -> list[Path]:
    """Figures of what was measured."""
    where = f"{model.facts['run']}, step {model.facts['step']}, {model.facts['weights']} weights"
    linear = results["linear"]
    scale = Range("held-out accuracy", 0.0, 1.0)
    title = f"Linear probe of mean-pooled tokens\n{where}"
    files = [blocks_by_time(folder / "probe_accuracy.png", title, linear["accuracy"], scale, chance=linear["chance"])]
    if "segmentation" in results:
        segments = results["segmentation"]
        scale = Range("held-out mean IoU", 0.0, 1.0)
        title = f"Segmentation probe of the tokens\n{where}"
        path = folder / "probe_segmentation.png"
        files.append(blocks_by_time(path, title, segments["miou"], scale, majority=segments["chance"]))
    return files


def report(results: dict[str, Any]) -> str:
    """Two lines for a person."""
    lines = []
    for name, key in (("linear", "accuracy"), ("segmentation", "miou")):
        if name in results:
            values, chance = results[name][key], results[name]["chance"]
            t, best = max(((t, each.max().item()) for t, each in values.items()), key=lambda item: item[1])
            block = int(values[t].argmax()) + 1
            lines.append(f"{key:<10} {best:.3f} at best, block {block} at t = {t:g} (chance {chance:.3f})")
    return "\n".join(lines)


def main(config: ProbeConfig) -> None:
    """Fit linear probes on every block of a run: class accuracy, and with masks.source a segmentation of the pixels.

    masks.source=foreground needs no files. Writes <run>/inside/probe.json and figures beside it.
    """
    folder = findings_folder(config.run, config.out, NAME, config.overwrite)
    opened = {"checkpoint": config.checkpoint, "data": config.data}
    model = open_run(config.run, config.weights, config.device, **opened)
    split = split_rows(model, config.heldout, config.seed)
    sides = split.train.first(config.num_train), split.heldout.first(config.num_heldout)
    segmented = split.train.first(config.masks.num_train), split.heldout.first(config.masks.num_heldout)
    masks = None if config.masks.source is None else masks_of(config, segmented)  # bad ones are refused before the work
    results: dict[str, Any] = {"split": split.kind}
    results["linear"] = linear_probe(*sides, config.t, config.forward, config.probe)
    mean = torch.stack(list(results["linear"]["accuracy"].values())).mean(0).tolist()
    results["linear"]["candidate_pairs"] = candidate_pairs(mean)
    if masks is not None:
        results["segmentation"] = segmentation_probe(*segmented, masks, config.t, config.forward, config.probe)
    file = write_findings(folder, NAME, model, config, results)
    print(report(results))
    print(f"numbers    {RunDirectory(file).shown()}")
    for figure in draw(folder, model, results):
        print(f"figure     {RunDirectory(figure).shown()}")


ENTRY = Entry(main, "eval.conf", NAME, ProbeConfig)

if __name__ == "__main__":
    ENTRY.run()

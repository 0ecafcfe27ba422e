"""A toy domain for the machinery of evaluation: waves of different length in .npy files, looked at window by window."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.storage.arrays import npz_keys
from core.storage.provenance import json_sha256
from eval.measure.command import run_evaluation
from eval.measure.evaluation import EvaluateConfig, Evaluation
from eval.measure.extractor import Extractor
from eval.measure.media import Media
from eval.measure.metrics import ClassAccuracy, FrechetDistance, KernelDistance, NeighbourPrecision, NeighbourRecall
from eval.measure.reference import FACTS, MediaReference, StatisticsReference
from eval.measure.table import Table

WINDOW = 8


class Waves(Media):
    """Files in the order of their names, or what a seed draws of them; one that is called ...-k.npy is of class k."""

    kind, unit = "folder", "wave"

    def __init__(self, folder, drawn=None, seed=0):
        self.name, self.paths = folder.name, sorted(folder.glob("*.npy"))
        if drawn is not None:
            self.paths = list(np.random.default_rng(seed).choice(self.paths, drawn, replace=False))
        if not self.paths:
            raise ValueError(f"{folder} holds no wave")
        if all("-" in path.stem for path in self.paths):
            self.labels = torch.tensor([int(path.stem.split("-")[1]) for path in self.paths])

    def __len__(self):
        return len(self.paths)

    def rows(self, first, last):
        return [torch.from_numpy(np.load(path)) for path in self.paths[first:last]]

    @property
    def sha256(self):
        return "0" * 64 if len(self.paths) > 9 else json_sha256([path.name for path in self.paths])


class Windows(Extractor):
    """Mean and deviation of each window; and one row of logits for each wave, the class that its mean is nearest to."""

    name, main, preprocessing, weights_sha256, takes_floats = "windows", "moves", "none", "1" * 64, True

    def __call__(self, rows):
        cut = [row.unfold(0, WINDOW, WINDOW) for row in rows]
        moves = torch.cat([torch.stack([each.mean(1), each.std(1)], 1) for each in cut])
        means = torch.stack([row.mean() for row in rows])
        return {"moves": moves, "logits": -(means[:, None] - torch.arange(3)).abs()}


ANY = ("windows",)
LABELS = "names that end in the class"
TABLE = Table(
    (
        FrechetDistance("distance", ANY),
        NeighbourPrecision("precision", ANY, k=2),
        NeighbourRecall("recall", ANY, k=2),
        KernelDistance("kid", ANY, subsets=3, size=4),
        ClassAccuracy("class_accuracy", ANY, "logits", labels_from=LABELS),
        ClassAccuracy("window_accuracy", ANY, labels_from=LABELS),  # of an extractor's rows that are no samples
    ),
    {"windows": ("distance", "class_accuracy")},
    unit="wave",
)


@dataclass(frozen=True, kw_only=True)
class WavesConfig(EvaluateConfig):
    """The reference is what `real` names, below `root`; of its waves, as many as are `drawn`."""

    real: str | None = None
    drawn: int | None = None
    root: Path


class WavesEvaluation(Evaluation):
    """Waves that are given."""

    table, key, num = TABLE, "real", 0

    @property
    def extractor_name(self):
        self.config.check_target("real", self.config.real, "a folder of waves")
        return self.config.features or "windows"

    def sampling(self, num, model=None):
        raise AssertionError("none are made")

    def extractor(self, name, device):
        return Windows()

    def open_reference(self):
        path = self.config.root / self.config.real
        if path.suffix == ".npz" and FACTS in npz_keys(path):
            return StatisticsReference(path, "wave", "real")
        return MediaReference(Waves(path, self.config.drawn, self.config.seed), None)

    def open_samples(self, path):
        return Waves(path)


def measure_waves(root, **keys):
    """What the command shows, a line each; paths are below `root`."""
    config, shown = WavesConfig(device="cpu", feature_batch_size=3, root=root, **keys), []
    run_evaluation(config, WavesEvaluation(config), shown.append)
    return shown


def save_waves(folder, count, seed=0, labelled=False):
    """Waves of one to four windows, with the mean of their class 0, 1 or 2; the folder."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        label = number % 3
        wave = label + 0.1 * rng.normal(size=WINDOW * (1 + number % 4))
        np.save(folder / f"{number:03d}{f'-{label}' if labelled else ''}.npy", wave.astype(np.float32))
    return folder


def windows_of(folder):
    """All windows' features (n', 2) of the waves in a folder, by hand."""
    cut = [np.load(path).reshape(-1, WINDOW) for path in sorted(folder.glob("*.npy"))]
    return np.concatenate([np.stack([each.mean(1), each.std(1, ddof=1)], 1) for each in cut])

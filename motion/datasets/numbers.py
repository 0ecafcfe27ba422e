"""Mean and deviation of the numbers of a folder's clips: those that came with it, or measured.

Letters: F frames, C numbers of a frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.storage.arrays import read_array
from motion.body.features import slices
from motion.body.representations import Representation
from motion.body.skeleton import Skeleton
from motion.body.statistics import EVALUATOR_FACTOR, Statistics, check_statistics, statistics

MEAN_FILE, STD_FILE = "Mean.npy", "Std.npy"
LOOKED_AT, MEASURED = 16, 512  # clips, evenly spread
FARTHEST = 10.0  # what a normalised number may be, in the root of the mean square over frames of a block


def read_statistics(root: Path, skeleton: Skeleton) -> Statistics:
    """Mean.npy and Std.npy of a folder, of all numbers of a frame; ValueError, naming the file, for wrong ones."""
    files = root / MEAN_FILE, root / STD_FILE
    mean, std = (torch.from_numpy(_numbers(file)) for file in files)
    return check_statistics(mean, std, skeleton, names=(str(files[0]), str(files[1])))


def of_representation(
    found: Statistics, kind: Representation, skeleton: Skeleton, clips: Iterable[Tensor]
) -> Statistics:
    """Mean and deviation (C,) of a representation: the beginning of the published ones, else measured from `clips`.

    clips: rows (F, C) of that representation; looked at for absolute joints alone.
    """
    if kind.blocks:
        return Statistics(found.mean[: kind.size(skeleton)], found.std[: kind.size(skeleton)])
    return statistics(clips, kind, skeleton)


def check_fits(found: Statistics, clips: Iterable[Tensor], skeleton: Skeleton, root: Path) -> None:
    """Raises ValueError where rows (F, C) of clips are far from what the statistics of a folder say."""
    rows = found.normalise(torch.cat(list(clips)))
    for name, place in slices(skeleton).items():
        size = float(rows[:, place].square().mean().sqrt())
        if size > FARTHEST:
            raise ValueError(
                f"{root / MEAN_FILE} and {STD_FILE} are of other clips than those in {root}: normalised by them the "
                f"block {name!r} of {LOOKED_AT} clips has a size of {size:.1f} where 1 is usual, and at most "
                f"{FARTHEST:g} allowed (the evaluator's are {EVALUATOR_FACTOR:g} times too small at root and contacts)"
            )


def spread(count: int, most: int) -> Sequence[int]:
    """At most `most` rows of `count`, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def _numbers(file: Path) -> np.ndarray:
    array = read_array(file)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{file} holds {array.dtype}; needed: numbers")
    return array.astype(np.float32)

"""The mean and deviation that an evaluator was trained on, and what tells them from those of the data.

The published pair of HumanML3D and of KIT-ML has deviations that are 25 times too small for the root and the contacts
(a factor of 5 was applied twice): the evaluator was trained that way and knows no other. Whoever measures with the
data's own Mean.npy and Std.npy gets other numbers, and no error.

Letters: F frames, C numbers of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.storage.arrays import read_array
from core.storage.atomic import sha256_file
from core.storage.provenance import json_sha256
from motion.body.skeleton import Skeleton

FACTOR = 25.0
NEAR = 1.6  # a deviation's ratio to what it should be, either way: contacts of other data have other shares


@dataclass(frozen=True)
class EvaluatorStatistics:
    """Mean (C,) and deviation (C,) float32, and the SHA-256 over both files."""

    mean: Tensor
    std: Tensor
    sha256: str

    @classmethod
    def read(cls, mean: Path, std: Path, skeleton: Skeleton, numbers: int) -> EvaluatorStatistics:
        """From two files; ValueError, naming one, for a damaged one, other numbers, or those of the data."""
        values = [_vector(path, numbers) for path in (mean, std)]
        if not (values[1] > 0).all():
            raise ValueError(f"{std} holds deviations that are not above 0")
        if numbers == skeleton.size:
            check_evaluators(*values, skeleton, std)
        return cls(*map(torch.from_numpy, values), json_sha256([sha256_file(path) for path in (mean, std)]))

    def normalise(self, rows: Tensor) -> Tensor:
        """Rows (F, C) in their own units -> as the evaluator takes them."""
        return (rows - self.mean) / self.std


def check_evaluators(mean: np.ndarray, std: np.ndarray, skeleton: Skeleton, path: Path) -> None:
    """Raises ValueError for the statistics of the data in the place of the evaluator's."""
    factor = contact_factor(mean, std)
    if factor is not None and factor < FACTOR / NEAR:
        raise ValueError(
            f"{path} is the deviation of data, or divided by another factor: its contacts are {factor:.3g} times too small "
            f"for their mean; those of the published evaluators are {FACTOR:g} times too small. Needed: the files that "
            "were published with the evaluator (t2m_mean.npy, t2m_std.npy), not Mean.npy and Std.npy"
        )


def contact_factor(mean: np.ndarray, std: np.ndarray) -> float | None:
    """How many times smaller the deviation of the contacts is than that of numbers 0 and 1 with their mean.

    1 for the data's own statistics, 25 for the evaluators'. None where a contact's mean is no share.
    """
    shares = mean[-4:].astype(np.float64)
    if not ((shares > 0) & (shares < 1)).all():
        return None
    return float(np.sqrt(shares * (1 - shares)).mean() / std[-4:].astype(np.float64).mean())


def _vector(path: Path, numbers: int) -> np.ndarray:
    array = read_array(path)
    if array.shape != (numbers,) or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(f"{path} holds {array.dtype} {array.shape}; needed: {numbers} finite numbers, one a column")
    return array.astype(np.float32)

"""The mean and deviation that an evaluator was trained on, from the files that were published with it.

They are not those of the data: those of HumanML3D and of KIT-ML are 25 times smaller for the root and the contacts.
`motion.body.statistics` tells the two apart.

Letters: F frames, C numbers of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.storage.arrays import read_array
from core.storage.atomic import sha256_file
from core.storage.provenance import json_sha256
from motion.body.skeleton import Skeleton
from motion.body.statistics import Statistics, check_statistics


@dataclass(frozen=True)
class EvaluatorStatistics:
    """Mean and deviation of each number of a frame, and the SHA-256 over both files."""

    values: Statistics
    sha256: str

    @classmethod
    def read(cls, mean: Path, std: Path, skeleton: Skeleton, representation: str) -> EvaluatorStatistics:
        """From two files; ValueError, naming one, for a damaged one, other numbers, or those of the data."""
        values = [_vector(path) for path in (mean, std)]
        checked = check_statistics(*values, skeleton, "evaluator", representation, (str(mean), str(std)))
        return cls(checked, json_sha256([sha256_file(path) for path in (mean, std)]))

    def normalise(self, rows: Tensor) -> Tensor:
        """Rows (F, C) in their own units -> as the evaluator takes them."""
        return self.values.normalise(rows)


def _vector(path: Path) -> Tensor:
    array = read_array(path)
    if array.dtype.kind != "f":
        raise ValueError(f"{path} holds {array.dtype}; needed: floating-point numbers")
    return torch.from_numpy(array.astype("float32"))

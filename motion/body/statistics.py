"""Mean and deviation of the numbers of a frame, averaged as published, and the check that a file holds the right ones.

Letters: F frames, C numbers of a frame.

The published files come in two kinds of the same shape. `Mean.npy` and `Std.npy` of the data set are what models are
trained with. The evaluators' own have the deviations of root and contacts divided by 5, twice: normalised with the
data set's, these numbers are 25 times too small for the evaluator, and scores are wrong without any error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from motion.body.features import check_rows, slices
from motion.body.representations import REPRESENTATIONS, Representation
from motion.body.skeleton import SKELETONS, Skeleton

Kind = Literal["model", "evaluator"]
EVALUATOR_FACTOR = 25.0
WORDS = {
    "model": "the data set's own, with which models are trained (Mean.npy, Std.npy)",
    "evaluator": "the evaluator's (Comp_v6_KLD01/meta or t2m_mean.npy, t2m_std.npy; of KIT-ML Comp_v6_KLD005/meta)",
}


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of each number of a frame, float32 (C,)."""

    mean: Tensor
    std: Tensor

    def normalise(self, rows: Tensor) -> Tensor:
        """Rows (..., C) brought to mean 0 and deviation 1."""
        return (rows - self.mean.to(rows)) / self.std.to(rows)

    def denormalise(self, rows: Tensor) -> Tensor:
        """Rows (..., C) in their own units again."""
        return rows * self.std.to(rows) + self.mean.to(rows)


def statistics(clips: Iterable[Tensor], representation: Representation, skeleton: Skeleton) -> Statistics:
    """The statistics of the rows (F, C) of clips, each frame with the same weight: population deviations.

    The deviations of a block are replaced by their mean, as published; of absolute joints x, y and z are the blocks.
    A block that never changes has deviation 1. ValueError without a frame, and for numbers that are not finite.
    """
    size = representation.size(skeleton)
    first = second = torch.zeros(size, dtype=torch.float64)
    count, origin = 0, None  # sums are taken about the first row: squares of large means cancel badly
    for number, rows in enumerate(clips):
        check_rows(rows, size, f"clip {number}")
        origin = rows[0].double() if origin is None else origin
        moved = rows.double() - origin
        if not bool(moved.isfinite().all()):
            raise ValueError(f"clip {number} has numbers that are NaN or infinite; statistics cannot be taken")
        first, second, count = first + moved.sum(0), second + moved.square().sum(0), count + len(rows)
    if origin is None:
        raise ValueError("statistics need at least one clip; there is none")
    mean = first / count
    std = averaged((second / count - mean.square()).clamp_min(0).sqrt(), representation, skeleton)
    return Statistics((mean + origin).float(), std.float())


def averaged(std: Tensor, representation: Representation, skeleton: Skeleton) -> Tensor:
    """Deviations (C,) with each block's replaced by their mean; 1 where that is 0."""
    std = std.clone()
    axes = {axis: slice(axis, None, 3) for axis in range(3)}
    blocks = representation.slices(skeleton) if representation.blocks else axes
    for block in blocks.values():
        mean = std[block].mean()
        std[block] = mean if mean > 0 else 1.0
    return std


def check_statistics(
    mean: Tensor,
    std: Tensor,
    skeleton: Skeleton,
    kind: Kind = "model",
    representation: str = "full",
    names: tuple[str, str] = ("Mean.npy", "Std.npy"),
) -> Statistics:
    """Mean and deviation (C,) as read from the files `names`; ValueError, in one line, if they are not those needed.

    Refused are another size (another data set or representation), NaN, deviations that are not above 0, and, for full
    rows, the evaluator's statistics where the data set's are needed, and the other way round.
    """
    size = REPRESENTATIONS[representation].size(skeleton)
    for values, name in zip((mean, std), names, strict=True):
        if tuple(values.shape) != (size,):
            raise ValueError(
                f"{name} has shape {tuple(values.shape)}{_owner(values)}; {size} numbers are needed for representation "
                f"{representation!r} of skeleton {skeleton.name!r}"
            )
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} has {int((~values.isfinite()).sum())} numbers that are NaN or infinite")
    if not bool((std > 0).all()):
        where = int((std <= 0).nonzero()[0])
        raise ValueError(f"{names[1]} is {float(std[where]):g} at number {where}; deviations are above 0")
    found = kind_of(mean, std, skeleton) if representation == "full" else None
    if found not in (None, kind):
        raise ValueError(
            f"{names[1]} holds {WORDS[found]}; needed here: {WORDS[kind]}. They differ {EVALUATOR_FACTOR:g} times at "
            "root and contacts"
        )
    return Statistics(mean.float(), std.float())


def kind_of(mean: Tensor, std: Tensor, skeleton: Skeleton) -> Kind | None:
    """Whose statistics of full rows these are; None where the numbers do not say.

    A contact is 0 or 1, so that its mean p gives its deviation, sqrt(p (1 - p)); the evaluator's is 25 times smaller.
    """
    place = slices(skeleton)["contacts"]
    shares = mean[place].double()
    if bool(((shares < 0) | (shares > 1)).any()):
        return None
    expected = float((shares * (1 - shares)).sqrt().mean())
    factor = expected / float(std[place].double().mean())
    if not 0.5 < factor < 2 * EVALUATOR_FACTOR:
        return None
    return "model" if factor < 2 else "evaluator" if factor > EVALUATOR_FACTOR / 2 else None


def _owner(values: Tensor) -> str:
    """To which data sets and representations so many numbers belong, in words."""
    owners = [
        f"representation {name!r} of skeleton {skeleton.name!r}"
        for skeleton in SKELETONS.values()
        for name, kind in REPRESENTATIONS.items()
        if tuple(values.shape) == (kind.size(skeleton),)
    ]
    return f", which is {' or '.join(owners)}" if owners else ""

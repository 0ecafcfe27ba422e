"""What differs from clip to clip: named numbers, each a function of the clip alone, for many clips at once.

Letters: n clips.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.draws import numpy_rng

WIDTH = 48  # numbers that a clip may draw


class Chance:
    """Uniform numbers (n, WIDTH) in [0, 1), handed out column by column.

    So row i of all that is drawn depends on clip i alone, whatever clips are made beside it.
    """

    def __init__(self, numbers: np.ndarray):
        self._numbers, self._next = numbers, 0

    @classmethod
    def of(cls, split: str, rows: Sequence[int]) -> Chance:
        """The numbers of clips of a split."""
        return cls(np.stack([numpy_rng("moves", split, row).random(WIDTH) for row in rows]))

    def __len__(self) -> int:
        return len(self._numbers)

    def uniform(self, low: float | np.ndarray = 0.0, high: float | np.ndarray = 1.0) -> np.ndarray:
        """Numbers (n,) from `low` to `high`, each a number or (n,)."""
        column = self._numbers[:, self._next]
        self._next += 1
        return low + (high - low) * column

    def choice(self, shares: Sequence[float]) -> np.ndarray:
        """Numbers (n,) from 0 to len(shares) - 1, as often as their shares."""
        edges = np.cumsum(shares) / np.sum(shares)
        return np.minimum(np.searchsorted(edges, self.uniform(), side="right"), len(shares) - 1)

    def maybe(self, share: float = 0.5) -> np.ndarray:
        """Truth values (n,), true as often as `share`."""
        return self.uniform() < share

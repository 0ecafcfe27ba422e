"""Real motion that samples are compared with: clips of a data set, drawn as the published evaluation draws them.

A draw is a function of a seed: for each clip a window of a multiple of 4 frames, one in three a unit shorter than it
could be, and one of its captions. The published numbers of real motion are those of one draw against another.

Letters: n clips, F frames, C numbers of a frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from core.data.captions import composed
from core.draws import numpy_rng
from eval.measure.reference import MediaReference
from motion.body.representations import REPRESENTATIONS
from motion.datasets.clips import random_window
from motion.encoders.published import LONGEST
from motion.measured.clips import Clip, Clips

FULL = "full"


class RealMotion:
    """The clips of a data set in the format of HumanML3D, and what is known of their captions.

    dataset  `motion.datasets.humanml3d.HumanML3D`
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self.name = f"{dataset.root.name}, {dataset.config.split}"
        self._tokens = dict(zip(reversed(dataset.captions), reversed(dataset.tokens), strict=True))

    def __len__(self) -> int:
        return len(self.dataset)

    def tokens(self, caption: str) -> Sequence[str] | None:
        """The words of a caption with their parts of speech; None for one that is not in the data."""
        return self._tokens.get(composed(caption.strip()))

    def draw(self, *parts: int | str) -> list[Drawn]:
        """A window and a caption of each clip, a function of `parts`."""
        rows, rng = self.dataset.caption_rows, numpy_rng("real motion", *parts)
        found = []
        for index in range(len(self)):
            first, frames = random_window(self.dataset.frames_of(index), LONGEST, rng)
            caption = self.dataset.captions[int(rng.integers(rows[index], rows[index + 1]))]
            found.append(Drawn(index, first, frames, caption))
        return found

    @cached_property
    def sha256(self) -> str:
        """The SHA-256, hex, over the numbers and the captions of all clips."""
        total = hashlib.sha256()
        for index in range(len(self)):
            total.update(self.dataset.rows(index, REPRESENTATIONS[FULL]).numpy().tobytes())
        total.update("\0".join(self.dataset.captions).encode())
        return total.hexdigest()


@dataclass(frozen=True)
class Drawn:
    """A window of a clip, and the caption that was drawn for it."""

    index: int
    first: int
    frames: int
    caption: str


class DrawnClips(Clips):
    """A draw of real motion."""

    kind, representation = "data set", FULL

    def __init__(self, real: RealMotion, draws: Sequence[Drawn]):
        self.real, self.draws, self.name = real, list(draws), real.name
        self.skeleton = real.dataset.skeleton
        self.texts = [each.caption for each in self.draws]

    def __len__(self) -> int:
        return len(self.draws)

    def rows(self, first: int, last: int) -> list[Clip]:
        """The windows, as they are in the files."""
        found = []
        for each in self.draws[first:last]:
            rows = self.real.dataset.rows(each.index, REPRESENTATIONS[FULL])
            found.append(Clip(rows[each.first : each.first + each.frames], FULL, self.skeleton))
        return found

    @property
    def sha256(self) -> str:
        """That of all that windows are drawn from."""
        return self.real.sha256

    def facts(self) -> dict[str, Any]:
        """The split, how many clips are used, and what was left out, too."""
        return {**super().facts(), **self.real.dataset.facts()}


class RealReference(MediaReference):
    """A draw of real motion to compare with; its facts do not depend on the draw."""

    def __init__(self, real: RealMotion, seed: int | str):
        super().__init__(DrawnClips(real, real.draw(seed, "reference")), None)
        self.seed = seed

    def identity(self) -> dict[str, Any]:
        """Which draw it is, too."""
        return {**self.facts(), "seed": self.seed}

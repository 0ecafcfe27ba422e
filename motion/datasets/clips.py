"""Which clips a motion gives, and which window of one is an item: the rules of the published data sets.

Letters: F frames.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from motion.datasets.texts import Description

UNIT = 4  # frames; the length of an item is a multiple
SHORTER = 3  # one of so many items is a unit shorter than it could be


@dataclass(frozen=True)
class Clip:
    """Some rows of a file, and the captions that are about them.

    name           the motion's, with a letter before it where the clip is a part of it: A_000021
    file           which of the files
    first, frames  the rows
    """

    name: str
    file: int
    first: int
    frames: int
    descriptions: list[Description]


@dataclass
class ClipRules:
    """Which lengths are taken: least <= F < longest. What is not is counted.

    left_out  how many motions and parts of motions were left out, by the reason
    """

    fps: float
    least: int
    longest: int
    left_out: Counter = field(default_factory=Counter)

    def fits(self, frames: int, what: str) -> bool:
        """Whether `what` of so many frames is taken."""
        if frames < self.least:
            self.left_out[f"short {what}"] += 1
        elif frames >= self.longest:
            self.left_out[f"long {what}"] += 1
        else:
            return True
        return False

    def clips(self, name: str, file: int, frames: int, descriptions: Sequence[Description]) -> Iterator[Clip]:
        """The clips of a motion: the whole, where a caption is about it, and a part for each caption about one."""
        if not self.fits(frames, "motions"):
            return
        whole = [each for each in descriptions if each.whole]
        if whole:
            yield Clip(name, file, 0, frames, whole)
        prefixes = _prefixes()
        for each in descriptions:
            if not each.whole:
                first, count = each.rows(self.fps, frames)
                if self.fits(count, "parts"):
                    yield Clip(f"{next(prefixes)}_{name}", file, first, count, [each])


def _prefixes() -> Iterator[str]:
    """A, B, ... Z, AA, BB, ..."""
    for times in range(1, 1000):
        yield from (letter * times for letter in string.ascii_uppercase)


def whole_units(frames: int, most: int) -> int:
    """The longest item of a clip of that many frames: a multiple of `UNIT`, `most` at most."""
    return min(frames, most) // UNIT * UNIT


def random_window(frames: int, most: int, rng: np.random.Generator) -> tuple[int, int]:
    """First frame and length of a random item of a clip: whole units, one in three a unit shorter, anywhere in it."""
    length = whole_units(frames, most)
    if rng.integers(SHORTER) == 0 and length > UNIT:
        length -= UNIT
    return int(rng.integers(frames - length + 1)), length

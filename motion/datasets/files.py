"""Files of motions: rows of numbers, one a frame, in an .npy; what they hold, and some rows of one.

Letters: F frames (rows), C numbers of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.data.index import MediaKind
from core.storage.arrays import map_array, read_array

SUFFIX = ".npy"
FLOATS = ("<f4", "<f8", "<f2")  # how numbers may be stored
MAX_FRAMES, MAX_NUMBERS = 2**24, 2**16  # both above what any motion has


@dataclass(frozen=True)
class MotionFacts:
    """What is known of a file before it is read; ValueError for numbers that none has.

    frames   F
    numbers  C
    finite   1 where every number is finite
    offset   bytes before the first number
    floats   which of `FLOATS` they are
    columns  1 where they are stored column by column, 0: frame by frame
    """

    frames: int
    numbers: int
    finite: int
    offset: int
    floats: int
    columns: int

    def __post_init__(self) -> None:
        if not (0 <= self.frames <= MAX_FRAMES and 1 <= self.numbers <= MAX_NUMBERS and self.finite in (0, 1)):
            raise ValueError(f"it holds {self.frames} frames of {self.numbers} numbers, as no motion does")
        if self.offset < 0 or not 0 <= self.floats < len(FLOATS) or self.columns not in (0, 1):
            raise ValueError("its facts are not those of a motion")


def probe(path: Path) -> MotionFacts:
    """The facts of a file, which is read whole once; ValueError, naming it, for what is no array (F, C) of floats."""
    try:
        array = map_array(path)
    except ValueError as error:
        raise ValueError(f"motion file {error}") from error
    if array.ndim != 2 or array.dtype.str not in FLOATS:
        raise ValueError(f"motion file {path} holds {array.dtype} {array.shape}; needed: floats (frames, numbers)")
    columns = int(not array.flags.c_contiguous)
    offset = path.stat().st_size - array.nbytes
    return MotionFacts(*array.shape, int(np.isfinite(array).all()), offset, FLOATS.index(array.dtype.str), columns)


MOTION = MediaKind("motion", (SUFFIX,), MotionFacts, probe)


def read_rows(path: Path, facts: MotionFacts, first: int, count: int) -> np.ndarray:
    """Rows first <= row < first + count of a file, (count, C) float32.

    ValueError, naming the file, for one that has changed since it was looked at.
    """
    if facts.columns:
        return np.ascontiguousarray(read_array(path)[first : first + count], np.float32)
    stored = np.dtype(FLOATS[facts.floats])
    rows = np.empty((count, facts.numbers), stored)
    with path.open("rb", buffering=0) as file:
        file.seek(facts.offset + first * facts.numbers * stored.itemsize)
        found = file.readinto(memoryview(rows).cast("B")) if rows.size else 0
    if found < rows.nbytes:
        raise ValueError(f"{path} has changed: it held {facts.frames} frames when the run began, and now holds fewer")
    return rows.astype(np.float32, copy=False)

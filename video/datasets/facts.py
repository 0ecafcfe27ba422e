"""What is known of a video file before any clip is read: how many frames, how large, when each is shown.

Letters: F frames of a file, H height, W width in pixels. A tick is the unit of a file's time stamps, seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_FRAMES, MAX_PIXELS = 2**22, 2**26  # of a file, of a frame; both are above what any camera makes in a day
MIN_RATE, MAX_RATE = 0.02, 1000.0  # frames a second

# How the frames of a file are found
COUNTED = 0  # by their number, decoding from the start: they have no time stamps of their own
EVEN = 1  # by time stamps that are those of a constant rate, up to a tick
UNEVEN = 2  # by time stamps that are read from the packets
FOLDER = 3  # images of a folder, in the order of their names

LEAST_TICKS = 4  # from a frame to the next, with which a time stamp that is one off still tells them apart

TRANSPOSED, FLIPPED_X, FLIPPED_Y = 1, 2, 4  # parts of a turn, done in this order


@dataclass(frozen=True)
class VideoFacts:
    """What a file or a folder of frames holds.

    frames              F
    height, width       of a frame as it is shown, pixels
    turn                what a player does to a stored frame: a sum of TRANSPOSED, FLIPPED_X and FLIPPED_Y
    tick_num, tick_den  a tick, as a fraction of a second; 0 in a folder of frames, which tells no time
    first, last         time stamps of the first and the last frame, ticks
    access              COUNTED, EVEN, UNEVEN or FOLDER
    seekable            1 where a frame may be read without decoding all those before it

    Raises ValueError for numbers that no video has.
    """

    frames: int
    height: int
    width: int
    turn: int
    tick_num: int
    tick_den: int
    first: int
    last: int
    access: int
    seekable: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.frames <= MAX_FRAMES:
            raise ValueError(f"it has {self.frames} frames; allowed: 1 to {MAX_FRAMES:,}")
        check_size(self.height, self.width)
        if self.tick_den < 1 or self.tick_num < 0 or self.turn not in range(8) or not 0 <= self.access <= FOLDER:
            raise ValueError("its facts are not those of a video")
        if self.timed and self.frames > 1 and not MIN_RATE <= self.rate <= MAX_RATE:
            raise ValueError(
                f"its time stamps give {self.rate:.3g} frames/s; allowed: {MIN_RATE:g} to {MAX_RATE:g} frames/s"
            )

    @property
    def timed(self) -> bool:
        """Whether it is known when each frame is shown."""
        return self.tick_num > 0

    @property
    def tick(self) -> float:
        """Seconds."""
        return self.tick_num / self.tick_den

    @property
    def interval(self) -> float:
        """From a frame to the next, in ticks, in the mean; a lone frame is shown for one tick."""
        return max(self.last - self.first, 0) / (self.frames - 1) if self.frames > 1 else 1.0

    @property
    def slack(self) -> int:
        """Ticks by which the time stamps of even frames may be off; none where a tick is long beside a frame."""
        return int(self.access == EVEN and self.interval >= LEAST_TICKS)

    @property
    def rate(self) -> float:
        """Frames a second in the mean; 0 where nothing is known, or all have one time stamp."""
        seconds = self.interval * self.tick
        return 1 / seconds if seconds > 0 else 0.0


def check_size(height: int, width: int) -> None:
    """Raises ValueError for a frame of no pixels, or of more than any camera has."""
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"its frames are {width} x {height} pixels; allowed: 1 to {MAX_PIXELS:,} pixels")


def is_even(stamps: np.ndarray) -> bool:
    """Whether ascending time stamps (F,) are those of a constant rate, up to the rounding to a tick."""
    interval = (stamps[-1] - stamps[0]) / max(1, len(stamps) - 1)
    most = 1 if interval >= LEAST_TICKS else 1e-6
    return bool(np.abs(stamps - stamps[0] - np.arange(len(stamps)) * interval).max() <= most)


def turn_of(matrix: np.ndarray | None) -> int:
    """The turn of a display matrix (3, 3), as MP4 has it: x' = a x + c y, y' = b x + d y for its rows (a b), (c d).

    Raises ValueError for one that is no quarter turn and no mirror.
    """
    if matrix is None:
        return 0
    (a, b), (c, d) = np.sign(matrix[:2, :2]).tolist()
    if a and d and not b and not c:
        return FLIPPED_X * (a < 0) + FLIPPED_Y * (d < 0)
    if b and c and not a and not d:
        return TRANSPOSED + FLIPPED_X * (c < 0) + FLIPPED_Y * (b < 0)
    raise ValueError(f"its display matrix is {matrix[:2, :2].tolist()}; allowed: turns by 90 degrees, and mirrors")


def turned(frame: np.ndarray, turn: int) -> np.ndarray:
    """A stored frame (H, W, C) as a player shows it."""
    if turn & TRANSPOSED:
        frame = frame.swapaxes(0, 1)
    if turn & FLIPPED_X:
        frame = frame[:, ::-1]
    if turn & FLIPPED_Y:
        frame = frame[::-1]
    return frame

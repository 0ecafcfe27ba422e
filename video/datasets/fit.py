"""Frames brought to the size of a clip: cropped to its shape or squeezed into it, and resampled with antialias.

Letters: C channels, H height, W width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

FITS, CROPS = ("crop", "squeeze"), ("center", "random")
CENTER = (0.5, 0.5)
MAX_SIDE = 8192


def sides(size: int | list[int]) -> tuple[int, int]:
    """Height and width of data.size; ValueError for one that no clip has."""
    found = tuple(size) if isinstance(size, list) else (size, size)
    if len(found) != 2 or not all(1 <= side <= MAX_SIDE for side in found):
        raise ValueError(f"data.size is {size!r}; allowed: a side, or [height, width], 1 to {MAX_SIDE} pixels each")
    return found


@dataclass(frozen=True)
class Fit:
    """How a frame becomes one of a clip.

    height, width  of the clip, pixels
    channels       3 for RGB, 1 for grey (Rec. 601 luma)
    squeeze        the whole frame, its shape changed; else the largest part of the clip's shape
    place          (down, right) of that part within the frame, 0 to 1
    mirror         left and right swapped
    """

    height: int
    width: int
    channels: int = 3
    squeeze: bool = False
    place: tuple[float, float] = CENTER
    mirror: bool = False

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge of what is taken of a frame, pixels; it begins at a whole pixel."""
        if self.squeeze:
            return 0, 0, width, height
        tall = min(height, width * self.height / self.width)
        wide = min(width, height * self.width / self.height)
        top, left = (
            min(int(room), round(room * place))
            for room, place in zip((height - tall, width - wide), self.place, strict=True)
        )
        return left, top, left + wide, top + tall

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """RGB (H, W, 3) uint8 of any size -> (C, height, width) uint8; bicubic as Pillow has it, with antialias."""
        image = Image.fromarray(np.ascontiguousarray(frame))
        image = image if self.channels == 3 else image.convert("L")
        box = self.box(image.height, image.width)
        image = image.resize((self.width, self.height), Image.Resampling.BICUBIC, box=box)
        pixels = np.atleast_3d(np.asarray(image))
        return np.ascontiguousarray((pixels[:, ::-1] if self.mirror else pixels).transpose(2, 0, 1))

"""Clips that play: each a tile with its caption above; what the colours mean and the time stand below the picture.

Letters: F frames, J joints, H height, W width in pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from core.data.lettering import font, wrapped
from core.data.movies import MAX_SIDE
from motion.body.skeleton import Skeleton
from motion.pictures.camera import View, follow
from motion.pictures.canvas import Canvas, Colour
from motion.pictures.figure import LEGEND, Figure

WIDTH, SCENE = 288, 264  # pixels of a tile, and the height of its picture
LINE, TEXT = 16, 12  # pixels of a line, and of its letters
MOST_LINES = 4  # of a caption
EDGE = 6  # pixels at the sides of words
MAX_COLUMNS = 4
BLACK, GREY = (0, 0, 0), (95, 95, 95)
ENDED = 0.5  # of its contrast keeps a clip that is over, while others go on


class Drawn(Protocol):
    """What draws frame `frame` of a clip (F, J, 3) in metres over what is on a canvas: a skeleton, a mesh."""

    def draw(self, canvas: Canvas, joints: np.ndarray, view: View, frame: int) -> None: ...


def animate(joints: np.ndarray, title: str, figure: Drawn, fps: float, lines: int | None = None) -> np.ndarray:
    """A clip (F, J, 3) in metres as frames (F, H, W, 3) uint8 under its title, in `lines` lines or as many as it needs.

    About two milliseconds a frame for a skeleton.
    """
    title_lines = wrapped(title, WIDTH - 2 * EDGE, MOST_LINES if lines is None else lines, TEXT)
    top = LINE * (len(title_lines) if lines is None else lines) + EDGE
    tile = Image.new("RGB", (WIDTH, top + SCENE + LINE + EDGE), "white")
    write_lines(ImageDraw.Draw(tile), (EDGE, EDGE // 2), title_lines)
    draw_legend(ImageDraw.Draw(tile), EDGE, top + SCENE + 2)
    frames = np.repeat(np.asarray(tile)[None], len(joints), axis=0)
    draw_scenes(joints, range(len(joints)), figure, fps, frames[:, top : top + SCENE])
    for number, frame in enumerate(frames):
        stamp = _seconds(number / fps)
        frame[top + SCENE + 2 : top + SCENE + 2 + len(stamp), -stamp.shape[1] - EDGE : -EDGE] = stamp
    return frames


def draw_scenes(
    joints: np.ndarray, chosen: Sequence[int], figure: Drawn, fps: float, pictures: np.ndarray
) -> np.ndarray:
    """Draw the chosen frames of a clip (F, J, 3) into `pictures` (n, H, W, 3) uint8, all seen at the same scale."""
    height, width = pictures.shape[1:3]
    canvas, view = Canvas(width, height), follow(joints, fps, width, height)
    for picture, number in zip(pictures, chosen, strict=True):
        canvas.clear()
        figure.draw(canvas, joints, view, number)
        picture[:] = canvas.pixels()
    return pictures


def blank(count: int, size: tuple[int, int]) -> np.ndarray:
    """Room for `count` pictures of `size` (W, H): (count, H, W, 3) uint8."""
    return np.empty((count, size[1], size[0], 3), np.uint8)


def grid(clips: Sequence[np.ndarray], titles: Sequence[str], skeleton: Skeleton, fps: float) -> np.ndarray:
    """Clips (F, J, 3) of any lengths side by side, frames (the longest F, H, W, 3): as many as players take.

    A clip that is over stays at its last frame, paler.
    """
    lines = max(len(wrapped(title, WIDTH - 2 * EDGE, MOST_LINES, TEXT)) for title in titles)
    height = LINE * lines + SCENE + LINE + 2 * EDGE
    columns = min(len(clips), MAX_COLUMNS)
    clips = clips[: columns * max(1, MAX_SIDE // height)]
    longest, figure = max(len(clip) for clip in clips), Figure(skeleton)
    page = np.full((longest, -(-len(clips) // columns) * height, columns * WIDTH, 3), 255, np.uint8)
    for place, (clip, title) in enumerate(zip(clips, titles, strict=False)):
        y, x = place // columns * height, place % columns * WIDTH
        page[:, y : y + height, x : x + WIDTH] = _held(animate(clip, title, figure, fps, lines), longest)
    return page


def _held(frames: np.ndarray, length: int) -> np.ndarray:
    """Frames (F, H, W, 3) with the last one, paler, again until there are `length`."""
    paler = (255 - (255 - frames[-1:].astype(np.float32)) * ENDED).astype(np.uint8)
    return np.concatenate([frames, paler.repeat(length - len(frames), axis=0)])


def write_lines(draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str]) -> None:
    """Lines of words from their upper left corner on."""
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * LINE), line, BLACK, font(TEXT))


def draw_legend(draw: ImageDraw.ImageDraw, x: int, y: int) -> int:
    """A square in each side's colour beside its name, from (x, y) on; the x behind them is returned."""
    for name, colour in LEGEND:
        draw.rectangle((x, y + 3, x + 8, y + 11), to_bytes(colour))
        draw.text((x + 12, y), name, GREY, font())
        x += 22 + round(font().getlength(name))
    return x


def to_bytes(colour: Colour) -> tuple[int, ...]:
    """A colour in [0, 1] as three numbers up to 255."""
    return tuple(round(255 * part) for part in colour[:3])


@functools.lru_cache(maxsize=1024)
def _seconds(seconds: float) -> np.ndarray:
    """The time as a picture (H, W, 3)."""
    text = f"{seconds:.2f} s"
    stamp = Image.new("RGB", (round(font().getlength(text)) + 1, LINE), "white")
    ImageDraw.Draw(stamp).text((0, 0), text, GREY, font())
    return np.asarray(stamp)

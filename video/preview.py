"""What a person sees of clips: an MP4 in which all of them play side by side, a contact sheet as PNG, a GIF on request.

Letters: B batch, C channels (1 or 3), F frames, H height, W width in pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor

from core.contracts import Condition, Requests
from core.data.lettering import FONT_SIZE, font, shortened, wrapped
from core.data.movies import MAX_SIDE, check_fps, in_colour, write_gif, write_mp4
from core.data.pixels import to_uint8
from core.storage.atomic import write_atomic
from core.titles import class_titles, numbered, one_of_each_first

MAX_CLIPS = 40  # shown at once
MAX_FRAMES = 16  # of a clip on a contact sheet
SMALLEST_PLAYING, SMALLEST_STILL = 96, 48  # pixels: smaller frames are enlarged by a whole factor
LARGEST_STILL = 192  # pixels: larger frames are shrunk on a contact sheet
MAX_COLUMNS = 8
TITLE_WIDTH = 116  # pixels beside the frames of a contact sheet
GAP, LINE = 2, 14  # pixels
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (110, 110, 110)


class VideoPreview:
    """A contact sheet and an MP4 of some samples.

    class_names  of labels: a sample of label k was asked to be class_names[k]
    fps          frames a second at which clips play
    gif          whether a GIF is written too

    Samples of other conditions (embeddings of texts) go by their number, unless they are given titles.
    """

    def __init__(self, class_names: Sequence[str], fps: float, gif: bool = False):
        check_fps(fps)
        self.class_names, self.fps, self.gif = list(class_names), fps, gif

    def save(
        self,
        media: Tensor,
        condition: Condition | Requests | None,
        path: Path,
        titles: Sequence[str] | None = None,
    ) -> Path:
        """Media (B, C, F, H, W) in [-1, 1] as `path`.png, which is returned, and `path`.mp4.

        Of many samples as many of each title are shown as there is room for.
        """
        return self.save_frames(to_frames(media), condition, path, titles)

    def save_frames(
        self,
        clips: np.ndarray,
        condition: Condition | Requests | None,
        path: Path,
        titles: Sequence[str] | None = None,
    ) -> Path:
        """The same for clips (B, F, H, W, C) uint8."""
        titles = self.titles(condition, len(clips)) if titles is None else list(titles)
        shown = one_of_each_first(titles, MAX_CLIPS)
        clips, titles = [clips[row] for row in shown], [titles[row] for row in shown]
        playing = grid(clips, titles)
        write_mp4(playing, path.with_name(path.name + ".mp4"), self.fps)
        if self.gif:
            write_gif(playing, path.with_name(path.name + ".gif"), self.fps)
        return contact_sheet(clips, titles, path.with_name(path.name + ".png"), self.fps)

    def titles(self, condition: Condition | Requests | None, count: int) -> list[str]:
        """What each of `count` samples was asked to be, in words."""
        condition = None if condition is None else Requests.of(condition).condition
        return class_titles(condition, self.class_names) or numbered(count)


def to_frames(media: Tensor) -> np.ndarray:
    """Media (B, C, F, H, W) in [-1, 1] as frames (B, F, H, W, C) uint8."""
    return rearrange(to_uint8(media.detach().cpu()), "b c f h w -> b f h w c").numpy()


# --- several clips in one picture


def grid(clips: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Clips (F, H, W, C) uint8 of one shape side by side, each over its title, as frames (F, Y, X, 3).

    As many as `MAX_SIDE` pixels of height and width hold, one at least.
    """
    tiles = [_enlarged(in_colour(clip), SMALLEST_PLAYING) for clip in clips]
    frames, height, width = tiles[0].shape[:3]
    step_y, step_x = height + LINE + 2 * GAP, width + 2 * GAP
    columns = max(1, min(len(tiles), MAX_COLUMNS, MAX_SIDE // step_x))
    tiles = tiles[: columns * max(1, MAX_SIDE // step_y)]
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (columns * step_x, rows * step_y), WHITE)
    corners = [(GAP + place // columns * step_y, GAP + place % columns * step_x) for place in range(len(tiles))]
    for (y, x), title in zip(corners, titles, strict=False):
        ImageDraw.Draw(page).text((x, y + height), shortened(title, width), BLACK, font())
    playing = np.repeat(np.asarray(page)[None], frames, axis=0)
    for (y, x), tile in zip(corners, tiles, strict=True):
        playing[:, y : y + height, x : x + width] = tile
    return playing


def contact_sheet(clips: Sequence[np.ndarray], titles: Sequence[str], path: Path, fps: float | None = None) -> Path:
    """A PNG with a row for each clip (F, H, W, C) uint8 and a column for each of its frames, at most 16 of them.

    The title stands beside a row, the frames' numbers over the columns, where all clips have as many.
    """
    content = io.BytesIO()
    draw_sheet(clips, titles, fps).save(content, "PNG")
    return write_atomic(path, content.getvalue())


def draw_sheet(clips: Sequence[np.ndarray], titles: Sequence[str], fps: float | None = None) -> Image.Image:
    """The contact sheet as an image; `fps` is told on it."""
    chosen = [_spread(len(clip)) for clip in clips]
    rows = [_still(in_colour(clip[numbers])) for clip, numbers in zip(clips, chosen, strict=True)]
    width = max(len(row) * (row.shape[2] + GAP) for row in rows)
    height = sum(max(row.shape[1], LINE) + GAP for row in rows)
    page = Image.new("RGB", (TITLE_WIDTH + width, LINE + height + GAP), WHITE)
    draw, step = ImageDraw.Draw(page), rows[0].shape[2] + GAP
    draw.text((GAP, 0), "frame" if fps is None else f"frame, at {fps:.4g} fps", GREY, font())
    if len({len(clip) for clip in clips}) == 1:
        for place, number in enumerate(chosen[0]):
            draw.text((TITLE_WIDTH + place * step, 0), str(number), GREY, font())
    y = LINE
    for row, title in zip(rows, titles, strict=True):
        for place, frame in enumerate(row):
            page.paste(Image.fromarray(frame), (TITLE_WIDTH + place * (row.shape[2] + GAP), y))
        lines = wrapped(title, TITLE_WIDTH - 2 * GAP, max(1, row.shape[1] // LINE))
        draw.multiline_text((GAP, y), "\n".join(lines), BLACK, font(), spacing=LINE - FONT_SIZE - 1)
        y += max(row.shape[1], LINE) + GAP
    return page


def _spread(frames: int) -> list[int]:
    """Numbers of at most MAX_FRAMES frames, from the first to the last."""
    return np.linspace(0, frames - 1, min(MAX_FRAMES, frames)).round().astype(int).tolist()


def _enlarged(frames: np.ndarray, smallest: int) -> np.ndarray:
    """Frames (F, H, W, 3) whose longer side has `smallest` pixels at least, each pixel a square of them."""
    factor = max(1, -(-smallest // max(frames.shape[1:3])))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _still(frames: np.ndarray) -> np.ndarray:
    """Frames (F, H, W, 3) as they stand on a contact sheet."""
    longer = max(frames.shape[1:3])
    if longer <= LARGEST_STILL:
        return _enlarged(frames, SMALLEST_STILL)
    height, width = (max(1, round(side * LARGEST_STILL / longer)) for side in frames.shape[1:3])
    images = [Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS) for frame in frames]
    return np.stack([np.asarray(image) for image in images])

"""What a person sees of clips: an MP4 in which all of them play side by side, a contact sheet as PNG, a GIF on request.

Letters: B batch, C channels (1 or 3), F frames, H height, W width in pixels.
"""

from __future__ import annotations

import functools
import io
import itertools
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from core.contracts import Condition, Requests
from core.data.pixels import to_uint8
from core.storage.atomic import write_atomic, writing
from core.titles import class_titles, numbered, one_of_each_first

if TYPE_CHECKING:
    import av

MAX_CLIPS = 40  # shown at once
MAX_FRAMES = 16  # of a clip on a contact sheet
SMALLEST_PLAYING, SMALLEST_STILL = 96, 48  # pixels: smaller frames are enlarged by a whole factor
LARGEST_STILL = 192  # pixels: larger frames are shrunk on a contact sheet
MAX_SIDE = 2048  # pixels of an MP4 of several clips: as many as fit; players stop at about twice that
MAX_FPS = 1000.0
MAX_COLUMNS = 8
TITLE_WIDTH = 116  # pixels beside the frames of a contact sheet
GAP, LINE, FONT_SIZE = 2, 14, 11  # pixels
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (110, 110, 110)
# With mbtree, its default, x264 gives equal frames unequal bytes now and then.
QUALITY = {"crf": "16", "preset": "medium", "x264-params": "mbtree=0"}
BT709, LIMITED_RANGE = 1, 1  # as H.264 numbers them
HUNDREDTH = 10  # milliseconds, what the durations of a GIF are made of
QUICKEST = 2  # hundredths of a second: browsers slow down what is quicker


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


# --- files that play


def write_mp4(frames: np.ndarray, path: Path, fps: float) -> Path:
    """Frames (F, H, W, C) uint8 as an MP4 at `path`, which is returned; whole or absent."""
    with writing(path):  # also where the disk of temporary files is full
        content = mp4(frames, fps)
    return write_atomic(path, content)


def mp4(frames: np.ndarray, fps: float) -> bytes:
    """Frames (F, H, W, C) uint8, C 1 or 3, as an MP4 that every browser plays: H.264, 4:2:0, its index in front.

    An odd height or width gets a last row or column once more, as 4:2:0 needs. Equal frames give equal bytes. Raises
    ValueError for frames of another shape, and for a rate that is none.
    """
    import av

    check_fps(fps)
    frames = _even(in_colour(frames))
    with tempfile.TemporaryDirectory() as folder:  # the index is moved to the front by reading the file again
        file = Path(folder) / "clip.mp4"
        with av.open(str(file), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
            stream = container.add_stream("libx264", rate=_rate(fps), options=QUALITY)
            _describe(stream.codec_context, *frames.shape[1:3])
            for number, frame in enumerate(frames):
                image = av.VideoFrame.from_ndarray(frame, format="rgb24")
                image = image.reformat(format="yuv420p", dst_colorspace="ITU709")
                image.pts, image.time_base = number, 1 / _rate(fps)
                container.mux(stream.encode(image))
            container.mux(stream.encode())
        return file.read_bytes()


def _describe(context: av.VideoCodecContext, height: int, width: int) -> None:
    """Sizes and colours as players read them; one thread, whose number would change the bytes."""
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE
    context.thread_count = 1


def _even(frames: np.ndarray) -> np.ndarray:
    """Frames with the last row and column once more where their number is odd."""
    rows, columns = (side % 2 for side in frames.shape[1:3])
    return np.ascontiguousarray(np.pad(frames, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge"))


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


def check_fps(fps: float) -> None:
    """Raises ValueError for a rate at which nothing plays."""
    if not 1 / MAX_FPS <= fps <= MAX_FPS:
        raise ValueError(f"clips cannot play at {fps} frames a second; allowed: {1 / MAX_FPS:g} to {MAX_FPS:g}")


def write_gif(frames: np.ndarray, path: Path, fps: float) -> Path:
    """Frames (F, H, W, C) uint8 as an endless GIF at `path`, which is returned; whole or absent.

    Its 256 colours are chosen once for all frames, so that what stands still does not flicker; grey is exact. Times are
    rounded to hundredths of a second, each frame's beginning, and no frame is shorter than two.
    """
    check_fps(fps)
    ends = [round(100 * number / fps) for number in range(len(frames) + 1)]
    durations = [HUNDREDTH * max(QUICKEST, end - begin) for begin, end in itertools.pairwise(ends)]
    images, content = _in_few_colours(frames), io.BytesIO()
    images[0].save(content, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, disposal=1)
    return write_atomic(path, content.getvalue())


def _in_few_colours(frames: np.ndarray) -> list[Image.Image]:
    if (frames == frames[..., :1]).all():
        return [Image.fromarray(frame[..., 0]) for frame in frames]
    images = [Image.fromarray(frame) for frame in frames]
    palette = Image.fromarray(rearrange(frames, "f h w c -> (f h) w c")).quantize(256, Image.Quantize.MEDIANCUT)
    return [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]


def in_colour(frames: np.ndarray) -> np.ndarray:
    """Frames (F, H, W, C) uint8, C 1 or 3, as (F, H, W, 3); ValueError for another shape."""
    if frames.ndim != 4 or 0 in frames.shape or frames.shape[-1] not in (1, 3) or frames.dtype != np.uint8:
        raise ValueError(
            f"frames are {frames.dtype} of shape {frames.shape}; needed: uint8 (F, H, W, C), C 1 or 3, none of them 0"
        )
    return np.repeat(frames, 3 // frames.shape[-1], axis=-1)


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
        ImageDraw.Draw(page).text((x, y + height), _shortened(title, width), BLACK, _font())
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
    draw.text((GAP, 0), "frame" if fps is None else f"frame, at {fps:.4g} fps", GREY, _font())
    if len({len(clip) for clip in clips}) == 1:
        for place, number in enumerate(chosen[0]):
            draw.text((TITLE_WIDTH + place * step, 0), str(number), GREY, _font())
    y = LINE
    for row, title in zip(rows, titles, strict=True):
        for place, frame in enumerate(row):
            page.paste(Image.fromarray(frame), (TITLE_WIDTH + place * (row.shape[2] + GAP), y))
        lines = _wrapped(title, TITLE_WIDTH - 2 * GAP, max(1, row.shape[1] // LINE))
        draw.multiline_text((GAP, y), "\n".join(lines), BLACK, _font(), spacing=LINE - FONT_SIZE - 1)
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


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu, which has the letters of most languages but those of East Asia; Pillow's own has English alone."""
    import matplotlib  # a fifth of a second, and only for pictures

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_SIZE)


def _wrapped(text: str, width: int, most: int) -> list[str]:
    """A text in at most `most` lines of `width` pixels."""
    lines, words = [], text.split()
    while words and len(lines) < most:
        count = len(words)
        while count > 1 and _font().getlength(" ".join(words[:count])) > width:
            count -= 1
        rest = words if len(lines) == most - 1 else words[:count]
        lines.append(_shortened(" ".join(rest), width))
        words = words[count:]
    return lines


def _shortened(text: str, width: int) -> str:
    """A text of one line, cut to `width` pixels."""
    text = " ".join(text.split())
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"

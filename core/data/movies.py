"""Frames that play: an MP4 that every browser plays, and an endless GIF.

Letters: F frames, H height, W width in pixels, C channels (1 or 3).
"""

from __future__ import annotations

import io
import itertools
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange

from core.storage.atomic import write_atomic, writing

if TYPE_CHECKING:
    import av
    from PIL import Image

MAX_FPS = 1000.0
MAX_SIDE = 2048  # pixels of an MP4 of several clips: as many as fit; players stop at about twice that
# With mbtree, its default, x264 gives equal frames unequal bytes now and then.
QUALITY = {"crf": "16", "x264-params": "mbtree=0"}
THOROUGH, QUICK = "medium", "veryfast"  # presets of x264: for pictures, and for drawings, which are small anyway
BT709, LIMITED_RANGE = 1, 1  # as H.264 numbers them
HUNDREDTH = 10  # milliseconds, what the durations of a GIF are made of
QUICKEST = 2  # hundredths of a second: browsers slow down what is quicker


def write_mp4(frames: np.ndarray, path: Path, fps: float, preset: str = THOROUGH) -> Path:
    """Frames (F, H, W, C) uint8 as an MP4 at `path`, which is returned; whole or absent."""
    with writing(path):  # also where the disk of temporary files is full
        content = mp4(frames, fps, preset)
    return write_atomic(path, content)


def mp4(frames: np.ndarray, fps: float, preset: str = THOROUGH) -> bytes:
    """Frames (F, H, W, C) uint8, C 1 or 3, as an MP4 that every browser plays: H.264, 4:2:0, its index in front.

    `preset` is x264's, which trades time for bytes. An odd height or width gets a last row or column once more, as
    4:2:0 needs. Equal frames give equal bytes. Raises ValueError for frames of another shape, and for a rate that is
    none.
    """
    import av

    check_fps(fps)
    frames = _even(in_colour(frames))
    with tempfile.TemporaryDirectory() as folder:  # the index is moved to the front by reading the file again
        file = Path(folder) / "clip.mp4"
        with av.open(str(file), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
            stream = container.add_stream("libx264", rate=_rate(fps), options={**QUALITY, "preset": preset})
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
    if not (rows or columns):
        return np.ascontiguousarray(frames)  # not copied, as a rule: they can be hundreds of megabytes
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
    from PIL import Image

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
    return frames if frames.shape[-1] == 3 else np.repeat(frames, 3, axis=-1)

"""A contact sheet of what will be trained: some items of a data set, as they go into training, with files and times.

F frames of a clip.
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from core.data.pixels import to_uint8
from core.draws import numpy_rng
from core.storage.atomic import write_atomic

ITEMS, FRAMES = 8, 8
SMALLEST, LARGEST = 96, 192  # pixels of a frame's longer side on the sheet
GAP, LINE, LETTER = 4, 12, 6  # pixels between frames, of a line of text, of a letter
DATA_SHEET = "data.png"  # in the folder of a run, written before its first step
STREAM = "data sheet"


def write_data_sheet(dataset: Any, path: Path, items: int = ITEMS, frames: int = FRAMES) -> Path:
    """A PNG at `path`: a row for each of some items, spread over the data set, of some frames spread over the clip.

    Items are augmented as in training. Above a row stands its name, class or caption, below a frame the second or the
    number at which it was taken. ValueError, naming the file, for an item that cannot be read: a run is better ended
    before it begins.
    """
    count = min(items, len(dataset))
    rows = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
    strips = [_strip(dataset, row, frames) for row in rows]
    width = max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    return write_atomic(path, content.getvalue())


def _strip(dataset: Any, row: int, frames: int) -> Image.Image:
    """The frames of one item side by side, text above and below them."""
    media, times = _read(dataset, row)
    places = np.unique(np.linspace(0, media.shape[1] - 1, min(frames, media.shape[1])).round().astype(int)).tolist()
    pictures = [_picture(media[:, place]) for place in places]
    width = sum(picture.width + GAP for picture in pictures) + GAP
    lines = textwrap.wrap(_title(dataset, row), max(20, (width - 2 * GAP) // LETTER))
    above = LINE * len(lines) + GAP
    strip = Image.new("RGB", (width, above + pictures[0].height + LINE + 3 * GAP), "white")
    draw, left = ImageDraw.Draw(strip), GAP
    for number, line in enumerate(lines):
        draw.text((GAP, LINE * number), line, fill="black")
    for place, picture in zip(places, pictures, strict=True):
        strip.paste(picture, (left, above))
        said = f"frame {place}" if times is None else f"{times[place]:.3f} s"
        draw.text((left, above + picture.height), said, fill="gray")
        left += picture.width + GAP
    return strip


def _read(dataset: Any, row: int) -> tuple[Tensor, np.ndarray | None]:
    """A clip (C, F, H, W) as training sees it, and the seconds (F,) of its frames in the file, where they are known."""
    rng = numpy_rng(STREAM, row)
    if hasattr(dataset, "draw"):
        window = dataset.draw(row, rng)
        return dataset.read(row, window), dataset.times(row, window)
    return dataset.item(row, rng)["media"], None


def _title(dataset: Any, row: int) -> str:
    """The name of an item, with its class and its caption; letters that a bitmap font lacks become question marks."""
    parts = [dataset.name(row)]
    if getattr(dataset, "labels", None) is not None and dataset.class_names:
        parts.append(f"class {dataset.class_names[int(dataset.labels[row])]}")
    if getattr(dataset, "captions", None):
        parts.append(dataset.captions[row])
    return "   ".join(parts).encode("latin-1", "replace").decode("latin-1")


def _picture(frame: Tensor) -> Image.Image:
    """A frame (C, H, W) in [-1, 1], made larger where it is tiny and smaller where it is large."""
    pixels = to_uint8(frame).permute(1, 2, 0).numpy()
    image = Image.fromarray(np.ascontiguousarray(pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels))
    longest = max(image.size)
    if longest < SMALLEST:
        factor = SMALLEST // longest
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BICUBIC)
    return image

"""Words in pictures: the font, and texts wrapped and shortened to a width in pixels."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFont

FONT_SIZE = 11  # pixels


@functools.cache
def font(size: int = FONT_SIZE) -> ImageFont.FreeTypeFont:
    """DejaVu, which has the letters of most languages but those of East Asia; Pillow's own has English alone."""
    import matplotlib  # a fifth of a second, and only for pictures
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def wrapped(text: str, width: int, most: int, size: int = FONT_SIZE) -> list[str]:
    """A text in at most `most` lines of `width` pixels."""
    lines, words = [], text.split()
    while words and len(lines) < most:
        count = len(words)
        while count > 1 and font(size).getlength(" ".join(words[:count])) > width:
            count -= 1
        rest = words if len(lines) == most - 1 else words[:count]
        lines.append(shortened(" ".join(rest), width, size))
        words = words[count:]
    return lines


def shortened(text: str, width: int, size: int = FONT_SIZE) -> str:
    """A text of one line, cut to `width` pixels."""
    text = " ".join(text.split())
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"

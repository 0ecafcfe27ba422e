"""Film strips: poses of a clip side by side, its caption above and seconds below them.

Letters: F frames, J joints.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from core.data.lettering import font, wrapped
from core.storage.atomic import write_atomic
from motion.body.skeleton import Skeleton
from motion.pictures.animation import EDGE, GREY, LINE, TEXT, Drawn, blank, draw_legend, draw_scenes, write_lines
from motion.pictures.figure import SQUARE, Figure

POSES = 9
POSE = (116, 156)  # pixels: width and height of a pose's picture
MOST_LINES = 3  # of a caption
SAID = f"squares of the floor {SQUARE} m, green: the path of the root"


def sheet(clips: Sequence[np.ndarray], titles: Sequence[str], skeleton: Skeleton, fps: float) -> Image.Image:
    """Clips (F, J, 3) in metres as strips one below the other, with what the colours mean at the top."""
    strips = [strip(clip, title, Figure(skeleton), fps) for clip, title in zip(clips, titles, strict=True)]
    head = LINE + 2 * EDGE
    page = Image.new("RGB", (POSES * POSE[0], head + sum(each.height for each in strips)), "white")
    draw = ImageDraw.Draw(page)
    x = draw_legend(draw, EDGE, EDGE)
    draw.text((x + EDGE, EDGE), SAID, GREY, font())
    top = head
    for each in strips:
        page.paste(each, (0, top))
        top += each.height
    return page


def strip(joints: np.ndarray, title: str, figure: Drawn, fps: float) -> Image.Image:
    """At most `POSES` poses from the first to the last of a clip (F, J, 3), at one scale."""
    chosen = np.unique(np.linspace(0, len(joints) - 1, min(POSES, len(joints))).round().astype(int)).tolist()
    poses = draw_scenes(joints, chosen, figure, fps, blank(len(chosen), POSE))
    lines = wrapped(title, POSES * POSE[0] - 2 * EDGE, MOST_LINES, TEXT)
    top = LINE * len(lines) + EDGE
    picture = Image.new("RGB", (POSES * POSE[0], top + POSE[1] + LINE + EDGE), "white")
    draw = ImageDraw.Draw(picture)
    write_lines(draw, (EDGE, EDGE // 2), lines)
    for place, (number, pose) in enumerate(zip(chosen, poses, strict=True)):
        picture.paste(Image.fromarray(pose), (place * POSE[0], top))
        draw.text(((place + 0.5) * POSE[0], top + POSE[1]), f"{number / fps:.2f} s", GREY, font(), anchor="ma")
    return picture


def save_png(picture: Image.Image, path: Path) -> Path:
    """A picture as a PNG at `path`, which is returned; whole or absent."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    return write_atomic(path, content.getvalue())


def check_finite(clips: Sequence[np.ndarray], titles: Sequence[str], first: int = 0) -> None:
    """Raises ValueError naming a clip (F, J, 3) that cannot be drawn, counted from `first`, and its frame."""
    for number, (clip, title) in enumerate(zip(clips, titles, strict=True), start=first):
        if not len(clip):
            raise ValueError(f"clip {number} ({title!r}) has no frame; a picture needs one at least")
        finite = np.isfinite(clip).all((1, 2))
        if not finite.all():
            raise ValueError(
                f"clip {number} ({title!r}) cannot be drawn: its joints are not finite from frame "
                f"{int(finite.argmin())} of {len(clip)} on"
            )

"""A canvas of antialiased lines and areas: matplotlib's renderer alone, without its figures, a millisecond a frame.

Letters: n points, H height, W width in pixels. Points are (x, y) in pixels, y up from the lower edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Colour = tuple[float, ...]  # red, green, blue and, where it is transparent, opacity, each in [0, 1]
WHITE: Colour = (1.0, 1.0, 1.0)
DOT = np.array([(0.0, 0.0), (0.01, 0.0)])  # pixels: a line of no length is not drawn
PIXELS_AN_INCH = 72  # so that a point of a line's width is a pixel


class Canvas:
    """Lines and areas on white, drawn one over the other."""

    def __init__(self, width: int, height: int):
        from matplotlib.backends.backend_agg import RendererAgg  # half a second, and only for pictures
        from matplotlib.transforms import IdentityTransform

        self._renderer, self._as_it_is = RendererAgg(width, height, PIXELS_AN_INCH), IdentityTransform()
        self._contexts: dict[tuple[Colour, float], Any] = {}
        self._pixels = np.asarray(self._renderer.buffer_rgba())
        self.clear()

    def clear(self) -> None:
        """White again."""
        self._pixels[:] = 255

    def lines(self, lines: Sequence[np.ndarray], colour: Colour, width: float) -> None:
        """Lines (n, 2) with round ends; one of a single point is a dot, and points that are NaN break a line."""
        from matplotlib.path import Path

        lines = [line + DOT if len(line) == 1 else line for line in lines]
        codes = np.full(sum(map(len, lines)), Path.LINETO, Path.code_type)
        codes[np.cumsum([0, *(len(line) for line in lines[:-1])])[: len(lines)]] = Path.MOVETO
        if lines:
            self._draw(Path(np.concatenate(lines), codes), colour, width, None)

    def area(self, corners: np.ndarray, colour: Colour, edge: Colour | None = None, width: float = 0.0) -> None:
        """A polygon (n, 2) that is filled, with a line of `width` around it where there is an `edge`."""
        from matplotlib.path import Path

        self._draw(Path(np.concatenate([corners, corners[:1]]), closed=True), edge or colour, width, colour)

    def shade(self, triangles: np.ndarray, colours: np.ndarray) -> None:
        """Triangles (n, 3, 2), one over the other, in colours (..., 3) of their corners and in between."""
        opaque = np.ones((len(triangles), 3, 4))
        opaque[..., :3] = colours
        self._renderer.draw_gouraud_triangles(self._context(WHITE, 0.0), triangles, opaque, self._as_it_is)

    def pixels(self) -> np.ndarray:
        """What has been drawn, (H, W, 3) uint8: the canvas itself, which changes with what is drawn next."""
        return self._pixels[..., :3]

    def _draw(self, path: Any, colour: Colour, width: float, face: Colour | None) -> None:
        self._renderer.draw_path(self._context(colour, width), path, self._as_it_is, face)

    def _context(self, colour: Colour, width: float) -> Any:
        """How lines are drawn, by colour and width."""
        if (colour, width) not in self._contexts:
            context = self._renderer.new_gc()
            context.set_foreground(colour)
            context.set_linewidth(width)
            context.set_capstyle("round")
            context.set_joinstyle("round")
            context.set_snap(False)
            context.set_alpha(colour[3] if len(colour) > 3 else 1.0)
            self._contexts[colour, width] = context
        return self._contexts[colour, width]


def disc(centre: np.ndarray, across: np.ndarray, along: np.ndarray, corners: int = 48) -> np.ndarray:
    """The outline (corners, 2) of an ellipse around `centre` whose half axes are two vectors (2,)."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return centre + np.outer(np.cos(angles), across) + np.outer(np.sin(angles), along)

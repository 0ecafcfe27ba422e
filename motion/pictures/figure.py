"""A skeleton on a floor with its shadow and the path of its root, left and right in colours of their own.

The colours are two of Okabe and Ito's, which stay apart for the colour-blind (https://jfly.uni-koeln.de/color).

Letters: F frames, J joints.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from motion.body.skeleton import Skeleton
from motion.pictures.camera import View
from motion.pictures.canvas import WHITE, Canvas, Colour, disc

LEFT: Colour = (0.0, 0.447, 0.698)  # blue
RIGHT: Colour = (0.835, 0.369, 0.0)  # vermilion
MIDDLE: Colour = (0.27, 0.27, 0.29)
NOSE_COLOUR: Colour = (0.62, 0.62, 0.65)
FLOOR: Colour = (0.945, 0.945, 0.95)
GRID: Colour = (0.83, 0.83, 0.85)
SHADOW: Colour = (0.74, 0.74, 0.765)
WALKED: Colour = (0.33, 0.55, 0.33)
TO_COME: Colour = (0.72, 0.82, 0.72)
LEGEND = (("left", LEFT), ("right", RIGHT))
SQUARE = 0.5  # metres of the floor's grid
LIMB, OUTLINE = 0.062, 0.022  # metres: the width of a limb, and of the white around it
THINNEST = 2.0  # pixels
HEAD, NOSE = 0.095, 0.075  # metres: the head's radius, and how far the nose stands out of it
TALL = 1.15  # the head's height over its width


class Figure:
    """How a skeleton is drawn: its limbs, each a line of joints in the colour of its side, and where its head is."""

    def __init__(self, skeleton: Skeleton):
        self.skeleton = skeleton
        self.limbs = [list(chain) for chain in skeleton.chains]
        self.colours = [self._colour(chain[-1]) for chain in skeleton.chains]

    @cached_property
    def head(self) -> int:
        """The joint at the end of the spine."""
        ends = set(range(self.skeleton.joints)) - set(self.skeleton.parents)
        return min(ends - self.skeleton.left - self.skeleton.right)

    def draw(self, canvas: Canvas, joints: np.ndarray, view: View, frame: int) -> None:
        """Frame `frame` of a clip (F, J, 3) over what is on the canvas: floor, path, shadow, body."""
        draw_floor(canvas, joints[:, 0], view, frame)
        pose = joints[frame]
        shadow = view.project(pose * (1.0, 0.0, 1.0), frame)
        canvas.lines([shadow[limb] for limb in self.limbs], SHADOW, self._width(view))
        self._draw_body(canvas, pose, view, frame)

    def facing(self, pose: np.ndarray) -> np.ndarray:
        """The horizontal direction (3,) in which a pose (J, 3) looks; 0 where hips and shoulders lie in one point."""
        right_hip, left_hip, right_shoulder, left_shoulder = pose[list(self.skeleton.face)]
        x, _, z = (left_hip - right_hip) + (left_shoulder - right_shoulder)
        return np.array([-z, 0.0, x]) / max(float(np.hypot(x, z)), 1e-9)

    def _draw_body(self, canvas: Canvas, pose: np.ndarray, view: View, frame: int) -> None:
        """Limbs from the farthest to the nearest, each with a white outline that parts it from those behind it."""
        points, near, width = view.project(pose, frame), view.nearness(pose), self._width(view)
        for limb in sorted(range(len(self.limbs)), key=lambda limb: near[self.limbs[limb][1:]].mean()):
            line = points[self.limbs[limb]]
            canvas.lines([line[1:]], WHITE, width + 2 * _outline(view))  # it does not part a limb from the trunk
            canvas.lines([line], self.colours[limb], width)
            if self.head in self.limbs[limb]:
                self._draw_head(canvas, pose, view, frame)

    def _draw_head(self, canvas: Canvas, pose: np.ndarray, view: View, frame: int) -> None:
        """A disc whose nose says where it looks: dark behind it, light on it."""
        facing, centre = self.facing(pose), view.project(pose[self.head], frame)
        nose = [
            np.stack([view.project(pose[self.head] + facing * reach, frame) for reach in (0.5 * HEAD, HEAD + NOSE)])
        ]
        head = disc(centre, np.array([HEAD * view.scale, 0.0]), np.array([0.0, TALL * HEAD * view.scale]))
        canvas.area(head, WHITE, WHITE, 2 * _outline(view))
        canvas.lines(nose, MIDDLE, 0.6 * self._width(view))
        canvas.area(head, MIDDLE)
        if view.nearness(facing) > 0:
            canvas.lines(nose, NOSE_COLOUR, 0.6 * self._width(view))

    def _colour(self, joint: int) -> Colour:
        return LEFT if joint in self.skeleton.left else RIGHT if joint in self.skeleton.right else MIDDLE

    def _width(self, view: View) -> float:
        return max(THINNEST, LIMB * view.scale)


def _outline(view: View) -> float:
    return max(1.0, OUTLINE * view.scale)


def draw_floor(canvas: Canvas, root: np.ndarray, view: View, frame: int) -> None:
    """A round piece of the floor with its grid of half metres, on it the root's path (F, 3): walked, and to come."""
    centre, radius = view.centres[frame], view.radius
    canvas.area(view.project(disc_on_floor(centre, radius), frame), FLOOR)
    canvas.lines([view.project(line, frame) for line in grid_lines(centre, radius)], GRID, 1.0)
    path = root * (1.0, 0.0, 1.0)
    away = np.linalg.norm(path - centre, axis=1) > radius
    points = np.where(away[:, None], np.nan, view.project(path, frame))
    for part, colour in ((points[frame:], TO_COME), (points[: frame + 1], WALKED)):
        canvas.lines([part], colour, 2.0)


def disc_on_floor(centre: np.ndarray, radius: float) -> np.ndarray:
    """The outline (n, 3) of a disc on the floor."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return centre + radius * np.stack([np.sin(angles), np.zeros_like(angles), np.cos(angles)], axis=1)


def grid_lines(centre: np.ndarray, radius: float) -> list[np.ndarray]:
    """Lines (2, 3) of the world's grid that lie inside a disc on the floor."""
    lines = []
    for along, across in ((0, 2), (2, 0)):
        first, last = np.ceil((centre[along] - radius) / SQUARE), np.floor((centre[along] + radius) / SQUARE)
        for number in np.arange(first, last + 1):
            place = number * SQUARE
            reach = np.sqrt(max(0.0, radius**2 - (place - centre[along]) ** 2))
            line = np.zeros((2, 3))
            line[:, along] = place
            line[:, across] = centre[across] + np.array([-reach, reach])
            lines.append(line)
    return lines

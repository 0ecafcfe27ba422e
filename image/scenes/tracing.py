"""Rays through the points of a picture: what they meet first, and whether the sun shines there.

Each solid is tried only in the rectangle of the picture in which it, or its shadow, can be.

Letters: B scenes, K places for things, S pixels of a side, P = 2 S * S rays of a picture, N of a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from image.scenes.layout import PLACES, Scenes
from image.scenes.solids import FAR, SOLIDS, Vector

SKY, GROUND = -2, -1  # beside the numbers of places
LONGEST_SHADOW = 9.0
CLOSEST = 0.5  # of what is projected, before the camera
SKIN = np.float32(2e-3)  # shadows of a surface begin so far above it


@dataclass(frozen=True)
class Seen:
    """What the rays of B pictures meet; arrays are flat, (B * P,).

    towards   unit directions
    distance  to what is met
    place     int8 number of the thing, GROUND or SKY
    """

    towards: Vector
    distance: np.ndarray
    place: np.ndarray


class Tracer:
    """Rays of B scenes, two a pixel: one through its upper left quarter, one through its lower right one.

    They come in lines, two of each row of pixels, from the upper left on.
    """

    def __init__(self, scenes: Scenes, side: int):
        self.scenes, self.count = scenes, 2 * side * side
        self.columns = _middles(side)
        self.lines = -_middles(2 * side)  # upwards
        self.shifts = np.tile(np.array([-0.5, 0.5], np.float32), side) / np.float32(side)  # of a line, to the right

    @cached_property
    def towards(self) -> Vector:
        """Unit directions, flat."""
        stage = self.scenes.stage
        x = stage.spread[:, None, None] * (self.columns + self.shifts[:, None])  # (B, 2 S, S)
        upwards = stage.spread[:, None] * self.lines
        cos, sin = stage.tilt.T[..., None]
        y, z = ((cos + upwards * sin)[..., None], (upwards * cos - sin)[..., None])
        inverse = np.float32(1) / np.sqrt(x * x + (y * y + z * z))
        return [(each * inverse).ravel() for each in (x, y, z)]

    def see(self) -> Seen:
        """What each ray meets first."""
        count = self.count
        down = self.towards[2].reshape(-1, count)
        distance = np.where(down < -1e-4, self.scenes.stage.eye[:, 2:] / -down, FAR).ravel()
        place = np.where(distance < 200, np.int8(GROUND), np.int8(SKY))
        for number, solid, rows in self._groups():
            which, rays = self._within(self._window(number, rows))
            where = rows.take(which) * count + rays
            origin, towards, size = self.local(rows, number, which, self.scenes.stage.eye[rows], where)
            enters, leaves = SOLIDS[solid].inside(origin, towards)
            enters = enters * size
            hit = (leaves * size > enters) & (enters > 0) & (enters < distance.take(where))
            hits = np.flatnonzero(hit)
            found = where.take(hits)
            distance[found], place[found] = enters.take(hits), number
        return Seen(self.towards, distance, place)

    def shadows(self, seen: Seen, points: Vector) -> np.ndarray:
        """Whether something stands between the points (B * P,) and the sun, (B * P,) bool."""
        count, stage, things = self.count, self.scenes.stage, self.scenes.things
        dark = np.zeros(len(seen.place), dtype=bool)
        for number, solid, rows in self._groups():
            which, rays = self._within(self._shadow_window(number, rows))
            where = rows.take(which) * count + rays
            met = seen.place.take(where)
            wanted = np.flatnonzero((met != number) & (met != SKY))
            which, where = which.take(wanted), where.take(wanted)
            cos, sin = things.turn[rows, number].T
            light = stage.light[rows]
            turned = [cos * light[:, 0] + sin * light[:, 1], cos * light[:, 1] - sin * light[:, 0], light[:, 2]]
            base, size = things.base[rows, number], things.size[rows, number]
            x, y, z = (points[axis].take(where) - base[:, axis].take(which) for axis in range(3))
            cos, sin, scale = (each.take(which) for each in (cos, sin, np.float32(1) / size))
            origin = [(cos * x + sin * y) * scale, (cos * y - sin * x) * scale, z * scale]
            enters, leaves = SOLIDS[solid].inside(origin, [each.take(which) for each in turned])
            dark[where[(leaves > np.maximum(enters, np.float32(0)) + SKIN)]] = True
        return dark

    def local(
        self, rows: np.ndarray, number: int, which: np.ndarray, origins: np.ndarray, where: np.ndarray
    ) -> tuple[Vector, Vector, np.ndarray]:
        """Rays in the frame of a thing: origins and directions, and its size.

        rows     (n,) scenes, of each the thing at place `number`, with ray origins (n, 3)
        which    (N,) places in `rows`;  where (N,) flat numbers of the rays
        """
        things = self.scenes.things
        cos, sin = things.turn[rows, number].T
        size = things.size[rows, number]
        x, y, z = ((origins - things.base[rows, number]) / size[:, None]).T
        origin = [each.take(which) for each in (cos * x + sin * y, cos * y - sin * x, z)]
        x, y, z = (each.take(where) for each in self.towards)
        cos, sin = cos.take(which), sin.take(which)
        return origin, [cos * x + sin * y, cos * y - sin * x, z], size.take(which)

    def _groups(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Place, solid, and the scenes (n,) that have that solid at that place."""
        for number in range(PLACES):
            solids = self.scenes.things.solid[:, number]
            for solid in range(len(SOLIDS)):
                rows = np.flatnonzero(solids == solid)
                if len(rows):
                    yield number, solid, rows

    def _within(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which thing and which ray (N,), (N,) of the rays in windows (n, 4): left, right, low, high."""
        left, right, low, high = window.T[..., None]
        columns = (self.columns >= left) & (self.columns <= right)
        lines = (self.lines >= low) & (self.lines <= high)
        inside = (lines[:, :, None] & columns[:, None, :]).reshape(len(window), -1)
        found = np.flatnonzero(inside)
        which = found // inside.shape[1]
        return which, found - which * inside.shape[1]

    def _ball(self, number: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centres (n, 3) and radii (n,) of the balls around things."""
        things = self.scenes.things
        solid, size = things.solid[rows, number], things.size[rows, number]
        heights, radii = (
            np.array([getattr(each, name) for each in SOLIDS], np.float32) for name in ("centre", "radius")
        )
        centre = things.base[rows, number].copy()
        centre[:, 2] += heights[solid] * size
        return centre, radii[solid] * size

    def _window(self, number: int, rows: np.ndarray) -> np.ndarray:
        return self._project(*self._ball(number, rows), rows)

    def _shadow_window(self, number: int, rows: np.ndarray) -> np.ndarray:
        """The rectangle around a thing and its shadow: around the ball as it moves away from the sun to the ground."""
        centre, radius = self._ball(number, rows)
        light = self.scenes.stage.light[rows]
        path = np.minimum((centre[:, 2] + radius) / light[:, 2], np.float32(LONGEST_SHADOW))
        ends = [self._project(at, radius, rows) for at in (centre, centre - path[:, None] * light)]
        return np.concatenate([np.minimum(ends[0], ends[1])[:, ::2], np.maximum(ends[0], ends[1])[:, 1::2]], 1)[
            :, [0, 2, 1, 3]
        ]

    def _project(self, centre: np.ndarray, radius: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The rectangle (n, 4) of a ball in the picture, of -1 to 1: left, right, low, high; a little too large."""
        stage = self.scenes.stage
        x, y, z = (centre - stage.eye[rows]).T
        cos, sin = stage.tilt[rows].T
        depth, up = np.maximum(cos * y - sin * z, np.float32(CLOSEST)), sin * y + cos * z
        reach = np.float32(1.12) * radius / (np.maximum(depth - radius, np.float32(CLOSEST)) * stage.spread[rows])
        across, upwards = x / (depth * stage.spread[rows]), up / (depth * stage.spread[rows])
        return np.stack([across - reach, across + reach, upwards - reach, upwards + reach], 1)


def _middles(count: int) -> np.ndarray:
    """The middles of `count` parts of -1 to 1."""
    return (np.arange(count, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / count) - np.float32(1)


def points_seen(seen: Seen, scenes: Scenes, count: int) -> Vector:
    """Where the rays end, world coordinates, flat; `count` rays a picture."""
    reach = np.minimum(seen.distance, np.float32(1e4)).reshape(-1, count)
    return [
        (scenes.stage.eye[:, axis, None] + reach * seen.towards[axis].reshape(-1, count)).ravel() for axis in range(3)
    ]

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
CLOSEST = np.float32(0.3)  # a thing that comes so near the camera can be anywhere in the picture
MARGIN = np.float32(0.01)  # of a thing's rectangle, for what rounding does to its corners
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

    def _window(self, number: int, rows: np.ndarray) -> np.ndarray:
        """The rectangle around a thing."""
        return self._around(self._corners(number, rows), rows)

    def _shadow_window(self, number: int, rows: np.ndarray) -> np.ndarray:
        """The rectangle around a thing and its shadow: its corners, and where the light takes them on the ground."""
        corners, light = self._corners(number, rows), self.scenes.stage.light[rows, None]
        on_ground = corners - corners[..., 2:] / light[..., 2:] * light
        return self._around(np.concatenate([corners, on_ground], 1), rows)

    def _corners(self, number: int, rows: np.ndarray) -> np.ndarray:
        """Points (n, M, 3) with each thing inside their convex hull; the things are of one solid."""
        things = self.scenes.things
        x, y, z = SOLIDS[things.solid[rows[0], number]].hull.T
        cos, sin = things.turn[rows, number].T[..., None]
        turned = np.stack([cos * x - sin * y, sin * x + cos * y, np.broadcast_to(z, (len(rows), len(z)))], 2)
        return turned * things.size[rows, number, None, None] + things.base[rows, number, None]

    def _around(self, points: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The rectangle (n, 4) of points (n, M, 3) in the picture, of -1 to 1: left, right, low, high."""
        stage = self.scenes.stage
        x, y, z = np.moveaxis(points - stage.eye[rows, None], 2, 0)
        cos, sin = stage.tilt[rows].T[..., None]
        depth = cos * y - sin * z
        reach = np.maximum(depth, CLOSEST) * stage.spread[rows, None]
        across, upwards = x / reach, (sin * y + cos * z) / reach
        aside = MARGIN + np.abs(self.shifts[0])  # rays stand beside the middles of their pixels
        lows = across.min(1) - aside, upwards.min(1) - MARGIN
        highs = across.max(1) + aside, upwards.max(1) + MARGIN
        window = np.stack([lows[0], highs[0], lows[1], highs[1]], 1)
        window[depth.min(1) < CLOSEST] = -1, 1, -1, 1
        return window


def _middles(count: int) -> np.ndarray:
    """The middles of `count` parts of -1 to 1."""
    return (np.arange(count, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / count) - np.float32(1)


def points_seen(seen: Seen, scenes: Scenes, count: int) -> Vector:
    """Where the rays end, world coordinates, flat; `count` rays a picture."""
    reach = np.minimum(seen.distance, np.float32(1e4)).reshape(-1, count)
    return [
        (scenes.stage.eye[:, axis, None] + reach * seen.towards[axis].reshape(-1, count)).ravel() for axis in range(3)
    ]

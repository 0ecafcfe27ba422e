"""The solids of scenes: where a ray is inside them, and their normals.

Each stands on z = 0 around the axis x = y = 0, about 2 units wide and up to 2 high. Rays and points are flat lists
of N. Only sums, products, quotients, square roots and comparisons are used, which IEEE 754 fixes to the last bit, and
each ray is computed by itself: a picture does not depend on the machine, nor on what is rendered beside it.

Letters: N rays or points; x, y, z arrays (N,) float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Vector = Sequence[np.ndarray]  # x, y, z
Interval = tuple[np.ndarray, np.ndarray]
FAR = np.float32(1e9)
TINY = np.float32(1e-8)


class Solid(ABC):
    """A solid: `inside` says between which distances along a ray it is, `normal` is for points on its surface.

    hull  (M, 3) float32 points whose convex hull contains it
    """

    hull: np.ndarray

    @abstractmethod
    def inside(self, origin: Vector, towards: Vector) -> Interval:
        """Distances (N,), (N,) at which rays enter and leave; the ray misses where the second is not the larger."""

    @abstractmethod
    def normal(self, point: Vector) -> Vector:
        """Outward unit normals at points on the surface."""


@dataclass(frozen=True)
class Sphere(Solid):
    """A ball of radius 1."""

    @cached_property
    def hull(self) -> np.ndarray:
        return _points(_octagon(1, 0), _octagon(1, 2))

    def inside(self, origin: Vector, towards: Vector) -> Interval:
        x, y, z = origin[0], origin[1], origin[2] - np.float32(1)
        return _between_roots(_one(towards), dot((x, y, z), towards), dot((x, y, z), (x, y, z)) - np.float32(1))

    def normal(self, point: Vector) -> Vector:
        return unit((point[0], point[1], point[2] - np.float32(1)))


@dataclass(frozen=True)
class Box(Solid):
    """A box; half its width, and its height."""

    half: float = 0.85
    height: float = 1.7

    @cached_property
    def hull(self) -> np.ndarray:
        return _points(_square(self.half, 0), _square(self.half, self.height))

    def inside(self, origin: Vector, towards: Vector) -> Interval:
        sides = [_slab(origin[axis], towards[axis], -self.half, self.half) for axis in (0, 1)]
        return _both(_both(*sides), _slab(origin[2], towards[2], 0, self.height))

    def normal(self, point: Vector) -> Vector:
        half = np.float32(self.half), np.float32(self.half), np.float32(self.height / 2)
        scaled = [(point[0]) / half[0], point[1] / half[1], (point[2] - half[2]) / half[2]]
        x, y, z = (np.abs(each) for each in scaled)
        faces = (x >= y) & (x >= z), (y > x) & (y >= z), (z > x) & (z > y)
        return [np.where(face, np.sign(each), np.float32(0)) for face, each in zip(faces, scaled, strict=True)]


@dataclass(frozen=True)
class Cylinder(Solid):
    """A cylinder that stands."""

    across: float = 0.85
    height: float = 1.7

    @cached_property
    def hull(self) -> np.ndarray:
        return _points(_octagon(self.across, 0), _octagon(self.across, self.height))

    def inside(self, origin: Vector, towards: Vector) -> Interval:
        return _both(_tube(origin, towards, self.across), _slab(origin[2], towards[2], 0, self.height))

    def normal(self, point: Vector) -> Vector:
        x, y, z = point
        out = np.sqrt(x * x + y * y) / np.float32(self.across)
        middle = np.float32(self.height / 2)
        up = np.abs(z / middle - np.float32(1))
        cap = up > out
        side = unit((x, y, np.zeros_like(z)))
        return [*(np.where(cap, np.float32(0), each) for each in side[:2]), np.where(cap, np.sign(z - middle), 0)]


@dataclass(frozen=True)
class Cone(Solid):
    """A cone, its tip upwards."""

    across: float = 1.0
    height: float = 1.9

    @cached_property
    def hull(self) -> np.ndarray:
        return _points(_octagon(self.across, 0), [(0, 0, self.height)])

    def inside(self, origin: Vector, towards: Vector) -> Interval:
        slope = np.float32(self.across / self.height)
        x, y, z = origin[0], origin[1], slope * (np.float32(self.height) - origin[2])
        u, v, w = towards[0], towards[1], -slope * towards[2]
        a, b, c = u * u + v * v - w * w, x * u + y * v - z * w, x * x + y * y - z * z
        a = np.where(np.abs(a) < TINY, TINY, a)
        apart = b * b - a * c
        root = np.sqrt(np.maximum(apart, np.float32(0)))
        one, other = (-b - root) / a, (-b + root) / a
        near, far = np.minimum(one, other), np.maximum(one, other)
        steep, down = a < 0, w > 0  # a steep ray is inside two cones, tip to tip: before `near` and after `far`
        enters = np.where(steep, np.where(down, far, -FAR), near)
        leaves = np.where(steep, np.where(down, FAR, near), np.where(apart > 0, far, -FAR))
        return _both((enters, leaves), _slab(origin[2], towards[2], 0, self.height))

    def normal(self, point: Vector) -> Vector:
        x, y, z = point
        out = np.sqrt(x * x + y * y)
        base = z < np.float32(0.001) * np.float32(self.height)
        side = unit((x, y, out * np.float32(self.across / self.height)))
        down = np.float32(0), np.float32(0), np.float32(-1)
        return [np.where(base, below, each) for below, each in zip(down, side, strict=True)]


@dataclass(frozen=True)
class Pyramid(Solid):
    """A pyramid on a square."""

    half: float = 0.95
    height: float = 1.7

    @cached_property
    def hull(self) -> np.ndarray:
        return _points(_square(self.half, 0), [(0, 0, self.height)])

    @property
    def _plane(self) -> tuple[np.float32, np.float32]:
        """Outward and upward parts of a side's unit normal."""
        length = (self.half**2 + self.height**2) ** 0.5
        return np.float32(self.height / length), np.float32(self.half / length)

    def inside(self, origin: Vector, towards: Vector) -> Interval:
        out, up = self._plane
        found = _slab(origin[2], towards[2], 0, self.height)
        for axis in (0, 1):
            for side in (-out, out):
                along = side * towards[axis] + up * towards[2]
                along = np.where(np.abs(along) < TINY, TINY, along)
                at = (out * np.float32(self.half) - side * origin[axis] - up * origin[2]) / along
                found = _both(found, (np.where(along < 0, at, -FAR), np.where(along < 0, FAR, at)))
        return found

    def normal(self, point: Vector) -> Vector:
        out, up = self._plane
        x, y, z = point
        along_x, base = np.abs(x) >= np.abs(y), z < np.float32(0.001)
        zero = np.float32(0)
        normal_x = np.where(base | ~along_x, zero, np.sign(x) * out)
        normal_y = np.where(base | along_x, zero, np.sign(y) * out)
        return [normal_x, normal_y, np.where(base, np.float32(-1), up)]


@dataclass(frozen=True)
class Ring(Solid):
    """A torus that lies flat; rays walk to its surface by its distance field."""

    middle: float = 0.74
    thickness: float = 0.36
    steps: int = 12

    @cached_property
    def hull(self) -> np.ndarray:
        across = self.middle + self.thickness
        return _points(_octagon(across, 0), _octagon(across, 2 * self.thickness))

    def inside(self, origin: Vector, towards: Vector) -> Interval:
        tube = _tube(origin, towards, self.middle + self.thickness)
        around = _both(tube, _slab(origin[2], towards[2], 0, 2 * self.thickness))
        at, close = np.maximum(around[0], np.float32(0)), np.float32(0.02)
        away = np.full_like(at, FAR)
        for _ in range(self.steps):
            x, y, z = (o + at * d for o, d in zip(origin, towards, strict=True))
            away = self._distance(x, y, z)
            at = at + np.maximum(away, np.float32(0))
        hit = (away < close) & (at < around[1])
        return at, np.where(hit, FAR, -FAR)

    def _distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        out, up = np.sqrt(x * x + y * y) - np.float32(self.middle), z - np.float32(self.thickness)
        return np.sqrt(out * out + up * up) - np.float32(self.thickness)

    def normal(self, point: Vector) -> Vector:
        x, y, z = point
        out = np.maximum(np.sqrt(x * x + y * y), TINY)
        inwards = np.float32(1) - np.float32(self.middle) / out
        return unit((x * inwards, y * inwards, z - np.float32(self.thickness)))


BLOCK = 6  # the number of the block that something stands on
BLOCK_HEIGHT = 0.75
SOLIDS: tuple[Solid, ...] = (
    *(Sphere(), Box(), Cylinder(), Cone(), Ring(), Pyramid()),  # as `classes.SHAPES`
    Box(half=1.1, height=BLOCK_HEIGHT),
)


def dot(a: Vector, b: Vector) -> np.ndarray:
    """The scalar products (N,)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(vector: Vector) -> Vector:
    """Vectors of length 1."""
    length = np.sqrt(np.maximum(dot(vector, vector), TINY))
    return [each / length for each in vector]


def _square(half: float, height: float) -> list[tuple[float, float, float]]:
    return [(x, y, height) for x in (-half, half) for y in (-half, half)]


def _octagon(radius: float, height: float) -> list[tuple[float, float, float]]:
    """Corners of the octagon around a circle."""
    angles = (np.arange(8) + 0.5) * np.pi / 4
    reach = radius / np.cos(np.pi / 8)
    return [(reach * np.cos(angle), reach * np.sin(angle), height) for angle in angles]


def _points(*parts: Sequence[tuple[float, float, float]]) -> np.ndarray:
    return np.array([point for part in parts for point in part], np.float32)


def _one(towards: Vector) -> np.ndarray:
    return dot(towards, towards)


def _between_roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Interval:
    """Where a t^2 + 2 b t + c < 0, for a > 0."""
    apart = b * b - a * c
    root = np.sqrt(np.maximum(apart, np.float32(0)))
    return (-b - root) / a, np.where(apart > 0, (-b + root) / a, -FAR)


def _slab(origin: np.ndarray, towards: np.ndarray, low: float, high: float) -> Interval:
    towards = np.where(np.abs(towards) < TINY, TINY, towards)
    one, other = (np.float32(low) - origin) / towards, (np.float32(high) - origin) / towards
    return np.minimum(one, other), np.maximum(one, other)


def _tube(origin: Vector, towards: Vector, radius: float) -> Interval:
    (x, y, _), (u, v, _) = origin, towards
    a = np.maximum(u * u + v * v, TINY)
    return _between_roots(a, x * u + y * v, x * x + y * y - np.float32(radius**2))


def _both(one: Interval, other: Interval) -> Interval:
    return np.maximum(one[0], other[0]), np.minimum(one[1], other[1])

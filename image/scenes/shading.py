"""Colours of what rays meet: ground, sky and things, by material and texture.

Letters: B scenes, P rays of a picture, N of a list of rays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from image.scenes.classes import MATERIALS, TEXTURES
from image.scenes.layout import Scenes
from image.scenes.solids import SOLIDS, Vector, dot
from image.scenes.tracing import GROUND, SKY, Seen, Tracer, points_seen

MATTE, SHINY, METAL = range(len(MATERIALS))
PLAIN, STRIPED, CHECKERED, DOTTED = range(len(TEXTURES))
HAZE = 0.028  # of the horizon's colour that a unit of distance adds to the ground
DOT_RADIUS = 0.36  # of the period
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)


@dataclass(frozen=True)
class Surface:
    """Points of things, flat lists of N.

    where    numbers among all rays;  row: the scene;  place: the thing
    local    the point in its thing's frame;  normal: unit vector in the world
    """

    where: np.ndarray
    row: np.ndarray
    place: np.ndarray
    local: Vector
    normal: Vector


def shade(scenes: Scenes, tracer: Tracer) -> list[np.ndarray]:
    """Linear red, green and blue (B * P,) of all rays."""
    count = tracer.count
    seen = tracer.see()
    points = points_seen(seen, scenes, count)
    dark = tracer.shadows(seen, points)
    colours = _background(scenes, seen, dark, count)
    for surface in _surfaces(scenes, tracer, seen):
        for channel, values in enumerate(_lit(scenes, surface, seen, dark)):
            colours[channel][surface.where] = values
    return colours


def _background(scenes: Scenes, seen: Seen, dark: np.ndarray, count: int) -> list[np.ndarray]:
    """Ground and, of the few rays that see it, sky; under everything."""
    stage = scenes.stage
    far = np.minimum(seen.distance * np.float32(HAZE), ONE).reshape(-1, count)
    far = far * far
    sun = (ONE - dark.reshape(-1, count)) * stage.light[:, 2:]
    where = np.flatnonzero(seen.place == SKY)
    row = where // count
    height = np.minimum(np.maximum(seen.towards[2].take(where), ZERO) * np.float32(2.2), ONE)
    colours = []
    for channel in range(3):
        horizon, zenith, ground = (each[:, channel, None] for each in (stage.horizon, stage.zenith, stage.ground))
        near = ground * stage.ambient[:, channel, None] + (ground * stage.sun[:, channel, None]) * sun
        values = (near + (horizon * np.float32(0.8) - near) * far).ravel()
        low = horizon[row, 0]
        values[where] = low + (zenith[row, 0] - low) * height
        colours.append(values)
    return colours


def _surfaces(scenes: Scenes, tracer: Tracer, seen: Seen) -> Iterator[Surface]:
    """What is seen of each kind of solid."""
    count, things, eye = tracer.count, scenes.things, scenes.stage.eye
    where = np.flatnonzero(seen.place > GROUND)
    row, place = where // count, seen.place[where].astype(np.int64)
    solids = things.solid[row, place]
    for solid in range(len(SOLIDS)):
        chosen = np.flatnonzero(solids == solid)
        if not len(chosen):
            continue
        at, rows, places = where[chosen], row[chosen], place[chosen]
        cos, sin = things.turn[rows, places].T
        reach, size = seen.distance.take(at), things.size[rows, places]
        x, y, z = (
            (eye[:, axis].take(rows) + reach * seen.towards[axis].take(at) - things.base[rows, places, axis]) / size
            for axis in range(3)
        )
        local = [cos * x + sin * y, cos * y - sin * x, z]
        u, v, w = SOLIDS[solid].normal(local)
        yield Surface(at, rows, places, local, [cos * u - sin * v, sin * u + cos * v, w])


def _lit(scenes: Scenes, surface: Surface, seen: Seen, dark: np.ndarray) -> list[np.ndarray]:
    """Linear colours (N,) of a surface under the sun, the sky, and what it mirrors."""
    stage, row = scenes.stage, surface.row
    towards = [each.take(surface.where) for each in seen.towards]
    light = [stage.light[:, axis].take(row) for axis in range(3)]
    normal = surface.normal
    bright = ONE - dark.take(surface.where)
    facing = np.maximum(dot(normal, light), ZERO) * bright
    sky = HALF + HALF * normal[2]
    twice = np.float32(2) * dot(normal, towards)
    mirrored = [each - twice * n for each, n in zip(towards, normal, strict=True)]
    shine = np.maximum(dot(mirrored, light), ZERO) * bright
    material = scenes.things.material[row, surface.place]
    metal, shiny = material == METAL, material == SHINY
    glint = _power(shine, 4) * np.where(metal, np.float32(0.9), np.where(shiny, np.float32(1.1), ZERO))
    edge = _power(ONE - np.minimum(np.abs(twice) * HALF, ONE), 2)
    mirror = np.where(shiny, np.float32(0.06) + np.float32(0.5) * edge, ZERO)
    diffuse = np.where(metal, np.float32(0.22), ONE)
    parts = facing, sky, glint, diffuse, np.where(metal, ONE, ZERO), mirror
    paint = _paint(scenes, surface)
    around = _environment(scenes, row, mirrored)
    return [_mix(scenes, row, channel, paint[channel], around[channel], parts) for channel in range(3)]


def _mix(
    scenes: Scenes, row: np.ndarray, channel: int, paint: np.ndarray, around: np.ndarray, parts: tuple[np.ndarray, ...]
) -> np.ndarray:
    """One channel: diffuse light, the surroundings mirrored in the metal's colour or in white, and the sun's glint."""
    facing, sky, glint, diffuse, metal, mirror = parts
    sun, ambient = (each[:, channel].take(row) for each in (scenes.stage.sun, scenes.stage.ambient))
    soft = paint * (ambient * (HALF + HALF * sky) + sun * facing) * diffuse
    return soft + around * (metal * paint + mirror) + glint * sun * (metal * paint + (ONE - metal))


def _environment(scenes: Scenes, row: np.ndarray, towards: Vector) -> list[np.ndarray]:
    """What is mirrored in a direction: sky above, ground below, and a dark line between."""
    stage = scenes.stage
    up = np.minimum(np.maximum(towards[2], ZERO) * np.float32(1.2), ONE)
    down = np.minimum(np.maximum(-towards[2], ZERO) * np.float32(3), ONE)
    above = towards[2] > np.float32(0.02)
    colours = []
    for channel in range(3):
        horizon, zenith, ground = (each[:, channel].take(row) for each in (stage.horizon, stage.zenith, stage.ground))
        colours.append(np.where(above, horizon + (zenith - horizon) * up, ground * (np.float32(0.06) + HALF * down)))
    return colours


def _paint(scenes: Scenes, surface: Surface) -> list[np.ndarray]:
    """The albedo (N,) by channel: one of a thing's two colours, by its texture."""
    things, row, place = scenes.things, surface.row, surface.place
    colours = things.colours[row, place]  # (N, 2, 3)
    texture, second = things.texture[row, place], np.zeros(len(row), dtype=bool)
    for kind, pattern in ((STRIPED, _stripes), (CHECKERED, _checkers), (DOTTED, _dots)):
        chosen = np.flatnonzero(texture == kind)
        scale = ONE / things.period[row[chosen], place[chosen]]
        second[chosen] = pattern([each[chosen] * scale for each in surface.local])
    return [np.where(second, colours[:, 1, channel], colours[:, 0, channel]) for channel in range(3)]


def _stripes(point: Vector) -> np.ndarray:
    """Layers of half a period."""
    return _odd(np.float32(2) * point[2] + np.float32(0.25))


def _checkers(point: Vector) -> np.ndarray:
    """Cubes of seven tenths of a period, of two colours."""
    return _odd(sum(np.floor(np.float32(1.4) * each + np.float32(0.2)) for each in point))


def _dots(point: Vector) -> np.ndarray:
    """Balls about the corners of a grid."""
    off = [each - np.floor(each + HALF) for each in point]
    return dot(off, off) < np.float32(DOT_RADIUS**2)


def _odd(number: np.ndarray) -> np.ndarray:
    whole = np.floor(number)
    return whole - np.float32(2) * np.floor(whole * HALF) > HALF


def _power(x: np.ndarray, doublings: int) -> np.ndarray:
    """x to the power of 2 to the `doublings`."""
    for _ in range(doublings):
        x = x * x
    return x

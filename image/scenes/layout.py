"""What stands where in a scene: a function of (seed, split, row), drawn for a batch of rows at once.

The ground is z = 0, the camera looks along y and down, x is to its right. Lengths are in units of about half a thing.

Letters: B scenes, K = 3 places for things in each, U uniform numbers of a scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.draws import numpy_rng
from image.scenes.classes import CLASSES, LIGHTINGS, MATERIALS, RELATIONS, TEXTURES
from image.scenes.solids import BLOCK, BLOCK_HEIGHT

PLACES = 3
UNIFORMS = 64
NOTHING = -1  # the solid of a place where nothing is
ALONE, ON_BLOCK, BESIDE, BEHIND, ROW = range(len(RELATIONS))
LEFT, RIGHT, ABOVE, SUNSET = range(len(LIGHTINGS))
METAL, MATTE, PLAIN = MATERIALS.index("metal"), MATERIALS.index("matte"), TEXTURES.index("plain")
DEGREE = np.pi / 180


@dataclass(frozen=True)
class Things:
    """The solids of B scenes; float32 unless said.

    solid     (B, K) int64 place in `solids.SOLIDS`, or NOTHING
    base      (B, K, 3) of the point in the middle of its underside
    size      (B, K) by which a solid is scaled
    turn      (B, K, 2) cosine and sine of its turn about the vertical
    colours   (B, K, 2, 3) linear RGB of the two colours of its texture
    material, texture   (B, K) int64 places in MATERIALS and TEXTURES
    period    (B, K) of the texture, in units of the solid
    """

    solid: np.ndarray
    base: np.ndarray
    size: np.ndarray
    turn: np.ndarray
    colours: np.ndarray
    material: np.ndarray
    texture: np.ndarray
    period: np.ndarray


@dataclass(frozen=True)
class Stage:
    """Camera, light and background of B scenes, float32; colours are linear RGB.

    eye      (B, 3) place of the camera
    tilt     (B, 2) cosine and sine of the angle that it looks down by
    spread   (B,) tangent of half its angle of view
    light    (B, 3) unit vector towards the sun
    sun, ambient, horizon, zenith, ground   (B, 3) colours of light, sky and ground
    """

    eye: np.ndarray
    tilt: np.ndarray
    spread: np.ndarray
    light: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    horizon: np.ndarray
    zenith: np.ndarray
    ground: np.ndarray


@dataclass(frozen=True)
class Scenes:
    """B scenes."""

    things: Things
    stage: Stage

    def __len__(self) -> int:
        return len(self.stage.spread)


class Chances:
    """Uniform numbers of B scenes, handed out column by column."""

    def __init__(self, numbers: np.ndarray):
        self.numbers, self.used = numbers, 0

    def between(self, low: float, high: float, *shape: int) -> np.ndarray:
        """(B, *shape) numbers in [low, high)."""
        count = int(np.prod(shape, dtype=np.int64))
        taken = self.numbers[:, self.used : self.used + count]
        self.used += count
        return low + (high - low) * taken.reshape(len(self.numbers), *shape)

    def sign(self) -> np.ndarray:
        """(B,) -1 or 1."""
        return np.where(self.between(0, 1) < 0.5, -1.0, 1.0)


def draw_scenes(seed: int, split: str, rows: Sequence[int], labels: np.ndarray) -> Scenes:
    """The scenes at `rows` (B) of a split, of the classes `labels` (B,)."""
    numbers = np.stack([numpy_rng("scenes", seed, split, int(row)).random(UNIFORMS) for row in rows])
    chances = Chances(numbers)
    relation, lighting = (
        np.array([getattr(CLASSES[label], name) for label in labels]) for name in ("relation", "lighting")
    )
    stage = _stage(lighting, chances)
    return Scenes(_things(labels, relation, chances), stage)


def _things(labels: np.ndarray, relation: np.ndarray, chances: Chances) -> Things:
    shape, texture, material = (
        np.repeat(np.array([getattr(CLASSES[label], name) for label in labels])[:, None], PLACES, 1)
        for name in ("shape", "texture", "material")
    )
    base, size = _places(relation, chances)
    there = np.arange(PLACES) < np.array((1, 2, 2, 2, 3))[relation][:, None]
    is_block = (relation == ON_BLOCK)[:, None] & (np.arange(PLACES) == 1)
    solid = np.where(there, np.where(is_block, BLOCK, shape), NOTHING)
    turns = chances.between(0, 2 * np.pi, PLACES)
    material, texture = np.where(is_block, MATTE, material), np.where(is_block, PLAIN, texture)
    return Things(
        solid=solid,
        base=base.astype(np.float32),
        size=size.astype(np.float32),
        turn=np.stack([np.cos(turns), np.sin(turns)], -1).astype(np.float32),
        colours=_colours(material == METAL, is_block, chances).astype(np.float32),
        material=material,
        texture=texture,
        period=chances.between(0.6, 0.75, PLACES).astype(np.float32),
    )


def _places(relation: np.ndarray, chances: Chances) -> tuple[np.ndarray, np.ndarray]:
    """Undersides (B, K, 3) and sizes (B, K), by relation."""
    count = len(relation)
    free = chances.between(-1, 1, 2)  # of the group, along x and y
    swing, sizes, gap, side = (chances.between(-20, 20), chances.between(0, 1), chances.between(0, 1), chances.sign())
    along = np.stack([np.cos(swing * DEGREE), np.sin(swing * DEGREE)], -1)
    zero, nowhere = np.zeros(count), np.zeros((count, 3))

    def at(x: np.ndarray, y: np.ndarray, z: np.ndarray = zero) -> np.ndarray:
        return np.stack([x, y, z], -1)

    def pair(reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return at(-reach * along[:, 0], -reach * along[:, 1]), at(reach * along[:, 0], reach * along[:, 1])

    alone = 1.25 + 0.4 * sizes
    small = 0.92 + 0.22 * sizes
    block = small * 1.08
    reach = small * (1.2 + 0.25 * gap)
    back = at(side * small * (0.55 + 0.4 * gap), small * 1.5)
    front = at(-side * small * (0.55 + 0.4 * gap), -small * 0.9)
    third = 0.68 + 0.14 * sizes
    wide = third * (2.2 + 0.25 * gap)
    cases = {
        ALONE: ([at(zero, zero), nowhere, nowhere], [alone, alone, alone]),
        ON_BLOCK: ([at(zero, zero, block * BLOCK_HEIGHT), at(zero, zero), nowhere], [small, block, small]),
        BESIDE: ([*pair(reach), nowhere], [small] * PLACES),
        BEHIND: ([front, back, nowhere], [small] * PLACES),
        ROW: ([pair(wide)[0], at(zero, zero), pair(wide)[1]], [third] * PLACES),
    }
    base, size = np.zeros((count, PLACES, 3)), np.zeros((count, PLACES))
    for case, (places, scales) in cases.items():
        chosen = relation == case
        base[chosen], size[chosen] = np.stack(places, 1)[chosen], np.stack(scales, 1)[chosen]
    base[..., :2] += (free * (0.45, 0.4))[:, None]
    return base, size


def _colours(metal: np.ndarray, block: np.ndarray, chances: Chances) -> np.ndarray:
    """(B, K, 2, 3): a strong colour, pale for metal and grey for blocks, and a light or dark one beside it."""
    hue, shade, value, other = chances.between(0, 1, 4, PLACES).transpose(1, 0, 2)
    pale = np.where(metal, 0.25 + 0.4 * shade, np.where(block, 0.12 * shade, 0.65 + 0.3 * shade))
    bright = np.where(metal, 0.75 + 0.2 * value, np.where(block, 0.35 + 0.35 * value, 0.5 + 0.4 * value))
    first = from_hsv(hue, pale, bright)
    light = other < 0.5
    second = from_hsv(hue + 0.5, np.where(light, 0.08, 0.4), np.where(light, 0.95, 0.1))
    return np.stack([first, second], 2)


def _stage(lighting: np.ndarray, chances: Chances) -> Stage:
    down, half = chances.between(17, 33) * DEGREE, chances.between(17, 19) * DEGREE
    away = chances.between(7.9, 9.3)
    aim = np.stack([chances.between(-0.25, 0.25), chances.between(-0.2, 0.2), chances.between(0.75, 1.15)], -1)
    eye = aim + away[:, None] * np.stack([np.zeros_like(down), -np.cos(down), np.sin(down)], -1)
    sun_height = (
        np.choose(lighting, [chances.between(32, 48)] * 2 + [chances.between(72, 84), chances.between(13, 20)]) * DEGREE
    )
    swing, side = chances.between(-25, 25) * DEGREE, chances.sign()
    sides = np.choose(lighting, [np.full_like(side, -1.0), np.full_like(side, 1.0), side, side])
    across, along = np.cos(swing) * sides, np.sin(swing)
    light = np.stack([across * np.cos(sun_height), along * np.cos(sun_height), np.sin(sun_height)], -1)
    sunset = (lighting == SUNSET)[:, None]
    grey, hue, deep, tone = chances.between(0, 1, 4).T
    sky = np.where(sunset[:, 0], 0.62 + 0.15 * hue, 0.53 + 0.1 * hue)
    zenith = from_hsv(sky, 0.45 + 0.35 * deep, np.where(sunset[:, 0], 0.25 + 0.2 * tone, 0.6 + 0.3 * tone))
    horizon = np.where(
        sunset,
        from_hsv(0.03 + 0.07 * hue, 0.6 + 0.3 * deep, np.full_like(hue, 1.0)),
        from_hsv(sky, 0.1 + 0.2 * deep, 0.85 + 0.1 * tone),
    )
    ground_hue, ground_value = chances.between(0, 1, 2).T
    parts = {
        "eye": eye,
        "tilt": np.stack([np.cos(down), np.sin(down)], -1),
        "spread": np.tan(half),
        "light": light,
        "sun": np.where(sunset, (1.25, 0.62, 0.26), (1.05, 1.0, 0.9)),
        "ambient": np.where(sunset, (0.24, 0.2, 0.27), (0.22, 0.25, 0.3)),
        "horizon": horizon,
        "zenith": zenith,
        "ground": from_hsv(ground_hue, 0.05 + 0.3 * grey, 0.3 + 0.35 * ground_value),
    }
    return Stage(**{name: value.astype(np.float32) for name, value in parts.items()})


def from_hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Linear RGB (..., 3) of hue (a turn is 1), saturation and value."""
    sixths = 6 * (hue % 1.0)
    red, green, blue = np.abs(sixths - 3) - 1, 2 - np.abs(sixths - 2), 2 - np.abs(sixths - 4)
    pure = np.clip(np.stack([red, green, blue], -1), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * (1 - pure))

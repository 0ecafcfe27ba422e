"""The 120 classes of rendered scenes: shape, relation, texture, material and lighting, and their names.

All combinations of shape, relation and texture are there; material and lighting follow from them by sums modulo 3 and
4, so that each value of an attribute meets each of every other one, and any two classes differ in two attributes at
least. A class says nothing of colour, place, size, camera or background: these change within it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SHAPES = ("sphere", "cube", "cylinder", "cone", "ring", "pyramid")
RELATIONS = ("alone", "on a block", "side by side", "one behind the other", "in a row")
TEXTURES = ("plain", "striped", "checkered", "dotted")
MATERIALS = ("matte", "shiny", "metal")
LIGHTINGS = ("lit from the left", "lit from the right", "lit from above", "at sunset")
COUNTS = (1, 1, 2, 2, 3)  # of the shape, by relation
NUMBER_WORDS = ("one", "two", "three")


@dataclass(frozen=True)
class SceneClass:
    """What a scene shows, as places in SHAPES, RELATIONS, TEXTURES, MATERIALS and LIGHTINGS."""

    shape: int
    relation: int
    texture: int
    material: int
    lighting: int

    @property
    def name(self) -> str:
        """Such as "two striped metal cubes side by side at sunset"; no comma, so that it is easy on a command line."""
        count = COUNTS[self.relation]
        shape = SHAPES[self.shape] + ("s" if count > 1 else "")
        relation = RELATIONS[self.relation]
        surface = f"{TEXTURES[self.texture]} {MATERIALS[self.material]}"
        return f"{NUMBER_WORDS[count - 1]} {surface} {shape} {relation} {LIGHTINGS[self.lighting]}"


def _all() -> Iterator[SceneClass]:
    for shape in range(len(SHAPES)):
        for relation in range(len(RELATIONS)):
            for texture in range(len(TEXTURES)):
                material = (shape + relation + texture) % len(MATERIALS)
                lighting = (shape + 2 * relation + 3 * texture) % len(LIGHTINGS)
                yield SceneClass(shape, relation, texture, material, lighting)


CLASSES: tuple[SceneClass, ...] = tuple(_all())
CLASS_NAMES: tuple[str, ...] = tuple(each.name for each in CLASSES)
ATTRIBUTES: Mapping[str, tuple[int, ...]] = {
    attribute: tuple(getattr(each, attribute) for each in CLASSES)
    for attribute in ("shape", "relation", "texture", "material", "lighting")
}

"""Rendered scenes: their classes, that a picture is a function of its row, and what solids and light look like."""

import re
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.stream import SampleStream
from core.draws import numpy_rng
from image.datasets.scenes import ScenesConfig
from image.scenes.classes import ATTRIBUTES, CLASS_NAMES, CLASSES, LIGHTINGS, RELATIONS, SHAPES
from image.scenes.layout import draw_scenes
from image.scenes.picture import render
from image.scenes.solids import BLOCK, SOLIDS
from image.scenes.tracing import GROUND, SKY, Tracer, points_seen

SMALL = ScenesConfig(num_images=240, size=16)
EXPECTED = [
    [160.12, 133.14, 132.61],
    [151.77, 169.72, 177.75],
    [139.62, 157.42, 156.62],
    [145.65, 176.62, 174.04],
]  # red, green and blue of four pictures


def rays(count, seed=0):
    """Rays from a sphere of radius 5 towards points about the middle of the solids."""
    rng = np.random.default_rng(seed)
    origin = rng.normal(size=(count, 3))
    origin = 5 * origin / np.linalg.norm(origin, axis=1, keepdims=True)
    towards = rng.uniform(-1, 1, (count, 3)) + np.array([0, 0, 0.8]) - origin
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    return origin.astype(np.float32).T, towards.astype(np.float32).T


# Classes


def test_the_class_that_the_documents_sample_is_one():
    page = Path(__file__).parents[3] / "image" / "README.md"
    (asked,) = re.findall(r'run=runs/image/scenes32 labels="([^"]+)"', page.read_text())
    assert asked in CLASS_NAMES


def test_names_tell_all_classes_apart_and_are_easy_to_type():
    assert len(set(CLASS_NAMES)) == len(CLASSES) == 120
    assert CLASS_NAMES[0] == "one plain matte sphere alone lit from the left"
    assert not any(set(name) - set("abcdefghijklmnopqrstuvwxyz ") for name in CLASS_NAMES)


def test_attributes_are_balanced_and_two_classes_differ_in_two_at_least():
    values = list(zip(*ATTRIBUTES.values(), strict=True))
    assert min(sum(a != b for a, b in zip(one, other, strict=True)) for one, other in combinations(values, 2)) == 2
    for one, other in combinations(range(len(ATTRIBUTES)), 2):
        counts = Counter((each[one], each[other]) for each in values)
        expected = 120 / (len({each[one] for each in values}) * len({each[other] for each in values}))
        assert all(abs(count - expected) <= 0.11 * expected for count in counts.values())
        assert len(counts) == round(120 / expected)


# Solids


def test_rays_enter_solids_where_points_are_on_their_surface():
    origin, towards = rays(400)
    for solid in SOLIDS:
        enters, leaves = solid.inside(origin, towards)
        hit = leaves > enters
        assert 0.1 < hit.mean() < 0.95, solid
        point = origin[:, hit] + enters[hit] * towards[:, hit]
        normal = np.stack(solid.normal(point))
        assert np.allclose((normal**2).sum(0), 1, atol=1e-4), solid
        assert (np.sum(normal * towards[:, hit], 0) < 0.3).all(), solid  # from outside; a ring is grazed
        sides = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
        assert ((sides @ point).max(1) <= (solid.hull @ sides.T).max(0) + 1e-4).all(), solid  # or windows would cut it


def test_a_ray_down_the_axis_meets_the_top_but_passes_through_the_ring():
    origin, towards = np.array([[0.01], [0.02], [9]], np.float32), np.array([[0], [0], [-1]], np.float32)
    tops = {SHAPES.index("sphere"): 2, SHAPES.index("cube"): 1.7, SHAPES.index("cylinder"): 1.7, BLOCK: 0.75}
    tops |= {SHAPES.index("cone"): 1.86, SHAPES.index("pyramid"): 1.66}
    for number, top in tops.items():
        enters, leaves = SOLIDS[number].inside(origin, towards)
        assert leaves > enters and enters == pytest.approx(9 - top, abs=0.03), number
    enters, leaves = SOLIDS[SHAPES.index("ring")].inside(origin, towards)
    assert leaves <= enters


# Scenes


def test_windows_cut_nothing():
    """With windows as wide as the picture the same is seen and the same is dark, however long a shadow is."""
    labels = np.tile(np.arange(120), 5)
    scenes = draw_scenes(0, "train", np.arange(len(labels)), labels)
    found = []
    for whole in (False, True):
        tracer = Tracer(scenes, 16)
        if whole:
            tracer._around = lambda points, rows: np.tile(np.float32([-1, 1, -1, 1]), (len(rows), 1))
        seen = tracer.see()
        found.append((seen.place, tracer.shadows(seen, points_seen(seen, scenes, tracer.count))))
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


def test_things_cover_a_part_of_every_picture_and_the_light_decides_where_shadows_fall():
    labels = np.arange(120)
    scenes = draw_scenes(0, "train", labels, labels)
    tracer = Tracer(scenes, 24)
    seen = tracer.see()
    place = seen.place.reshape(120, -1)
    assert ((place > GROUND).mean(1) > 0.03).all() and ((place > GROUND).mean(1) < 0.7).all()
    assert (seen.distance[seen.place == SKY] > 100).all()
    counts = [len(set(row[row > GROUND])) for row in place]
    expected = [(1, 2, 2, 2, 3)[each.relation] for each in CLASSES]
    assert np.mean(np.array(counts) == expected) > 0.95  # one may hide another
    points = points_seen(seen, scenes, tracer.count)
    dark = tracer.shadows(seen, points).reshape(120, -1) & (place == GROUND)
    assert (dark.sum(1) > 0).mean() > 0.9  # none beside steep sides under a high sun
    x, middle = points[0].reshape(120, -1), scenes.things.base[:, 0, 0]
    sides = [(x[row][dark[row]].mean() - middle[row]) if dark[row].any() else 0 for row in labels]
    alone = [row for row in labels if CLASSES[row].relation == RELATIONS.index("alone")]
    for row in alone:
        if LIGHTINGS[CLASSES[row].lighting] == "lit from the left":
            assert sides[row] > 0.3
        if LIGHTINGS[CLASSES[row].lighting] == "lit from the right":
            assert sides[row] < -0.3


def test_a_picture_is_a_function_of_seed_split_and_row():
    data = SMALL.build()
    together = data.bytes_at(range(40))
    assert together.dtype == torch.uint8 and together.shape == (40, *SMALL.media_shape)
    backwards = data.bytes_at(list(range(39, -1, -1))).flip(0)
    assert torch.equal(together, backwards)
    assert torch.equal(together[17], data.bytes_at([17])[0])
    for other in (replace(SMALL, seed=1), replace(SMALL, split="heldout", num_images=25 * 40)):
        assert (other.build().bytes_at(range(40)) != together).flatten(1).any(1).all()
    everything = replace(SMALL, split="all").build()
    assert len(everything) == 249 and torch.equal(everything.bytes_at([240, 0])[1], together[0])
    assert torch.equal(everything.bytes_at([240])[0], data.heldout().bytes_at([0])[0])


def test_pictures_never_change():
    """Held as coarse means, which every platform must give; a change of them is a change of the data set."""
    pictures = SMALL.build().bytes_at([0, 31, 62, 93]).float().mean((2, 3))
    expected = torch.tensor(EXPECTED)
    assert torch.allclose(pictures, expected, atol=0.5)


def test_any_side_shows_the_same_scene():
    labels = np.arange(12)
    small, large = (render(draw_scenes(0, "train", labels, labels), side) for side in (16, 64))
    coarse = large.reshape(12, 3, 16, 4, 16, 4).astype(float).mean((3, 5))
    assert np.abs(coarse - small).mean() < 12


def test_items_of_a_batch_are_those_of_single_rows():
    stream = SampleStream(SMALL.build(), 0)
    batch = stream.__getitems__([3, 200])
    assert batch.media.dtype == torch.float32 and -1 <= batch.media.min() < batch.media.max() <= 1
    for row, position in enumerate((3, 200)):
        item = stream[position]
        assert torch.equal(batch.media[row], item["media"]) and batch.condition[row] == item["condition"]
    data = SMALL.build()
    assert torch.equal(data.item(5, numpy_rng(0))["media"], data.pixels(5)) and not data.flip
    assert torch.equal(data.pixels(5, mirror=True), data.pixels(5).flip(-1))
    assert data.name(121) == "scene 121 of train: one striped shiny sphere alone at sunset"


def test_wrong_sizes_are_refused():
    for wrong, said in (({"size": 8}, "data.size is 8"), ({"num_images": 3}, "data.num_images is 3")):
        with pytest.raises(ValueError, match=said):
            ScenesConfig(**wrong)
    with pytest.raises(ValueError, match=r"data\.split is 'test'"):
        ScenesConfig(split="test")

"""Which numbers a network is trained on, and what is lost from one kind to another."""

import itertools

import pytest
import torch

from motion.body.features import to_features
from motion.body.placing import place
from motion.body.representations import CONVERSIONS, REPRESENTATIONS, conversion, representation_by_name
from motion.body.skeleton import KIT, SKELETONS, T2M
from tests.motion.bodies import moving
from tests.rows import every_row

SIZES = [("full", 263, 251), ("positions", 67, 64), ("joints", 66, 63)]


@every_row(("name", "t2m", "kit"), SIZES)
def test_joints_go_through_every_kind(name, t2m, kit):
    kind = representation_by_name(name)
    for skeleton, size in ((T2M, t2m), (KIT, kit)):
        joints = place(moving(skeleton, 90, degrees=5.0), skeleton)
        rows = kind.from_joints(joints, skeleton)
        assert rows.shape == (89, size) and kind.size(skeleton) == size and rows.dtype == torch.float32
        assert (kind.to_joints(rows, skeleton) - joints[:-1]).abs().max() < 1e-5
        places = list(kind.slices(skeleton).values())
        assert places[0].start == 0 and places[-1].stop == size
        assert all(first.stop == second.start for first, second in itertools.pairwise(places))


@every_row("skeleton", SKELETONS.values())
@every_row(("source", "target"), [*itertools.product(REPRESENTATIONS, REPRESENTATIONS)])
def test_a_conversion_keeps_the_joints_and_says_what_it_loses(skeleton, source, target):
    first, second = REPRESENTATIONS[source], REPRESENTATIONS[target]
    rows = first.from_joints(place(moving(skeleton, 50, degrees=3.0), skeleton), skeleton)
    way, other = conversion(source, target), first.convert(rows, second, skeleton)
    assert other.shape == (49 - way.frames_lost, second.size(skeleton))
    kept = first.to_joints(rows, skeleton)[: len(other)]
    assert (second.to_joints(other, skeleton) - kept).abs().max() < 1e-5
    back = second.convert(other, first, skeleton)
    same = len(back) == len(rows) and torch.equal(back, rows)
    assert bool(way.loss) or same or (source, target) == ("positions", "joints")
    assert way.frames_lost == 0 or "last frame" in way.loss


def test_rotations_of_positions_are_those_of_its_joints():
    joints = place(moving(T2M, 50), T2M)
    positions = REPRESENTATIONS["positions"].from_joints(joints, T2M)
    full = REPRESENTATIONS["positions"].convert(positions, REPRESENTATIONS["full"], T2M)
    assert (full - to_features(joints[:-1], T2M)).abs().max() < 1e-3
    assert "no twist" in conversion("positions", "full").loss


def test_every_way_between_two_kinds_is_told_once():
    ways = [(way.source, way.target) for way in CONVERSIONS]
    assert sorted(ways) == sorted(itertools.permutations(REPRESENTATIONS, 2))
    assert conversion("full", "full").loss == ""


@every_row(
    ("name", "words"),
    [
        ("263", "data.representation is '263'; allowed: ['full', 'positions', 'joints']"),
        ("272", "MotionStreamer need true rotations at 30 frames per second"),
    ],
)
def test_other_kinds_are_refused(name, words):
    with pytest.raises(ValueError) as caught:
        representation_by_name(name)
    assert words in str(caught.value)

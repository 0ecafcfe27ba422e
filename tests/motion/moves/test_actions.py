"""What every action has to be: bones of one length, feet that stand and do not slide, and the motion that is named."""

import numpy as np
import pytest

from motion.moves.actions import ACTIONS, CLASSES, FPS, render
from motion.moves.kinematics import ANKLES, FEET, HEAD, HIPS, KNEES, MIRRORED, PARENTS, WRISTS, mirror
from tests.rows import every_row

CLIPS = 16  # of each action
FRAMES = 61
LENGTHS = np.resize([40, 48, 60, 55, 44], len(CLASSES) * CLIPS)


@pytest.fixture(scope="module")
def moves():
    """Joints (n, F, J, 3) in float64, and facts."""
    joints, facts = render("train", range(len(CLASSES) * CLIPS), FRAMES, LENGTHS)
    return joints.astype(np.float64), facts


def of(moves, action, **details):
    """Joints of the clips of an action with these details, their sides and lengths."""
    joints, facts = moves
    chosen = [
        i
        for i, each in enumerate(facts)
        if each.action == action and all(each.details[key] == value for key, value in details.items())
    ]
    assert chosen, (action, details)
    return joints[chosen], [facts[i].side for i in chosen], LENGTHS[chosen]


def steps_of(points):
    return np.linalg.norm(np.diff(points, axis=1), axis=-1)


def test_bones_keep_their_lengths_and_bodies_differ(moves):
    joints, _ = moves
    bones = np.linalg.norm(joints[:, :, 1:] - joints[:, :, list(PARENTS[1:])], axis=-1)
    assert np.abs(bones - bones[:, :1]).max() < 1e-5
    heights = joints[:, 0, HEAD, 1]
    assert np.ptp(heights) > 0.2
    left = bones[:, 0, [joint - 1 for joint in (*KNEES, *ANKLES)]]
    np.testing.assert_allclose(left[:, ::2], left[:, 1::2], atol=1e-5)


def test_feet_that_stand_do_not_move_and_nothing_is_below_the_floor(moves):
    joints, facts = moves
    toes = joints[:, :, list(FEET)]
    down = toes[..., 1] < 1e-4
    planted = down[:, 1:] & down[:, :-1]
    assert (steps_of(toes) * planted).max() < 1e-3
    assert joints[..., 1].min() > -1e-5
    flying = {"run", "jump"}
    for name in CLASSES:
        down_of = down[[i for i, each in enumerate(facts) if each.action == name]].any(-1)
        assert down_of.all() if name not in flying else 0.1 < 1 - down_of.mean() < 0.5, name


def test_knees_bend_forward_and_feet_are_where_they_are_planned(moves):
    """A knee is before the line from hip to ankle, as the body looks."""
    joints, _ = moves
    for side in (0, 1):
        hip, knee, ankle, toe = (joints[:, :, each[side]] for each in (HIPS, KNEES, ANKLES, FEET))
        ahead = np.cross(joints[:, :, HIPS[0]] - joints[:, :, HIPS[1]], ankle - hip)
        ahead *= -1  # left across down is behind
        assert ((knee - hip) * ahead).sum(-1).min() > 0
        shin, foot = knee - ankle, toe - ankle
        assert ((shin * foot).sum(-1) / np.linalg.norm(shin, axis=-1) / np.linalg.norm(foot, axis=-1)).max() < 0.6


def test_motion_is_smooth(moves):
    """No joint is faster than a sprinter's foot, and the pelvis is not pushed harder than by a jump."""
    joints, _ = moves
    assert steps_of(joints).max() * FPS < 17
    pushed = np.linalg.norm(np.diff(joints[:, :, 0], 2, axis=1), axis=-1) * FPS**2
    assert np.quantile(pushed, 0.999) < 45 and np.median(pushed) < 5


def test_walks_and_runs_go_where_they_say(moves):
    for action in ("walk", "run"):
        means = []
        for speed in ("slow", "normal", "fast"):
            joints, _, _ = of(moves, action, speed=speed)
            means.append(np.quantile(steps_of(joints[:, :40, 0]) * FPS, 0.9))
        assert means == sorted(means) and means[2] > 1.5 * means[0], (action, means)
    assert means[0] > 1.5  # the slowest run
    joints, sides, _ = of(moves, "walk", course="circle")
    along = joints[:, 30, 0] - joints[:, 0, 0]
    assert all((side == "left") == (x > 0) for side, x in zip(sides, along[:, 0], strict=True))
    joints, _, _ = of(moves, "walk", course="straight")
    assert np.abs(joints[:, :, 0, 0]).max() < 0.1 and joints[:, 40, 0, 2].min() > 0.4


def test_walking_backwards_and_sidesteps(moves):
    joints, _, _ = of(moves, "walk backwards")
    assert (joints[:, 40, 0, 2] < -0.3).all()
    joints, sides, _ = of(moves, "sidestep")
    signs = np.array([1 if side == "left" else -1 for side in sides])
    assert (joints[:, 40, 0, 0] * signs > 0.2).all() and np.abs(joints[:, :, 0, 2]).max() < 0.05
    assert ((joints[:, :, FEET[0], 0] - joints[:, :, FEET[1], 0]) > 0.05).all()  # feet do not cross


def test_a_turn_is_as_far_as_it_says(moves):
    for amount, angle in (("quarter", np.pi / 2), ("half", np.pi)):
        joints, sides, lengths = of(moves, "turn", amount=amount)
        across = joints[:, :, HIPS[0]] - joints[:, :, HIPS[1]]
        heading = np.unwrap(np.arctan2(-across[..., 2], across[..., 0]), axis=1)
        turned = heading[np.arange(len(lengths)), lengths] - heading[:, 0]
        signs = np.array([1 if side == "left" else -1 for side in sides])
        np.testing.assert_allclose(turned * signs, angle, rtol=0.12)
        assert np.abs(joints[:, :, 0, [0, 2]]).max() < 0.1


def test_jumps_leave_the_floor_as_often_and_as_far_as_they_say(moves):
    joints, facts = moves
    for clip, each, length in zip(joints, facts, LENGTHS, strict=True):
        if each.action != "jump":
            continue
        lowest = clip[: length + 1, :, 1].min(-1)
        flights = np.diff((lowest > 0.03).astype(int)) == 1
        assert flights.sum() == each.details["count"], each
        assert (lowest.max() > 0.24) == (each.details["height"] == "high"), each
        assert (clip[length, 0, 2] - clip[0, 0, 2] > 0.3) == (each.details["way"] == "ahead"), each


def test_the_named_limb_moves(moves):
    """The wrist or the foot of the named side goes further up, or ahead, than the other."""
    for action, joints_of_sides, axis in (("wave", WRISTS, 1), ("punch", WRISTS, 2), ("kick", FEET, 1)):
        joints, sides, _ = of(moves, action)
        reach = (joints[..., axis] - joints[:, :1, :1, axis]).max(1)[:, list(joints_of_sides)]
        for side, (left, right) in zip(sides, reach, strict=True):
            assert (left - right > 0.1) == (side == "left") and abs(left - right) > 0.1, (action, side, left, right)


def test_arms_up_hands_together_and_hands_to_the_floor(moves):
    joints, _, _ = of(moves, "raise arms")
    assert (joints[:, :, list(WRISTS), 1].max(1) > joints[:, :, HEAD, 1].max(1)[:, None] + 0.1).all()
    joints, _, _ = of(moves, "clap")
    apart = np.linalg.norm(joints[:, :, WRISTS[0]] - joints[:, :, WRISTS[1]], axis=-1)
    assert (apart.min(1) < 0.12).all() and (apart[:, 15:30].max(1) > 0.2).all()
    joints, sides, _ = of(moves, "pick up")
    lowest = joints[:, :, list(WRISTS), 1].min(1)
    taking = np.array([low[0] if side == "left" else low[1] for side, low in zip(sides, lowest, strict=True)])
    assert taking.max() < 0.35


def test_squats_and_seats_are_low(moves):
    for action, details, low in (
        ("squat", {"depth": "deep"}, 0.7),
        ("sit down", {}, 0.7),
        ("squat", {"depth": "half"}, 0.85),
    ):
        joints, _, _ = of(moves, action, **details)
        assert (joints[:, :, 0, 1].min(1) < low * joints[:, 0, 0, 1]).all(), action
    joints, _, lengths = of(moves, "sit down", end="sits")
    last = joints[np.arange(len(lengths)), lengths, 0, 1]
    assert (last < 0.7 * joints[:, 0, 0, 1]).all()
    joints, _, lengths = of(moves, "sit down", end="rises")
    last = joints[np.arange(len(lengths)), lengths, 0, 1]
    assert (last > 0.97 * joints[:, 0, 0, 1]).all()


def test_squats_are_as_many_as_counted(moves):
    joints, facts = moves
    for clip, each, length in zip(joints, facts, LENGTHS, strict=True):
        if each.action == "squat":
            low = clip[: length + 1, 0, 1] < clip[:, 0, 1].min() + 0.4 * np.ptp(clip[:, 0, 1])
            assert (np.diff(low.astype(int)) == 1).sum() == each.details["count"], each


def test_a_row_is_the_same_whatever_is_made_beside_it(moves):
    joints, facts = moves
    rows = [3, 17, 31, 100, 5]
    alone, said = render("train", rows, FRAMES, LENGTHS[rows])
    np.testing.assert_array_equal(alone, joints[rows].astype(np.float32))
    assert said == [facts[row] for row in rows]
    others, _ = render("heldout", rows, FRAMES, LENGTHS[rows])
    assert np.abs(others - alone).max((1, 2, 3)).min() > 1e-3


def test_left_and_right_are_mirror_images_of_each_other():
    """Of the same numbers: all but the draw of the side."""
    joints, _ = render("train", [6], FRAMES, np.array([50]))
    flipped = mirror(joints, np.array([True]))
    np.testing.assert_array_equal(flipped[..., 0], -joints[:, :, list(MIRRORED), 0])
    np.testing.assert_array_equal(flipped[..., 1:], joints[:, :, list(MIRRORED), 1:])
    np.testing.assert_array_equal(mirror(flipped, np.array([True])), joints)
    np.testing.assert_array_equal(mirror(joints, np.array([False])), joints)


@every_row("action", list(ACTIONS))
def test_every_action_has_both_sides_and_every_detail(action, moves):
    _, facts = moves
    shown = [each for each in facts if each.action == action]
    assert len(shown) == CLIPS and {each.side for each in shown} == {"left", "right"}
    for key in shown[0].details:
        assert len({each.details[key] for each in shown}) > 1, (action, key)

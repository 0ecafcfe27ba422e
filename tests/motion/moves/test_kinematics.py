"""Legs that reach, trunks that bend, and a pelvis that is drawn down without a jerk."""

import numpy as np

from motion.body.skeleton import T2M
from motion.moves.bodies import stand
from motion.moves.chance import WIDTH, Chance
from motion.moves.kinematics import (
    ANKLES,
    ELBOWS,
    FEET,
    HEAD,
    HIPS,
    OFFSETS,
    PARENTS,
    SHOULDERS,
    WRISTS,
    Bodies,
    _calm,
    about,
    bent,
    joints_of,
    two_bones,
)


def standing(frames=3):
    bodies = Bodies(OFFSETS[None])
    t = np.zeros((1, frames))
    return stand(bodies, t, Chance(np.full((1, WIDTH), 0.5))), bodies


def test_the_skeleton_is_that_of_the_published_data():
    assert T2M.parents == PARENTS
    names = T2M.joint_names
    assert [names[joint] for joint in (*HIPS, *ANKLES, *FEET, *WRISTS, HEAD)] == [
        *("left_hip", "right_hip", "left_ankle", "right_ankle", "left_foot", "right_foot"),
        *("left_wrist", "right_wrist", "head"),
    ]


def test_two_bones_meet_their_end_and_bend_about_the_axis():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    end = start + (end - start) / np.linalg.norm(end - start, axis=-1, keepdims=True) * rng.uniform(0.1, 0.85, (50, 1))
    lengths = (np.full((50, 1), 0.4), np.full((50, 1), 0.5))
    axis = rng.normal(size=(50, 3))
    middle, reached = two_bones(start, end, lengths, axis)
    far = np.linalg.norm(end - start, axis=-1) > 0.12
    np.testing.assert_allclose(reached[far], end[far], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(middle - start, axis=-1), 0.4, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(reached - middle, axis=-1), 0.5, atol=1e-12)
    assert (np.cross(end - start, axis) * (middle - start)).sum(-1).min() > 0


def test_a_leg_that_does_not_reach_is_nearly_straight():
    start, end = np.zeros((1, 3)), np.array([[0, -3.0, 0]])
    middle, reached = two_bones(start, end, (np.array([[0.4]]), np.array([[0.4]])), np.array([[1.0, 0, 0]]))
    np.testing.assert_allclose(reached, [[0, -0.8 * 0.995, 0]], atol=1e-12)
    assert 0 < middle[0, 2] < 0.1  # the knee is ahead


def test_rotations_turn_as_they_say():
    quarter = np.array(np.pi / 2)
    np.testing.assert_allclose(about(1, quarter) @ [0, 0, 1], [1, 0, 0], atol=1e-12)  # ahead, to the left
    zero = np.zeros(())
    np.testing.assert_allclose(bent(quarter, zero, zero) @ [0, 1, 0], [0, 0, 1], atol=1e-12)  # up, forward
    np.testing.assert_allclose(bent(zero, quarter, zero) @ [0, 1, 0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(bent(zero, zero, quarter) @ [0, 0, 1], [1, 0, 0], atol=1e-12)


def test_arms_go_where_their_angles_say():
    pose, bodies = standing()
    pose.arms[:] = 0
    pose.arms[:, 1, 0] = [np.pi / 2, 0, 0, 0]  # left arm ahead
    pose.arms[:, 1, 1] = [0, np.pi / 2, 0, 0]  # right arm to its side
    pose.arms[:, 2] = [0, 0, 0, np.pi / 2]  # both forearms ahead
    pose.lean[:] = pose.bend[:] = 0
    joints = joints_of(pose, bodies)[0]
    arms = joints[:, list(WRISTS)] - joints[:, list(SHOULDERS)]
    np.testing.assert_allclose(arms[0], [[0, -0.515, 0]] * 2, atol=1e-9)
    np.testing.assert_allclose(arms[1], [[0, 0, 0.515], [-0.515, 0, 0]], atol=1e-9)
    fore = joints[2, list(WRISTS)] - joints[2, list(ELBOWS)]
    np.testing.assert_allclose(fore, [[0, 0, 0.25]] * 2, atol=1e-9)


def test_feet_that_are_too_far_apart_draw_the_pelvis_down():
    pose, bodies = standing(frames=20)
    high = joints_of(pose, bodies)[0, :, 0, 1]
    pose.toes[:, :, 0, 0] += 0.5
    pose.toes[:, :, 1, 0] -= 0.5
    joints = joints_of(pose, bodies)[0]
    assert (joints[:, 0, 1] < high - 0.1).all()
    np.testing.assert_allclose(joints[:, list(FEET)], pose.toes[0], atol=1e-9)


def test_calm_is_smooth_and_nowhere_below():
    values = np.zeros((1, 40))
    values[0, 20:23] = 1
    calm = _calm(values)
    assert (calm >= values - 1e-12).all() and calm.max() <= 1 + 1e-12
    assert np.abs(np.diff(calm, 2)).max() < 0.1
    np.testing.assert_allclose(_calm(np.full((2, 9), 0.3)), 0.3)

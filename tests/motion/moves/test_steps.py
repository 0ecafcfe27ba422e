"""Planned steps: a foot stands exactly still, and swings from place to place."""

import numpy as np

from motion.moves.steps import FIRST, Gait, Path, steps, times

T = np.arange(0, 3, 0.01)[None]


def gait(**changes):
    values = {"period": 1.0, "duty": 0.6, "phase": 0.0, "width": 0.1, "reach": 0.05, "height": 0.1, "roll": 0.5}
    return Gait(**{key: np.array([value]) for key, value in (values | {"toe_out": 0.1} | changes).items()})


def straight(speed):
    return Path.of(np.full(times().shape, speed), np.zeros(times().shape), np.zeros(1))


def test_a_path_is_followed_at_its_speed():
    place, heading = straight(1.5).at(T)
    np.testing.assert_allclose(place[0, :, 1], 1.5 * T[0], atol=1e-9)
    np.testing.assert_allclose(place[0, :, 0], 0, atol=1e-9)
    circle = Path.of(np.full(times().shape, 1.0), np.full(times().shape, 2.0), np.zeros(1))
    place, heading = circle.at(T)
    np.testing.assert_allclose(heading[0], 2 * T[0], atol=1e-9)
    centre = np.array([0.5, 0])  # a turn to the left, about a place to the left
    np.testing.assert_allclose(np.linalg.norm(place[0] - centre, axis=-1), 0.5, atol=1e-4)
    assert times()[0, 0] == FIRST


def test_a_foot_stands_for_its_duty_and_swings_for_the_rest():
    feet = steps(straight(1.2), gait(), T)
    for side in (0, 1):
        share = feet.phase[0, :, side] % 1
        toes = feet.toes[0, :, side]
        moved = np.linalg.norm(np.diff(toes, axis=0), axis=-1)
        stands = (share[1:] < 0.59) & (share[:-1] < 0.59)
        assert moved[stands].max() < 1e-12 and toes[:-1][stands][:, 1].max() == 0
        amid = np.abs(share - 0.8) < 0.01
        assert toes[amid, 1].min() > 0.09  # a long step is lifted by nearly all of its height
        assert moved[(share[1:] > 0.62) & (share[:-1] < 0.98)].max() < 0.1
    np.testing.assert_allclose(np.diff(np.unique(feet.toes[0, :, 0, 2].round(6)))[[0, -1]], 0, atol=0.02)
    apart = feet.toes[0, :, 0, 0] - feet.toes[0, :, 1, 0]
    np.testing.assert_allclose(apart, 0.2, atol=1e-9)


def test_a_stand_is_amid_the_path():
    """Half of a stand is over when the body passes the foot, which is `reach` ahead."""
    feet = steps(straight(1.2), gait(), T)
    place, _ = straight(1.2).at(T)
    index = 30 + 100  # share 0.3 of a duty of 0.6
    np.testing.assert_allclose(feet.toes[0, index, 0, 2] - place[0, index, 1], 0.05, atol=1e-9)


def test_who_stands_still_lifts_no_foot():
    feet = steps(straight(0.0), gait(), T)
    assert np.ptp(feet.toes, axis=1).max() == 0 and np.abs(feet.pitch).max() == 0

"""Time courses: where they begin and end, and at what speed."""

import numpy as np

from motion.moves.curves import bump, ease, hold, keys, pulses, times_in

X = np.linspace(-0.2, 1.2, 1401)


def test_courses_begin_and_end_at_rest():
    for course, ends in ((ease, (0, 1)), (bump, (0, 0)), (hold, (0, 0))):
        values = course(X)
        np.testing.assert_allclose([values[0], values[-1]], ends, atol=1e-12)
        assert np.abs(np.diff(values)).max() < 0.01 and values.min() >= 0 and values.max() <= 1 + 1e-12
        assert np.abs(np.diff(values)[[200, 1199]]).max() < 1e-5
    assert ease(np.array(0.5)) == 0.5 and bump(np.array(0.5)) == 1 and hold(np.array(0.5)) == 1


def test_pulses_are_counted():
    for count in (1, 2, 3):
        values = pulses(X, np.array(count))
        peaks = (values[1:-1] > values[:-2]) & (values[1:-1] > values[2:])
        assert peaks.sum() == count and values[0] == values[-1] == 0


def test_keys_are_met_at_their_speeds():
    t = np.linspace(0, 2, 2001)[None]
    times, values = [np.array([0.5]), np.array([1.0]), np.array([1.5])], [np.array([v]) for v in (1.0, 2.0, -1.0)]
    curve = keys(t, times, values, [np.array([v]) for v in (0.0, 3.0, 0.0)])[0]
    np.testing.assert_allclose(curve[[0, 500, 1000, 1500, 2000]], [1, 1, 2, -1, -1], atol=1e-12)
    assert abs((curve[1001] - curve[999]) / 0.002 - 3) < 0.03


def test_as_often_as_time_allows():
    assert times_in(np.array([2.0, 3.0, 0.5]), np.array([3, 3, 3]), 0.9).tolist() == [2, 3, 1]

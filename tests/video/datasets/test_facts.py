"""What is known of a file: rates, even time stamps, turns."""

import numpy as np
import pytest

from tests.rows import every_row
from video.datasets.facts import COUNTED, EVEN, VideoFacts, is_even, turn_of, turned


def facts(**changes):
    values = {"frames": 9, "height": 4, "width": 6, "turn": 0, "tick_num": 1, "tick_den": 1000, "first": 40}
    return VideoFacts(**{**values, "last": 360, "access": EVEN, "seekable": 1} | changes)


def test_the_rate_comes_from_the_time_stamps():
    assert facts().rate == pytest.approx(25) and facts().interval == 40
    assert not facts(tick_num=0).timed and facts(tick_num=0).rate == 0


def test_time_stamps_that_are_rounded_are_those_of_a_constant_rate():
    film = np.rint(np.arange(50) * 1001 / 24).astype(np.int64)
    assert is_even(film) and is_even(np.array([5])) and is_even(np.arange(9))
    film[20] += 3
    assert not is_even(film) and not is_even(np.array([0, 1, 3, 4]))


@every_row(
    ("changes", "told"),
    [
        ({"frames": 0}, "it has 0 frames"),
        ({"width": 0}, "its frames are 0 x 4 pixels"),
        ({"height": 2**20, "width": 2**20}, "its frames are 1048576 x 1048576 pixels"),
        ({"last": 40}, "its time stamps give 0 frames/s"),
        ({"last": 44}, "its time stamps give 2e\\+03 frames/s"),
        ({"last": 40 + 10**7}, "its time stamps give 0.0008 frames/s; allowed: 0.02 to 1000"),
        ({"turn": 8}, "not those of a video"),
    ],
)
def test_numbers_that_no_video_has_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        facts(**changes)


def test_a_lone_frame_has_no_rate_to_refuse():
    assert facts(frames=1, last=40, access=COUNTED).interval == 1


@every_row(
    ("matrix", "shown"),
    [
        ([[1, 0], [0, 1]], lambda frame: frame),
        ([[0, -1], [1, 0]], lambda frame: np.rot90(frame, 1)),
        ([[-1, 0], [0, -1]], lambda frame: np.rot90(frame, 2)),
        ([[0, 1], [-1, 0]], lambda frame: np.rot90(frame, 3)),
        ([[-1, 0], [0, 1]], lambda frame: frame[:, ::-1]),
        ([[1, 0], [0, -1]], lambda frame: frame[::-1]),
        ([[0, 1], [1, 0]], lambda frame: frame.swapaxes(0, 1)),
        ([[0, -1], [-1, 0]], lambda frame: np.rot90(frame, 2).swapaxes(0, 1)),
    ],
)
def test_each_display_matrix_turns_a_frame_as_it_says(matrix, shown):
    frame = np.arange(24).reshape(2, 4, 3)
    np.testing.assert_array_equal(turned(frame, turn_of(65536 * np.array(matrix))), shown(frame))

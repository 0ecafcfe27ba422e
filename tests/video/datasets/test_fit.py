"""Frames of any size become those of a clip: their middle, or all of them, resampled with antialias."""

import numpy as np
import pytest
from PIL import Image

from tests.rows import every_row
from video.datasets.fit import Fit, sides


def slopes(height, width):
    """A frame whose red grows to the right and whose green grows downwards, 0 to 255."""
    down, right = np.linspace(0, 255, height)[:, None], np.linspace(0, 255, width)[None]
    planes = np.broadcast_arrays(right, down, np.zeros((height, width)))
    return np.stack(planes, axis=-1).round().astype(np.uint8)


def test_a_frame_of_the_size_asked_for_stays_as_it_is():
    frame = slopes(32, 48)
    np.testing.assert_array_equal(Fit(32, 48)(frame), frame.transpose(2, 0, 1))


def test_the_middle_is_taken_to_the_pixel_and_a_place_moves_it():
    frame = slopes(32, 48)
    np.testing.assert_array_equal(Fit(32, 32)(frame), frame[:, 8:40].transpose(2, 0, 1))
    np.testing.assert_array_equal(Fit(32, 32, place=(0.9, 0.0))(frame), frame[:, :32].transpose(2, 0, 1))
    np.testing.assert_array_equal(Fit(32, 32, place=(0.1, 1.0))(frame), frame[:, 16:].transpose(2, 0, 1))
    np.testing.assert_array_equal(Fit(16, 48)(frame), frame[8:24].transpose(2, 0, 1))


def test_squeezed_frames_show_everything_and_cropped_ones_keep_their_shape():
    frame = slopes(60, 120)
    squeezed, cropped = Fit(30, 30, squeeze=True)(frame), Fit(30, 30)(frame)
    assert squeezed[0, :, 0].max() < 8 and squeezed[0, :, -1].min() > 247
    assert 60 < cropped[0, 15, 0] < 68 and 187 < cropped[0, 15, -1] < 195
    assert cropped[1, 0].max() < 8 and cropped[1, -1].min() > 247


def test_a_mirrored_frame_is_the_frame_from_the_right():
    frame = slopes(20, 30)
    np.testing.assert_array_equal(Fit(10, 10, mirror=True)(frame), Fit(10, 10)(frame)[:, :, ::-1])


def test_fine_stripes_become_grey_and_no_coarse_ones():
    """Without antialias every fourth column would be taken: all white."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = Fit(16, 16)(stripes)[:, 2:-2, 2:-2]
    assert small.min() > 115 and small.max() < 140


@every_row(("height", "width"), [(7, 1), (1, 9), (33, 17), (1, 1), (101, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_sizes_are_brought_to_the_clip_s(height, width, channels):
    assert Fit(16, 24, channels)(slopes(height, width)).shape == (channels, 16, 24)
    assert Fit(16, 24, channels, squeeze=True)(slopes(height, width)).shape == (channels, 16, 24)
    for place in ((0.0, 0.0), (1.0, 1.0), (0.5, 0.5)):
        left, top, right, bottom = Fit(16, 24, place=place).box(height, width)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_grey_is_the_luma_of_rec_601():
    frame = slopes(8, 8)
    np.testing.assert_array_equal(Fit(8, 8, 1)(frame)[0], np.asarray(Image.fromarray(frame).convert("L")))


@every_row("size", [0, -4, [8], [8, 8, 8], [8, 0], 10_000])
def test_sizes_that_no_clip_has_are_refused(size):
    with pytest.raises(ValueError, match=r"data\.size is .*; allowed: a side, or \[height, width\]"):
        sides(size)

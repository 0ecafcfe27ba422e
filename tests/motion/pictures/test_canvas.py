"""What is drawn where: lines, dots, areas."""

import numpy as np

from motion.pictures.canvas import WHITE, Canvas, disc

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def coloured(pixels):
    """(H, W) bool, where it is not white."""
    return (pixels != 255).any(-1)


def test_y_points_up_and_lines_have_their_width_and_round_ends():
    canvas = Canvas(60, 40)
    canvas.lines([np.array([(10.0, 30.0), (40.0, 30.0)])], RED, 6.0)
    drawn = canvas.pixels().copy()
    assert drawn.shape == (40, 60, 3) and drawn.dtype == np.uint8 and tuple(drawn[10, 25]) == (255, 0, 0)
    rows, columns = np.nonzero(coloured(drawn))
    assert (rows.min(), rows.max() + 1) == (7, 13) and (columns.min(), columns.max() + 1) == (7, 43)
    canvas.clear()
    assert not coloured(canvas.pixels()).any()


def test_a_single_point_is_a_dot_and_nan_breaks_a_line():
    canvas = Canvas(60, 40)
    canvas.lines([np.array([(30.0, 20.0)])], BLUE, 8.0)
    assert abs(int(coloured(canvas.pixels()).sum()) - np.pi * 16) < 20
    canvas.clear()
    canvas.lines(
        [np.array([(5.0, 20.0), (20.0, 20.0), (np.nan, np.nan), (40.0, 20.0), (55.0, 20.0)]), np.ones((2, 2))], RED, 2.0
    )
    drawn = coloured(canvas.pixels())
    assert drawn[20, 10] and drawn[20, 50] and not drawn[:, 25:35].any()
    canvas.lines([], RED, 2.0)
    assert (coloured(canvas.pixels()) == drawn).all()


def test_an_area_with_an_edge_and_one_that_is_transparent():
    canvas = Canvas(60, 60)
    canvas.area(disc(np.array([30.0, 30.0]), np.array([20.0, 0.0]), np.array([0.0, 10.0])), RED, BLUE, 2.0)
    drawn = canvas.pixels()
    assert tuple(drawn[30, 30]) == (255, 0, 0) and tuple(drawn[30, 10]) == (0, 0, 255) and not coloured(drawn)[15].any()
    canvas.area(np.array([(0.0, 0.0), (60.0, 0.0), (60.0, 60.0), (0.0, 60.0)]), (*WHITE, 0.5))
    assert abs(int(canvas.pixels()[30, 30, 1]) - 128) < 4

"""Skeletons that play: sides, floor, camera, words; and film strips of them."""

import numpy as np
import pytest

from core.data.lettering import font
from core.data.movies import MAX_SIDE
from motion.body.skeleton import KIT, T2M
from motion.pictures.animation import EDGE, LINE, SCENE, TEXT, WIDTH, animate, blank, draw_scenes, grid, to_bytes
from motion.pictures.camera import AZIMUTH, follow
from motion.pictures.figure import LEFT, RIGHT, SHADOW, Figure, grid_lines
from motion.pictures.strips import POSE, POSES, sheet, strip
from tests.motion.walker import turned, walk
from tests.rows import every_row

FPS = 20.0
SIZE = (WIDTH, SCENE)
BODY = Figure(T2M)
LONG = "a person walks in a circle, stops, looks around, waves with both hands over the head and then goes back again"


def places(picture, colour):
    """(n, 2) the (x, y) of the pixels of exactly a colour, y up."""
    rows, columns = np.nonzero((picture == to_bytes(colour)).all(-1))
    return np.stack([columns, picture.shape[0] - 1 - rows], axis=1)


def drawn(joints, chosen, figure, fps, size):
    """The chosen frames (n, H, W, 3) of a clip."""
    return draw_scenes(joints, chosen, figure, fps, blank(len(chosen), size))


def standing(skeleton, heading):
    """(1, J, 3) of a body that looks `heading` to its left of +z."""
    return walk(skeleton, 1) @ turned(1, heading).T


def test_left_and_right_are_where_a_viewer_sees_them():
    """Who looks at the camera has the left side on the right of the picture, who looks away on the left."""
    for heading, sign in ((AZIMUTH, 1), (AZIMUTH + np.pi, -1)):
        (picture,) = drawn(standing(T2M, heading), [0], BODY, FPS, SIZE)
        left, right = (places(picture, colour)[:, 0].mean() for colour in (LEFT, RIGHT))
        assert sign * (left - right) > 10, (heading, left, right)


@every_row("skeleton", [T2M, KIT])
def test_each_limb_has_the_colour_of_its_side(skeleton):
    joints = walk(skeleton, 24, turn=0.27)
    view, pictures = follow(joints, FPS, *SIZE), drawn(joints, range(24), Figure(skeleton), FPS, SIZE)
    seen = set()
    for frame, picture in enumerate(pictures):
        for joint in skeleton.left | skeleton.right:
            x, y = view.project(joints[frame, joint], frame).round().astype(int)
            found, own = tuple(picture[SCENE - 1 - y, x]), LEFT if joint in skeleton.left else RIGHT
            seen |= {joint} if found == to_bytes(own) else set()
    assert seen == skeleton.left | skeleton.right, "each is seen in one of the frames"


def test_who_stands_on_the_floor_is_drawn_on_it():
    joints = standing(T2M, 0.0)
    view, (picture,) = follow(joints, FPS, *SIZE), drawn(joints, [0], BODY, FPS, SIZE)
    for foot, colour in ((10, LEFT), (11, RIGHT)):
        x, y = view.project(joints[0, foot] * (1, 0, 1), 0)
        lowest = places(picture, colour)[:, 1].min()
        assert joints[0, foot, 1] == pytest.approx(0) and abs(lowest - y) < 8, "but for the width of the line"
    joints[..., 1] += 0.4
    view, (picture,) = follow(joints, FPS, *SIZE), drawn(joints, [0], BODY, FPS, SIZE)
    x, y = view.project(joints[0, 11] * (1, 0, 1), 0).round().astype(int)
    assert tuple(picture[SCENE - 1 - y, x]) == to_bytes(SHADOW), "who jumps has left the shadow"


@every_row(("turn", "speed"), [(0.0, 0.3), (0.1, 0.1), (0.0, 0.0)])
def test_the_camera_follows_and_nothing_is_cut_off(turn, speed):
    joints = walk(T2M, 40, turn, speed)
    view = follow(joints, FPS, *SIZE)
    seen = np.stack([view.project(pose, frame) for frame, pose in enumerate(joints)])
    assert (seen > 0).all() and (seen < SIZE).all() and np.abs(seen[:, 0, 0] - WIDTH / 2).max() < 40
    assert np.ptp(seen[..., 1]) > 0.55 * SCENE, "and it is large"


def test_the_grid_of_the_floor_stands_still_in_the_world():
    """Lines at multiples of half a metre, wherever the camera is, inside the disc."""
    for centre in (np.zeros(3), np.array([3.3, 0.0, -8.21])):
        for line in grid_lines(centre, 1.2):
            fixed = int(line[0, 0] != line[1, 0]) * 2
            assert (2 * line[:, fixed] % 1 == 0).all() and (line[:, 1] == 0).all()
            assert np.linalg.norm(line - centre, axis=1) == pytest.approx([1.2, 1.2])


def test_a_clip_plays_under_its_title_over_its_seconds():
    frames = animate(walk(T2M, 6), LONG, BODY, FPS)
    lines = -(-font(TEXT).getlength(LONG) // (WIDTH - 2 * EDGE))
    top = LINE * int(lines) + EDGE
    assert frames.shape == (6, top + SCENE + LINE + EDGE, WIDTH, 3) and frames.dtype == np.uint8
    assert (frames[:, :top] == frames[0, :top]).all() and frames[0, :top].min() < 100
    below = frames[:, top + SCENE :]
    assert (below[:, :, : WIDTH // 2] == below[0, :, : WIDTH // 2]).all(), "left and right are explained"
    assert len(places(below[0], LEFT)) > 50 and len(places(below[0], RIGHT)) > 50
    assert all((below[number] != below[number - 1]).any() for number in range(1, 6)), "and time passes"
    assert (frames[:, :, -2:][:, :top] == 255).all() and (below[:, :, -2:] == 255).all(), "nothing is cut off"


@pytest.mark.filterwarnings("error")
def test_titles_fit_whatever_they_are():
    for title in (LONG * 5, "x" * 500, "ünïcödé Ж “quoted”", " two\nlines\t", "音楽", ""):
        frames, picture = animate(walk(T2M, 1), title, BODY, FPS), np.asarray(strip(walk(T2M, 1), title, BODY, FPS))
        assert len(frames) == 1 and (frames[0, :LINE, -2:] == 255).all() and (picture[:LINE, -2:] == 255).all(), title


def test_clips_of_any_lengths_play_side_by_side_and_who_is_over_gets_pale():
    clips = [walk(T2M, length) for length in (2, 5, 1, 3, 4)]
    playing = grid(clips, ["a", LONG, "", "d", "e"], T2M, FPS)
    lone = animate(clips[0], "a", BODY, FPS, lines=(playing.shape[1] // 2 - SCENE - LINE - 2 * EDGE) // LINE)
    height = lone.shape[1]
    assert playing.shape == (5, 2 * height, 4 * WIDTH, 3)
    assert (playing[:2, :height, :WIDTH] == lone).all()
    over = playing[2:, :height, :WIDTH]
    assert (over == over[0]).all() and over.min() > 100 and (255 - over[0] <= 255 - lone[1]).all()
    assert (playing[:, height:, :WIDTH] != 255).any() and (playing[:, height:, WIDTH:] == 255).all(), "places left over"


def test_a_grid_of_many_clips_has_as_many_as_players_take():
    playing = grid([walk(T2M, 1)] * 40, ["a"] * 40, T2M, FPS)
    assert MAX_SIDE / 2 < playing.shape[1] <= MAX_SIDE


@every_row(("frames", "poses"), [(60, POSES), (POSES, POSES), (2, 2), (1, 1)])
def test_a_strip_has_poses_from_the_first_to_the_last(frames, poses):
    joints = walk(T2M, frames)
    picture = np.asarray(strip(joints, "a person walks", BODY, FPS))
    assert picture.shape == (LINE + EDGE + POSE[1] + LINE + EDGE, POSES * POSE[0], 3)
    first, last = drawn(joints, [0, frames - 1], BODY, FPS, POSE)
    top, x = LINE + EDGE, (poses - 1) * POSE[0]
    assert (picture[top : top + POSE[1], : POSE[0]] == first).all()
    assert (picture[top : top + POSE[1], x : x + POSE[0]] == last).all()
    assert (picture[top:, x + POSE[0] :] == 255).all() and picture[top + POSE[1] :, x : x + POSE[0]].min() < 150


def test_a_sheet_explains_its_colours_once():
    picture = np.asarray(sheet([walk(T2M, 4), walk(T2M, 1)], ["one", "two"], T2M, FPS))
    head = LINE + 2 * EDGE
    assert picture.shape == (head + 2 * (LINE + EDGE + POSE[1] + LINE + EDGE), POSES * POSE[0], 3)
    assert len(places(picture[:head], LEFT)) > 50 and len(places(picture[:head], RIGHT)) > 50


def test_the_head_looks_where_the_body_faces():
    for heading in (0.0, 1.0, -2.0):
        facing = BODY.facing(standing(T2M, heading)[0])
        assert facing == pytest.approx([np.sin(heading), 0, np.cos(heading)], abs=1e-6)
    assert BODY.facing(np.zeros((22, 3))) == pytest.approx([0, 0, 0])
    assert (Figure(T2M).head, Figure(KIT).head) == (15, 4)


def test_broken_samples_can_be_looked_at():
    """All joints in one point, far off, and a joint that flies away."""
    flying = walk(T2M, 3)
    flying[1, 20] = 1e9
    for joints in (np.zeros((2, 22, 3)), np.full((2, 22, 3), 1e6), flying, -walk(T2M, 2)):
        assert drawn(joints, range(len(joints)), BODY, FPS, SIZE).shape == (len(joints), SCENE, WIDTH, 3)

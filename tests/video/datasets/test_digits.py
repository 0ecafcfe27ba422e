"""Moving digits: what a class means, that they bounce smoothly, and that a clip is a function of its split and row."""

import numpy as np
import pytest
import torch

from core.data.digits import SIDE, read_digits
from tests.rows import every_row
from video.datasets.clips import ClipConfig
from video.datasets.digits import CLASSES, DIRECTIONS, DigitsConfig, render, spline

ROOM = 8  # pixels that a digit can move on a canvas of 16


def on_canvas(**options):
    return DigitsConfig(size=SIDE + ROOM, **options)


@pytest.fixture(scope="module")
def clips():
    return on_canvas(num_clips=400).build()


def centres(media):
    """Rows and columns (n, F, 2) of the centre of brightness of clips (n, 1, F, H, W)."""
    light = media[:, 0] + 1
    places = torch.arange(light.shape[-1], dtype=light.dtype)
    total = light.sum((2, 3))
    return torch.stack([(light.sum(3) * places).sum(2) / total, (light.sum(2) * places).sum(2) / total], dim=-1)


def test_forty_classes_in_turn(clips):
    assert len(CLASSES) == 40 and CLASSES[13] == "3 left" and clips.class_names == CLASSES
    assert clips.media_shape == (1, 16, 16, 16) and clips.all().shape == (400, *clips.media_shape)
    assert torch.equal(clips.labels, torch.arange(400) % 40)
    assert clips.name(13) == "clip 13 of train: 3 left"
    shown = clips.describe(53)
    assert (shown.digit, shown.direction) == (3, "left")


def test_a_digit_starts_in_its_direction_and_comes_back_to_where_it_began(clips):
    moved = centres(clips.all()).diff(dim=1)  # (n, F - 1, 2)
    for label, name in enumerate(CLASSES[:4]):
        down, right = DIRECTIONS[name.split()[1]]
        along, sign = (0, down) if down else (1, right)
        first = moved[clips.labels % 4 == label][:, :3, along] * sign
        assert first.min() > 0.85  # a pixel a frame for at least four frames, but for the kernel's ripple
        across = moved[clips.labels % 4 == label][..., 1 - along].abs()
        assert 0.15 < across.max() < 0.5 and moved[clips.labels % 4 == label][..., along].abs().max() < 1.15
    for index in range(40):
        shown = clips.describe(index)
        path = shown.positions(17, ROOM)[0]
        along = int(np.abs(shown.velocities[0]).argmax())
        assert path[16, along] == pytest.approx(path[0, along]) and path.min() >= 0 and path.max() <= ROOM


def test_all_frames_together_do_not_tell_the_way(clips):
    """Where a digit is over a clip, whenever it is, has the same distribution for left and right, up and down."""
    along = {"right": 1, "left": 1, "up": 0, "down": 0}
    places = {name: [] for name in along}
    for index in range(400):
        shown = clips.describe(index)
        places[shown.direction] += np.floor(shown.positions(16, ROOM)[0][:, along[shown.direction]]).tolist()
    for one, other in (("right", "left"), ("up", "down")):
        counts = [np.bincount(np.array(places[name], int), minlength=ROOM)[:ROOM] for name in (one, other)]
        assert np.abs(counts[0] - counts[1]).max() <= 0.1 * max(counts[0])


def test_a_clip_is_a_function_of_split_and_row(clips):
    more = on_canvas(num_clips=800).build()
    batch = more.items(np.array([7, 399]), [])
    assert torch.equal(batch["media"], torch.stack([clips.clip_at(7), clips.clip_at(399)]))
    assert batch["condition"].tolist() == [7, 39]
    item = clips.item(7, np.random.default_rng(5))
    assert torch.equal(item["media"], clips.clip_at(7)) and int(item["condition"]) == 7
    heldout = on_canvas(split="heldout", num_clips=400).build()
    assert len(heldout) == 20 and not torch.equal(heldout.clip_at(0), clips.clip_at(0))
    both = on_canvas(split="all", num_clips=400).build()
    assert len(both) == 420 and torch.equal(both.clip_at(400), heldout.clip_at(0))


def test_held_out_clips_show_held_out_drawings(clips):
    for split in ("train", "heldout"):
        data = on_canvas(split=split, num_clips=400).build()
        drawings = read_digits(split)
        shown = data.describe(5)
        image = (drawings.images[drawings.labels == shown.digit][shown.drawings[0]] + 1) / 2
        still = torch.full((1, 1, 1, 2), 4.0)
        sharp = render(image[None, None], still, 16)[0, 0]
        sums = data.clip_at(5)[0].add(1).sum((1, 2)) / 2
        assert sums[0] == pytest.approx(float(sharp.sum()), rel=0.1)


def test_motion_is_smooth_between_pixels():
    """The kernel sums to 1 at every place, so that brightness does not flicker; a drawing moves by what is asked."""
    places = torch.linspace(0, 1, 11)
    sums = spline(places[:, None] - torch.arange(-3, 4)).sum(1)
    torch.testing.assert_close(sums, torch.ones(11))
    image = torch.zeros(SIDE, SIDE)
    image[2:6, 2:6] = 1
    path = torch.stack([torch.linspace(2, 6, 9), torch.linspace(6, 2, 9)], dim=-1)
    moved = centres(2 * render(image[None, None], path[None, None], 16)[:, None] - 1)[0].diff(dim=0)
    torch.testing.assert_close(moved, torch.tensor([[0.5, -0.5]]).expand(8, 2), atol=0.02, rtol=0)


def test_two_digits_are_different_drawings_that_start_the_same_way():
    clips = on_canvas(num_clips=400, digits=2).build()
    for index in range(0, 400, 7):
        shown = clips.describe(index)
        assert shown.drawings[0] != shown.drawings[1]
        along = int(np.abs(shown.velocities[0]).argmax())
        assert shown.velocities[0, along] == shown.velocities[1, along]
    assert clips.clip_at(3).add(1).sum() > 1.2 * on_canvas(num_clips=400).build().clip_at(3).add(1).sum()


@every_row(
    ("options", "words"),
    [
        ({"split": "test"}, "data.split is 'test'; allowed"),
        ({"num_clips": 3}, "data.num_clips is 3; it must be at least 20"),
        ({"digits": 3}, "data.digits is 3; allowed: 1 or 2"),
        ({"size": 9}, "data.size is 9; allowed: 10 to 256"),
        ({"clip": ClipConfig(stride=2)}, "data.clip.stride 2; moving digits are made frame by frame"),
        ({"clip": ClipConfig(fps=8.0)}, "data.clip.fps is 8.0"),
    ],
)
def test_bad_options_are_refused_by_their_key(options, words):
    with pytest.raises(ValueError) as error:
        DigitsConfig(**options)
    assert words in str(error.value)

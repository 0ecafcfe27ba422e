"""The files that a person looks at: what is in them, at which rate, under which titles, in which bytes."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.contracts import Requests, TokenSequence
from core.data.lettering import wrapped
from core.data.movies import MAX_SIDE
from core.storage.run_folder import RunDirectory
from eval.pages.page import last_previews
from tests.played import clips, psnr, read
from video import preview
from video.preview import (
    GAP,
    LINE,
    MAX_CLIPS,
    TITLE_WIDTH,
    VideoPreview,
    contact_sheet,
    draw_sheet,
    grid,
    to_frames,
)

STEP = "step_00001500"


def media(*args, **kwargs):
    """The same as media (B, C, F, H, W) in [-1, 1]."""
    return torch.from_numpy(clips(*args, **kwargs)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def names(folder):
    return sorted(file.name for file in folder.iterdir())


# --- several clips


def test_a_grid_has_every_clip_enlarged_by_squares_over_its_title():
    playing = grid(list(clips(11, height=16, width=20)), [f"title {k}" for k in range(11)])
    assert playing.shape == (6, 2 * (80 + LINE + 2 * GAP), 8 * (100 + 2 * GAP), 3)
    for number in (0, 7, 8, 10):
        y, x = number // 8 * (80 + LINE + 2 * GAP) + GAP, number % 8 * (100 + 2 * GAP) + GAP
        tile = playing[:, y : y + 80, x : x + 100]
        assert np.array_equal(tile, clips(11, height=16, width=20)[number].repeat(5, 1).repeat(5, 2)), number
        title = playing[:, y + 80 : y + 80 + LINE, x : x + 100]
        assert title.min() < 100 and (title == title[0]).all()
    assert (playing[:, -100:, 3 * (100 + 2 * GAP) :] == 255).all(), "places that are left are white"


def test_a_grid_of_large_clips_has_as_many_as_players_take():
    large = np.broadcast_to(clips(1, height=1, width=1, frames=2), (1, 2, 700, 900, 3))[0]
    playing = grid([large] * 9, ["a"] * 9)
    assert (
        playing.shape[1:3] == (2 * (700 + LINE + 2 * GAP), 2 * (900 + 2 * GAP)) and max(playing.shape[1:3]) < MAX_SIDE
    )
    huge = np.zeros((1, 10, 3000, 1), np.uint8)
    assert grid([huge] * 2, ["a"] * 2).shape == (1, 2 * (10 + LINE + 2 * GAP), 3000 + 2 * GAP, 3)


def test_a_contact_sheet_has_a_row_for_each_clip_and_a_column_for_each_frame(tmp_path):
    shown = clips(3, frames=5, height=24, width=48)
    file = contact_sheet(shown, ["one", "two", ""], tmp_path / "sheet.png", 8.0)
    with Image.open(file) as image:
        sheet = np.asarray(image)
    assert sheet.shape == (LINE + 3 * (24 + GAP) + GAP, TITLE_WIDTH + 5 * (48 + GAP), 3)
    for row in range(3):
        y = LINE + row * (24 + GAP)
        for number in range(5):
            x = TITLE_WIDTH + number * (48 + GAP)
            assert np.array_equal(sheet[y : y + 24, x : x + 48], shown[row, number])
        assert (sheet[y : y + 24, : TITLE_WIDTH - GAP].min() < 100) == (row < 2), "a title where there is one"


def test_a_contact_sheet_of_long_large_and_unequal_clips():
    """Frames from the first to the last, shrunk without aliasing; numbers over columns only where they are those."""
    long = np.arange(81, dtype=np.uint8)[:, None, None, None].repeat(300, 1).repeat(400, 2)
    sheet = np.asarray(draw_sheet([long], ["long"]))
    assert sheet.shape == (LINE + 144 + 2 * GAP, TITLE_WIDTH + 16 * (192 + GAP), 3)
    values = [int(sheet[LINE + 70, TITLE_WIDTH + place * (192 + GAP) + 90, 0]) for place in range(16)]
    assert values == [round(each) for each in np.linspace(0, 80, 16)]
    stripes = np.zeros((1, 400, 400, 1), np.uint8)
    stripes[:, :, ::2] = 254
    inside = np.asarray(draw_sheet([stripes], [""]))[LINE + 20 : LINE + 100, TITLE_WIDTH + 20 : TITLE_WIDTH + 100]
    assert inside.min() > 80 and inside.max() < 175
    unequal = np.asarray(draw_sheet([clips(1, frames=3)[0], clips(1, frames=5)[0]], ["a", "b"]))
    assert unequal.shape[1] == TITLE_WIDTH + 5 * (52 + GAP) and (unequal[:LINE, TITLE_WIDTH:] == 255).all()


@pytest.mark.filterwarnings("error")
def test_titles_fit_their_place_whatever_they_are():
    long = "a blue sphere hits a red cube, and then both of them roll away from the camera"
    for title in (long, "x" * 500, "ünïcödé Ж", "  two\nlines\t", "音楽", ""):
        sheet = np.asarray(draw_sheet([clips(1, height=30)[0]], [title]))
        assert (sheet[LINE:, TITLE_WIDTH - 1] == 255).all(), "nothing runs into the frames"
        tile = grid([clips(1, height=96, width=100)[0]], [title])
        assert (tile[:, GAP + 96 :, -GAP:] == 255).all(), title
    assert wrapped(long, 110, 2)[1].endswith("…")
    assert " ".join(wrapped(long, 110, 20)) == long


# --- the preview of a run


def test_equal_frames_give_equal_files(tmp_path):
    for number in range(2):
        VideoPreview([], 8.0, gif=True).save(media(3), None, tmp_path / str(number) / "a")
    for name in ("a.mp4", "a.gif", "a.png"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), name


def test_a_sheet_a_clip_and_on_request_a_gif_that_a_report_finds(tmp_path):
    run = RunDirectory(tmp_path)
    for step, gif in (("step_00000500", False), (STEP, True)):
        file = VideoPreview(["ball"], 8.0, gif).save(media(2), torch.tensor([0, 1]), run.previews / step)
        assert file == run.previews / f"{step}.png"
    assert names(run.previews) == [f"step_00000500.{end}" for end in ("mp4", "png")] + [
        f"{STEP}.{end}" for end in ("gif", "mp4", "png")
    ]
    assert {file.name[:13] for file in last_previews(run)} == {STEP}
    shown, times = read(run.previews / f"{STEP}.mp4")
    playing = grid(list(to_frames(media(2))), ["ball", "no class"])
    assert shown.shape == playing.shape and psnr(shown, playing) > 30 and times[1] == pytest.approx(1 / 8)
    sheet = draw_sheet(list(to_frames(media(2))), ["ball", "no class"], 8.0)
    with Image.open(run.previews / f"{STEP}.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(sheet))


def test_titles_of_every_kind_of_condition(tmp_path):
    labels, shown = torch.tensor([1, 0, 2]), VideoPreview(["left", "right"], 8.0)
    assert shown.titles(labels, 3) == shown.titles(Requests(labels), 3) == ["right", "left", "no class"]
    texts = TokenSequence(torch.zeros(3, 2, 4), torch.ones(3, 2, dtype=torch.bool))
    for condition in (None, texts, Requests(texts), torch.zeros(3, 8)):
        assert shown.titles(condition, 3) == ["sample 0", "sample 1", "sample 2"]
    files = [shown.save(media(2), texts, tmp_path / name, titles=["a dog", name]) for name in ("a cat", "two cats")]
    assert files[0].read_bytes() != files[1].read_bytes()


def test_of_many_samples_whole_rounds_are_shown(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(preview, "contact_sheet", lambda clips, titles, path, fps: seen.append(titles))
    VideoPreview(["a", "b", "c"], 8.0).save(media(60, frames=1), torch.arange(60) % 3, tmp_path / STEP)
    assert len(seen[0]) == MAX_CLIPS - MAX_CLIPS % 3 and seen[0][:4] == ["a", "b", "c", "a"]


def test_samples_that_are_broken_can_be_looked_at(tmp_path):
    """Out of range, and one of one frame of one pixel."""
    VideoPreview([], 8.0, gif=True).save(media(2) * 9, None, tmp_path / "loud")
    VideoPreview([], 8.0, gif=True).save(torch.zeros(1, 1, 1, 1, 1), None, tmp_path / "pixel")
    assert len(names(tmp_path)) == 6
    with pytest.raises(ValueError, match="0 frames a second"):
        VideoPreview([], 0)

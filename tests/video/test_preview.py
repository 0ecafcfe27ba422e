"""The files that a person looks at: what is in them, at which rate, under which titles, in which bytes."""

import io
import math

import av
import numpy as np
import pytest
import torch
from PIL import Image

from core.contracts import Requests, TokenSequence
from core.storage.run_folder import RunDirectory
from eval.pages.page import last_previews
from tests.rows import every_row
from video import preview
from video.preview import (
    GAP,
    LINE,
    MAX_CLIPS,
    MAX_SIDE,
    TITLE_WIDTH,
    VideoPreview,
    contact_sheet,
    draw_sheet,
    grid,
    mp4,
    to_frames,
    write_gif,
    write_mp4,
)

STEP = "step_00001500"
LUMA = np.array([0.2126, 0.7152, 0.0722])  # of BT.709


def clips(count, channels=3, frames=6, height=20, width=26):
    """Clips (count, F, H, W, C) uint8 whose colours move slowly over the picture."""
    axes = [np.arange(size) / 10 for size in (count, frames, height, width, channels)]
    phases = sum(np.ix_(*(axis * scale for axis, scale in zip(axes, (20, 3, 2, 1, 17), strict=True))))
    return (127.5 + 127 * np.sin(phases)).astype(np.uint8)


def media(*args, **kwargs):
    """The same as media (B, C, F, H, W) in [-1, 1]."""
    return torch.from_numpy(clips(*args, **kwargs)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def read(file):
    """Frames (F, H, W, 3) of a file that plays, and when each begins, in seconds."""
    with av.open(file if isinstance(file, io.BytesIO) else str(file)) as container:
        (stream,) = container.streams
        frames = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(stream)]
    return np.stack([frame for frame, _ in frames]), [time for _, time in frames]


def psnr(a, b):
    return 10 * math.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b.astype(float)) ** 2)))


def names(folder):
    return sorted(file.name for file in folder.iterdir())


# --- files that play


@every_row(
    ("channels", "frames", "height", "width", "fps"),
    [(3, 6, 20, 26, 8.0), (3, 5, 21, 27, 24.0), (1, 6, 16, 16, 8.0), (3, 1, 2, 2, 1.0), (1, 3, 1, 1, 0.5)],
)
def test_an_mp4_is_read_back(tmp_path, channels, frames, height, width, fps):
    """Every frame at its time, near the original; odd sides have a last row or column once more."""
    clip = clips(1, channels, frames, height, width)[0]
    file = write_mp4(clip, tmp_path / "deep" / "a.mp4", fps)
    assert names(file.parent) == ["a.mp4"]
    shown, times = read(file)
    assert shown.shape == (frames, height + height % 2, width + width % 2, 3)
    assert times == pytest.approx([number / fps for number in range(frames)], abs=1e-3)
    assert psnr(shown[:, :height, :width] @ LUMA, np.broadcast_to(clip, (*clip.shape[:3], 3)) @ LUMA) > 33
    assert psnr(shown[:, :height, :width], clip) > 24  # 4:2:0 has one colour for four pixels
    edges = ((shown[:, -1], shown[:, height - 1]), (shown[:, :, -1], shown[:, :, width - 1]))
    assert all(psnr(added @ LUMA, last @ LUMA) > 30 for added, last in edges)


def test_an_mp4_is_what_browsers_play():
    data = mp4(clips(1)[0], 23.976)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == pytest.approx(23.976)
        colours = (stream.codec_context.colorspace, stream.codec_context.color_range)
        assert colours == (preview.BT709, preview.LIMITED_RANGE)
        assert "encoder" not in container.metadata | stream.metadata
    assert 0 < data.index(b"moov") < data.index(b"mdat"), "its index in front"


def test_colours_are_kept():
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (90, 160, 200)):
        shown, _ = read(io.BytesIO(mp4(np.tile(np.uint8(colour), (2, 32, 32, 1)), 8.0)))
        assert np.abs(shown.astype(int) - colour).max() <= 4, colour


def test_equal_frames_give_equal_files(tmp_path):
    for number in range(2):
        VideoPreview([], 8.0, gif=True).save(media(3), None, tmp_path / str(number) / "a")
    for name in ("a.mp4", "a.gif", "a.png"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), name


@every_row(("channels", "fps"), [(3, 8.0), (1, 16.0), (3, 30.0)])
def test_a_gif_is_read_back(tmp_path, channels, fps):
    clip = clips(1, channels, 9)[0]
    file = write_gif(clip, tmp_path / "a.gif", fps)
    with Image.open(file) as image:
        shown = []
        for number in range(image.n_frames):
            image.seek(number)
            shown.append((np.asarray(image.convert("RGB")), image.info["duration"]))
        assert image.info["loop"] == 0
    frames = np.stack([frame for frame, _ in shown])
    assert np.array_equal(frames, np.repeat(clip, 3, axis=-1)) if channels == 1 else psnr(frames, clip) > 25
    assert sum(duration for _, duration in shown) == pytest.approx(1000 * 9 / fps, abs=10)
    assert {duration for _, duration in shown} <= {10 * math.floor(100 / fps), 10 * math.ceil(100 / fps)}


def test_what_stands_still_does_not_flicker_in_a_gif(tmp_path):
    clip = np.repeat(clips(1, frames=1)[0], 4, axis=0)
    clip[:, :2, :2] = clips(1, frames=4)[0][:, :2, :2]
    shown, _ = read(write_gif(clip, tmp_path / "a.gif", 8.0))
    assert (shown[1:, 2:, 2:] == shown[0, 2:, 2:]).all() and (shown[1, :2, :2] != shown[0, :2, :2]).any()


@every_row(
    ("frames", "fps", "parts"),
    [
        (np.zeros((2, 4, 4, 2), np.uint8), 8.0, r"uint8 of shape \(2, 4, 4, 2\); needed: uint8 \(F, H, W, C\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), 8.0, r"\(0, 4, 4, 3\)"),
        (np.zeros((2, 4, 4, 3), np.float32), 8.0, "float32"),
        (clips(1)[0], 0.0, "0.0 frames a second; allowed: 0.001 to 1000"),
        (clips(1)[0], math.nan, "nan frames a second"),
    ],
)
def test_what_cannot_play_is_refused(tmp_path, frames, fps, parts):
    with pytest.raises(ValueError, match=parts):
        write_mp4(frames, tmp_path / "a.mp4", fps)
    assert names(tmp_path) == []


def test_a_disk_that_is_full_leaves_no_half_of_a_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    write_mp4(clips(1)[0], tmp_path / "a.mp4", 8.0)
    before = (tmp_path / "a.mp4").read_bytes()
    for module, name in (("tempfile", "TemporaryDirectory"), ("video.preview", "mp4")):
        with (
            monkeypatch.context() as patch,
            pytest.raises(OSError, match=r"a\.mp4 could not be written: No space left"),
        ):
            patch.setattr(f"{module}.{name}", full)
            write_mp4(clips(1)[0], tmp_path / "a.mp4", 8.0)
    monkeypatch.setattr(preview, "mp4", lambda frames, fps: b"new")
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match=r"a\.mp4 could not be written: No space left on device"):
        write_mp4(clips(1)[0], tmp_path / "a.mp4", 8.0)
    assert names(tmp_path) == ["a.mp4"] and (tmp_path / "a.mp4").read_bytes() == before


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
    assert preview._wrapped(long, 110, 2)[1].endswith("…")
    assert " ".join(preview._wrapped(long, 110, 20)) == long


# --- the preview of a run


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


def test_equal_frames_give_equal_bytes_whatever_the_memory_held():
    rng = np.random.default_rng(0)
    others = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((8, 50, 34, 3), (8, 100, 404, 3))]
    clip = rng.integers(0, 256, (16, 12, 12, 1), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    found = set()
    for number in range(25):
        used = np.full(100_000 * (number + 1), number, dtype=np.uint8)
        del used
        mp4(others[number % 2], 8.0)
        found.add(mp4(clip, 8.0))
    assert len(found) == 1

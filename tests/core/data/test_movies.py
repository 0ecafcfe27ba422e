"""Files that play: what is in them, at which rate, in which bytes."""

import io
import math

import av
import numpy as np
import pytest
from PIL import Image

from core.data import movies
from core.data.movies import mp4, write_gif, write_mp4
from tests.played import LUMA, clips, psnr, read
from tests.rows import every_row


def names(folder):
    return sorted(file.name for file in folder.iterdir())


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
        assert colours == (movies.BT709, movies.LIMITED_RANGE)
        assert "encoder" not in container.metadata | stream.metadata
    assert 0 < data.index(b"moov") < data.index(b"mdat"), "its index in front"


def test_colours_are_kept():
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (90, 160, 200)):
        shown, _ = read(io.BytesIO(mp4(np.tile(np.uint8(colour), (2, 32, 32, 1)), 8.0)))
        assert np.abs(shown.astype(int) - colour).max() <= 4, colour


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
    for module, name in (("tempfile", "TemporaryDirectory"), ("core.data.movies", "mp4")):
        with (
            monkeypatch.context() as patch,
            pytest.raises(OSError, match=r"a\.mp4 could not be written: No space left"),
        ):
            patch.setattr(f"{module}.{name}", full)
            write_mp4(clips(1)[0], tmp_path / "a.mp4", 8.0)
    monkeypatch.setattr(movies, "mp4", lambda frames, fps, preset: b"new")
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match=r"a\.mp4 could not be written: No space left on device"):
        write_mp4(clips(1)[0], tmp_path / "a.mp4", 8.0)
    assert names(tmp_path) == ["a.mp4"] and (tmp_path / "a.mp4").read_bytes() == before


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

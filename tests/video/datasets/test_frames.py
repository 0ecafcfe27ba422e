"""Folders of frames are clips; images that are none are told."""

import numpy as np
import pytest
from PIL import Image

from tests.video.video_files import frame_number, numbered_frames, write_frames, write_video
from video.datasets.facts import FOLDER
from video.datasets.files import examine_clip, probe_clip
from video.datasets.frames import find_clips, frame_names, map_folder


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    """frame10 follows frame9, not frame1."""
    frames = numbered_frames(12)
    folder = write_frames(tmp_path / "clip", frames)
    facts = probe_clip(folder)
    assert (facts.frames, facts.height, facts.width, facts.access) == (12, 32, 48, FOLDER)
    found = map_folder(folder, facts, [11, 1, 9], np.array)
    assert list(found) == [1, 9, 11]
    for number, pixels in found.items():
        np.testing.assert_array_equal(pixels, frames[number])


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_other_images_are_frames_too(suffix, tmp_path):
    folder = write_frames(tmp_path / "clip", numbered_frames(3, (64, 96)), suffix)
    found = map_folder(folder, probe_clip(folder), [0, 2], np.array)
    assert [frame_number(pixels) for pixels in found.values()] == [0, 2]


def test_clips_are_video_files_and_folders_of_frames_and_nothing_else(tmp_path, caplog):
    write_video(tmp_path / "a" / "one.mp4", numbered_frames(2))
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "poster.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "cover.jpg")
    write_frames(tmp_path / "b" / "two", numbered_frames(2))
    write_frames(tmp_path / ".hidden" / "three", numbered_frames(2))
    (tmp_path / "a" / "old.wmv").write_bytes(b"0")
    found = [str(path.relative_to(tmp_path)) for path in find_clips(tmp_path)]
    assert found == ["a/one.mp4", "b/two"]
    assert "2 images beside video files or in the root itself" in caplog.text and "1 .wmv" in caplog.text


def test_images_of_two_series_are_refused(tmp_path):
    folder = write_frames(tmp_path / "clip", numbered_frames(2))
    Image.new("RGB", (8, 8)).save(folder / "depth1.png")
    with pytest.raises(ValueError, match=r"folder of frames .*clip: it holds images of 2 series, such as \['depth#"):
        frame_names(folder)


def test_what_is_wrong_with_a_frame_names_its_file(tmp_path):
    folder = write_frames(tmp_path / "clip", numbered_frames(4))
    facts = probe_clip(folder)
    Image.new("RGB", (8, 9)).save(folder / "frame2.png")
    Image.fromarray(np.zeros((32, 48), np.uint16)).save(folder / "frame3.png")
    (folder / "frame4.png").write_bytes((folder / "frame1.png").read_bytes()[:90])
    for number, told in ((1, "8 x 9 pixels, the first of 48 x 32"), (2, "pixel format 'I;16'"), (3, "")):
        with pytest.raises(ValueError, match=rf"frame .*frame{number + 1}\.png: .*{told}"):
            map_folder(folder, facts, [number], np.array)
    with pytest.raises(ValueError, match=r"frame2\.png"):
        examine_clip(folder)
    (folder / "frame4.png").unlink()
    with pytest.raises(ValueError, match="it has changed: it holds 3, and held 4"):
        map_folder(folder, facts, [0], np.array)

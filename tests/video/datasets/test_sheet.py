"""The contact sheet shows what is trained on, before it is."""

import numpy as np
import pytest
from PIL import Image

from tests.video.video_files import frame_number, numbered_frames, write_video
from video.datasets.clips import ClipConfig
from video.datasets.digits import DigitsConfig
from video.datasets.folder import FolderConfig
from video.datasets.sheet import GAP, LINE, write_data_sheet


def test_a_row_is_the_frames_of_a_clip_as_training_reads_them(tmp_path):
    for name in ("a.mp4", "b.mkv"):
        write_video(tmp_path / "videos" / name, numbered_frames(8, (64, 128)))
        (tmp_path / "videos" / name).with_suffix(".txt").write_text(f"the clip {name}, 雪")
    config = FolderConfig(
        root=str(tmp_path / "videos"), clip=ClipConfig(8), size=[64, 128], captions="txt", cache_dir=None
    )
    file = write_data_sheet(config.build(), tmp_path / "run" / "data.png", frames=4)
    sheet = np.asarray(Image.open(file))
    rows = sheet.shape[0] // 2
    for row in (0, 1):
        part = sheet[row * rows : (row + 1) * rows]
        top = rows - 64 - LINE - 3 * GAP
        frames = [part[top : top + 64, GAP + place * (128 + GAP) :][:, :128] for place in range(4)]
        assert [frame_number(frame) for frame in frames] == [0, 2, 5, 7]
        assert part[: top - GAP].min() < 100 and part[top + 64 : top + 64 + LINE].min() < 200  # a name; times


def test_any_data_set_can_be_shown(tmp_path):
    data = DigitsConfig(clip=ClipConfig(4)).build()
    assert Image.open(write_data_sheet(data, tmp_path / "data.png", items=3)).width > 4 * 96


def test_a_file_that_cannot_be_read_ends_a_run_before_it_begins(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames(8))
    data = FolderConfig(root=str(tmp_path), clip=ClipConfig(8), size=16, cache_dir=None).build()
    path.unlink()
    with pytest.raises((ValueError, OSError), match=r"a\.mp4"):
        write_data_sheet(data, tmp_path / "data.png")
    assert not (tmp_path / "data.png").exists()

"""The command that shows what a run would be trained on."""

import pytest
from PIL import Image

from tests.video.video_files import numbered_frames, write_video
from video.show import ENTRY


def test_it_shows_clips_and_tells_what_is_left_out(tmp_path, capsys):
    for number, count in enumerate((12, 12, 2)):
        write_video(tmp_path / "videos" / f"{number}.mp4", numbered_frames(count), fps=25)
    out = tmp_path / "sheet.png"
    words = ["data=folder", f"data.root={tmp_path}/videos", "data.clip.frames=8", "data.size=[16,24]"]
    ENTRY.run([*words, "data.cache_dir=null", f"out={out}"])
    printed = capsys.readouterr().out
    assert "clips             2: 3 x 8 x 16 x 24 (channels, frames, height, width), 25 frames/s" in printed
    assert "left out          1 shorter than a clip" in printed
    assert Image.open(out).height > 2 * 64


def test_a_sheet_that_is_no_png_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        ENTRY.run(["out=sheet.jpg"])
    assert caught.value.code == 2 and "out is 'sheet.jpg'; needed: a file that ends in .png" in capsys.readouterr().err

"""Runs on video files: different rates and sizes, turned, uneven, with B-frames, AVI, GIF, frames; what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from core.storage.lines import read_lines
from tests.end_to_end.commands import call, is_one_line_error, told_to_stop
from tests.end_to_end.toys.contract import SMALL, changed
from tests.rows import every_row
from tests.video.video_files import cut, numbered_frames, write_frames, write_sound_only, write_video

RUN = "runs/video/digits"
CLIPS = ("data.clip.frames=4", "data.size=16", "data.cache_dir=cache")
FEW = ("trainer.steps=3", "trainer.num_workers=0", "alignment=none", "evaluation=none", "backbone.patch_size=[2,8,8]")
PLAIN = ("conditioning=none", "sampler.guidance_scale=1")


def write_files(root):
    """Two classes of clips, of every kind that is read."""
    frames = numbered_frames(12, (20, 28))
    write_video(root / "still" / "b_frames.mp4", frames, fps=25, bf=2, g=6)
    write_video(root / "still" / "turned.mp4", frames, fps=8, rotation=90)
    write_video(root / "still" / "uneven.mkv", frames, times=np.cumsum([0.0] + [0.03, 0.1] * 6)[:12])
    write_video(root / "moving" / "xvid.avi", frames, fps=8)
    write_video(root / "moving" / "odd.gif", numbered_frames(12, (21, 27)))
    write_video(root / "moving" / "film.webm", frames, fps=23.976)
    write_frames(root / "moving" / "frames", numbered_frames(9, (20, 28)))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that the user is in, with clips in `files`."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "files")
    return tmp_path


def words(*changes):
    return changed((*SMALL, "data=folder", "data.root=files", *CLIPS, *FEW), changes)


def train(*changes):
    outcome = call("video.train", *words(*changes))
    assert outcome.code == 0, outcome
    return outcome


def losses(name="digits"):
    return [line["loss"] for line in read_lines(Path(f"runs/video/{name}/metrics.jsonl")) if "loss" in line]


def test_a_run_on_files_of_all_kinds_that_stopped_is_the_run_that_did_not(place):
    own = ("data.classes=folders", "data.crop=random", "data.flip=true", "data.clip.fps=8", "data.frame_rate=8")
    own = (*own, "conditioning=labels", "data.short=pad")
    train(*own, "name=whole")
    with told_to_stop(2):
        assert call("video.train", *words(*own)).code == 143
    train(*own)
    assert len(losses()) == 3 and losses() == losses("whole")
    assert call("video.sample", f"run={RUN}", "num=2", "labels=[moving,still]", "device=cpu").code == 0


def test_clevrer_and_ucf101_as_they_are_unpacked(place):
    frames = numbered_frames(6, (20, 30))
    write_video(place / "clevrer" / "video_train" / "video_00000-01000" / "video_00007.mp4", frames)
    train("data=clevrer", "data.root=clevrer", *CLIPS, "data.fit=squeeze", "name=clevrer", *PLAIN)
    for name in ("g08_c01", "g09_c02"):
        write_video(place / "ucf" / "Archery" / f"v_Archery_{name}.avi", frames)
    (place / "ucfTrainTestlist").mkdir()
    lists = {"classInd": "1 Archery", "trainlist01": "Archery/v_Archery_g08_c01.avi 1"}
    for name, text in (lists | {"testlist01": "Archery/v_Archery_g09_c02.avi"}).items():
        (place / "ucfTrainTestlist" / f"{name}.txt").write_text(text + "\n")
    outcome = train("data=ucf101", "data.root=ucf", *CLIPS, "name=ucf", "conditioning=labels")
    assert "lists 1 clips, the published one 9537" in outcome.err


def sound_alone(root):
    write_sound_only(root / "moving" / "xvid.mp4")


def cut_off(root):
    cut(root / "still" / "b_frames.mp4")


def no_rate(root):
    file = root / "moving" / "xvid.avi"
    data = bytearray(file.read_bytes())
    data[data.index(b"strh") + 32 :][:4] = data[data.index(b"strh") + 32 : data.index(b"strh") + 36] = bytes(4)
    file.write_bytes(data)


def no_videos(root):
    for file in [*root.rglob("*.*")]:
        file.unlink()


def no_caption(root):
    (root / "captions.csv").write_text("path,caption\nmoving/xvid.avi,it moves\n")


def nothing(root):
    """The files as they are."""


BAD = {
    "no video": (no_videos, (), ("data.root is 'no video/files'", "no video file there (.avi, .gif")),
    "sound alone": (sound_alone, (), ("xvid.mp4: it has no video stream; it holds audio",)),
    "cut off": (cut_off, (), ("b_frames.mp4: it is cut off", "data.max_broken is 0")),
    "no rate": (no_rate, (), ("xvid.avi: its header says 0 frames/s",)),
    "short": (nothing, ("data.clip.frames=16",), ("no file is left", "needs 16 frames, the longest file has 12")),
    "no caption": (no_caption, ("data.captions=captions.csv",), ("6 of 7 files have no caption",)),
    "no time": (nothing, ("data.clip.fps=8",), ("moving/frames", "data.frame_rate")),
    "no size": (nothing, ("data.size=0",), ("data.size is 0; allowed: a side",)),
    "no class": (no_videos, ("data.classes=folders",), ("data.root is 'no class/files'",)),
}


@every_row("name", BAD)
def test_data_that_cannot_be_trained_on_are_refused_in_one_line(name, place):
    damage, own, told = BAD[name]
    damage(Path(shutil.copytree(place / "files", place / name / "files")))
    own = (*own, f"data.root={name}/files")
    is_one_line_error(call("video.train", *words(*PLAIN, *own)), *told)


def test_a_broken_file_may_be_left_out_and_is_counted(place):
    cut_off(place / "files")
    outcome = train("data.max_broken=1", *PLAIN)
    assert "left out: video file files/still/b_frames.mp4: it is cut off: its end is not there" in outcome.err

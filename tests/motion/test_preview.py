"""The files of a preview: which clips, cut to which length, under which titles, at which rate."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.contracts import Requests
from core.storage.run_folder import RunDirectory
from eval.pages.html import media
from eval.pages.page import last_previews
from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import KIT, T2M
from motion.data import MotionFormat
from motion.pictures import animation, strips
from motion.preview import MAX_CLIPS, MotionPreview
from tests.motion.walker import walk
from tests.played import read
from tests.rows import every_row

STEP = "step_00001500"
FRAMES, PATCH = 12, 4


def clips(count, representation="full", skeleton=T2M):
    """Media (count, C, F) of walks that turn, each in its own way."""
    joints = torch.stack([torch.from_numpy(walk(skeleton, FRAMES + 1, 0.1 * k)) for k in range(count)]).float()
    return REPRESENTATIONS[representation].from_joints(joints, skeleton).transpose(1, 2)


def asked(*lengths):
    """Requests of embeddings of texts, with masks (n, N) of lengths in frames."""
    mask = torch.arange(0, FRAMES, PATCH)[None] < torch.tensor(lengths)[:, None]
    return Requests(torch.zeros(len(lengths), 8), mask)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@every_row(("representation", "skeleton"), [("full", T2M), ("positions", KIT), ("joints", T2M)])
def test_the_same_walk_is_seen_whatever_its_numbers_are(tmp_path, representation, skeleton):
    preview = MotionPreview(MotionFormat(skeleton, representation, FRAMES), ["a walk"])
    file = preview.save(clips(2, representation, skeleton), torch.zeros(2, 8), tmp_path / STEP)
    assert file == tmp_path / f"{STEP}.png" and names(tmp_path) == [f"{STEP}.mp4", f"{STEP}.png"]
    shown, times = read(tmp_path / f"{STEP}.mp4")
    assert times == pytest.approx([number / skeleton.fps for number in range(FRAMES)], abs=1e-3)
    joints = [walk(skeleton, FRAMES + 1, 0.1 * k)[:FRAMES] for k in range(2)]
    wanted = animation.grid(joints, ["a walk"] * 2, skeleton, skeleton.fps)
    # The walk begins at another place and looks elsewhere by a hair: the pictures are alike, not equal.
    assert shown.shape == wanted.shape and np.abs(shown.astype(float) - wanted).mean() < 2.5


def test_clips_are_cut_to_the_length_they_were_asked_for(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(animation, "grid", lambda clips, *_: seen.extend(clips) or np.zeros((1, 4, 4, 3), np.uint8))
    preview, rows = MotionPreview(MotionFormat(T2M, "full", FRAMES)), clips(3)
    rows[1, :, 4:] = torch.nan  # behind the end of the second
    preview.save(rows, asked(12, 4, 7), tmp_path / STEP)
    assert [len(clip) for clip in seen] == [12, 4, 8], "whole tokens"
    seen.clear()
    preview.save(rows[:1], torch.zeros(1, 8), tmp_path / STEP)
    assert [len(clip) for clip in seen] == [12]


def test_titles_are_captions_or_actions_or_numbers():
    walks = MotionFormat(T2M, "full", FRAMES)
    assert MotionPreview(walks, ["walk", "run"]).titles(asked(4, 4, 4)) == ["walk", "run", "walk"]
    assert MotionPreview(walks, (), ["walk", "run"]).titles(torch.tensor([1, 0, 2])) == ["run", "walk", "no class"]
    assert MotionPreview(walks).titles(Requests(torch.zeros(2, 8))) == ["sample 0", "sample 1"]


def test_of_many_clips_whole_rounds_are_shown(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(strips, "sheet", lambda clips, titles, *_: seen.append(titles) or Image.new("RGB", (2, 2)))
    monkeypatch.setattr(animation, "grid", lambda *_: np.zeros((1, 4, 4, 3), np.uint8))
    preview = MotionPreview(MotionFormat(T2M, "joints", FRAMES), (), list("abcde"))
    preview.save(clips(1, "joints").expand(40, -1, -1), torch.arange(40) % 5, tmp_path / STEP)
    assert seen == [list("abcde") * 2] and MAX_CLIPS == 12


def test_equal_clips_give_equal_files_and_a_report_plays_them(tmp_path):
    preview = MotionPreview(MotionFormat(T2M, "joints", FRAMES), ["a walk"], gif=True)
    runs = [RunDirectory(tmp_path / name) for name in ("one", "two")]
    for run in runs:
        preview.save(clips(1, "joints")[..., :4], torch.zeros(1, 8), run.previews / STEP)
    files = [last_previews(run) for run in runs]
    assert [file.suffix for file in files[0]] == [".gif", ".mp4", ".png"]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert media(files[0][1], "samples").startswith(
        '<video controls loop muted autoplay playsinline src="data:video/mp4'
    )
    with Image.open(files[0][0]) as image:
        assert image.n_frames == 4 and image.info["duration"] == 1000 / T2M.fps


def test_a_clip_of_one_frame_is_shown(tmp_path):
    preview = MotionPreview(MotionFormat(T2M, "full", FRAMES))
    preview.save(clips(1)[..., :1], torch.zeros(1, 8), tmp_path / STEP)
    assert len(read(tmp_path / f"{STEP}.mp4")[0]) == 1


def test_what_cannot_be_drawn_is_refused_in_words(tmp_path):
    preview, rows = MotionPreview(MotionFormat(T2M, "joints", FRAMES), ["walk", "run"]), clips(2, "joints")
    rows[1, 7, 5] = torch.inf
    with pytest.raises(
        ValueError, match=r"clip 1 \('run'\) cannot be drawn: its joints are not finite from frame 5 of 12"
    ):
        preview.save(rows, asked(12, 12), tmp_path / STEP)
    with pytest.raises(ValueError, match=r"clip 0 \('walk'\) has no frame"):
        preview.save_joints([torch.zeros(0, 22, 3)], ["walk"], tmp_path / STEP)
    assert names(tmp_path) == []

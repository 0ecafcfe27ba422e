"""Which frames of a file are a clip: random and tiled windows, stride, resampling by time stamps, short files."""

import numpy as np
import pytest
import torch

from tests.rows import every_row
from tests.video.video_files import (
    decoded_whole,
    numbered_frames,
    numbers_of,
    write_frames,
    write_sound_only,
    write_video,
)
from video.datasets.clips import ClipConfig, FrameMasks
from video.datasets.folder import FolderConfig
from video.datasets.windows import WindowsConfig

SIZE = [32, 48]


def folder(root, frames=4, fps=None, stride=1, masks=None, **options):
    options = {"size": SIZE, "cache_dir": None, **options}
    return FolderConfig(root=str(root), clip=ClipConfig(frames, fps, stride), **options).build(masks)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_clip_is_the_frames_of_a_full_decode(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames(40), bf=2, g=12)
    data, whole = folder(tmp_path), decoded_whole(path)
    item = data.item(0, rng())
    first = numbers_of(item["media"])[0]
    expected = torch.from_numpy(whole[first : first + 4]).permute(3, 0, 1, 2) / 127.5 - 1
    torch.testing.assert_close(item["media"], expected, rtol=0, atol=0)
    assert data.media_shape == tuple(item["media"].shape) == (3, 4, 32, 48)
    assert "mask" not in item and item["condition"] == 0


def test_random_clips_begin_anywhere_and_are_a_function_of_the_generator(tmp_path):
    write_video(tmp_path / "a.mp4", numbered_frames(12))
    data = folder(tmp_path, stride=2)
    starts = set()
    for seed in range(60):
        numbers = numbers_of(data.item(0, rng(seed))["media"])
        assert numbers == list(range(numbers[0], numbers[0] + 8, 2))
        starts.add(numbers[0])
    assert starts == set(range(6))
    torch.testing.assert_close(data.item(0, rng(7))["media"], data.item(0, rng(7))["media"], rtol=0, atol=0)
    assert numbers_of(data.clip_at(0)) == [2, 4, 6, 8]


def test_tiled_clips_cover_a_file(tmp_path):
    write_video(tmp_path / "a.mp4", numbered_frames(14))
    data = folder(tmp_path, window="tiled")
    assert [numbers_of(data.clip_at(row)) for row in range(len(data))] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert data.name(1).endswith("a.mp4 from 0.500 s")
    strided = folder(tmp_path, window="tiled", stride=2)
    assert [numbers_of(strided.clip_at(row)) for row in range(len(strided))] == [[0, 2, 4, 6]]
    assert numbers_of(strided.item(0, rng())["media"]) == [0, 2, 4, 6]


def test_clips_that_are_cut_short_are_padded_with_the_last_frame_and_masked(tmp_path):
    write_video(tmp_path / "a.mp4", numbered_frames(10))
    write_video(tmp_path / "b.mp4", numbered_frames(3))
    masks = FrameMasks(frames=4, stride=1, first=1, patch=1, tokens_per_row=6)
    data = folder(tmp_path, window="tiled", short="pad", masks=masks)
    assert data.real_frames.tolist() == [4, 4, 2, 3]
    assert numbers_of(data.clip_at(2)) == [8, 9, 9, 9] and numbers_of(data.clip_at(3)) == [0, 1, 2, 2]
    assert [int(data.item(row, rng())["mask"].sum()) for row in range(4)] == [24, 24, 12, 18]
    random = folder(tmp_path, short="pad", masks=masks)
    assert len(random) == 2 and numbers_of(random.item(1, rng())["media"]) == [0, 1, 2, 2]
    assert random.item(0, rng())["mask"].all()


def test_masks_follow_the_frames_of_a_latent(tmp_path):
    """4n + 1 frames: the first alone, then four by four; a token is real if any of its frames is."""
    write_video(tmp_path / "a.mp4", numbered_frames(6))
    masks = FrameMasks(frames=13, stride=4, first=1, patch=1, tokens_per_row=2)
    assert folder(tmp_path, 13, short="pad", masks=masks).mask(0).tolist() == [True] * 6 + [False] * 2


def test_short_files_are_left_out_and_counted(tmp_path, caplog):
    write_video(tmp_path / "a.mp4", numbered_frames(10))
    write_video(tmp_path / "b.mp4", numbered_frames(3))
    data = folder(tmp_path)
    assert len(data) == 1 and data.num_short == 1
    assert "1 of 2 files are left out: shorter than a data.clip of 4 frames with stride 1" in caplog.text


# time


@every_row(
    ("rate", "asked", "stride", "numbers"),
    [
        (24, 8.0, 1, [0, 3, 6, 9]),
        (8, 24.0, 1, [0, 0, 0, 1]),
        (8, 8.0, 2, [0, 2, 4, 6]),
        (30, 20.0, 1, [0, 1, 3, 4]),
        (29.97, 29.97, 3, [0, 3, 6, 9]),
        (25, 12.5, 2, [0, 4, 8, 12]),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_files_are_resampled_to_the_frame_that_is_shown(suffix, rate, asked, stride, numbers, tmp_path):
    write_video(tmp_path / f"a{suffix}", numbered_frames(24), fps=rate)
    data = folder(tmp_path, fps=asked, stride=stride, window="tiled")
    assert numbers_of(data.clip_at(0)) == numbers
    assert data.fps == asked / stride


def test_uneven_time_stamps_decide_which_frame_is_shown(tmp_path):
    times = [0.0, 0.05, 0.1, 0.5, 0.55, 1.0, 1.7, 1.75, 1.8, 2.0]
    write_video(tmp_path / "a.mp4", numbered_frames(10), times=times, g=4)
    write_video(tmp_path / "b.mkv", numbered_frames(10), times=times, g=4)
    data = folder(tmp_path, frames=8, fps=4.0, window="tiled")
    for row in (0, 1):
        assert numbers_of(data.clip_at(row)) == [0, 2, 3, 4, 5, 5, 5, 7]
    own = folder(tmp_path, frames=10)
    assert own.times(0, own.draw(0, rng())) == pytest.approx(times)


def test_a_folder_of_frames_tells_no_time(tmp_path):
    write_frames(tmp_path / "clip", numbered_frames(12))
    assert numbers_of(folder(tmp_path).clip_at(0)) == [4, 5, 6, 7]
    with pytest.raises(
        ValueError, match=r"clip: data\.clip\.fps is 4\.0, and a folder of frames tells no time; data\.frame_rate"
    ):
        folder(tmp_path, fps=4.0)
    data = folder(tmp_path, fps=4.0, frame_rate=8.0, window="tiled")
    assert numbers_of(data.clip_at(0)) == [0, 2, 4, 6]


def test_files_of_other_speeds_are_told_where_nothing_resamples_them(tmp_path, caplog):
    write_video(tmp_path / "a.mp4", numbered_frames(8), fps=8)
    write_video(tmp_path / "b.mp4", numbered_frames(8), fps=25)
    folder(tmp_path, fps=8.0, frames=2)
    assert not caplog.text
    folder(tmp_path)
    assert "the files have 8 to 25 frames/s, and data.clip.fps is null: clips differ in speed" in caplog.text


# pixels


def test_files_of_any_size_and_turn_give_clips_of_one_size(tmp_path):
    write_video(tmp_path / "a.mp4", numbered_frames(8, (34, 62)))
    write_video(tmp_path / "b.mkv", numbered_frames(8, (33, 47)), codec="ffv1", pix_fmt="bgr0")
    write_video(tmp_path / "c.mp4", np.rot90(numbered_frames(8, (32, 48)), -1, (1, 2)), rotation=90)
    write_frames(tmp_path / "d", numbered_frames(8, (51, 77)))
    write_video(tmp_path / "e.gif", numbered_frames(8, (32, 48)))
    data = folder(tmp_path, fit="squeeze", window="tiled")
    assert [numbers_of(data.clip_at(row)) for row in range(len(data))] == [[0, 1, 2, 3], [4, 5, 6, 7]] * 5


def test_the_crop_and_the_mirror_are_drawn_and_the_same_for_all_frames(tmp_path):
    write_frames(tmp_path / "a", numbered_frames(4, (32, 64)))
    whole = folder(tmp_path, size=[32, 64]).clip_at(0)
    lefts, mirrors = set(), set()
    data = folder(tmp_path, size=[32, 32], crop="random", flip=True)
    for seed in range(24):
        window = data.draw(0, rng(seed))
        left = round(32 * window.place[1])
        part = whole[..., left : left + 32]
        expected = part.flip(-1) if window.mirror else part
        torch.testing.assert_close(data.item(0, rng(seed))["media"], expected, rtol=0, atol=0)
        lefts.add(left)
        mirrors.add(window.mirror)
    assert len(lefts) > 12 and mirrors == {True, False}
    torch.testing.assert_close(data.clip_at(0), whole[..., 16:48], rtol=0, atol=0)


def test_grey_clips_have_one_channel(tmp_path):
    write_video(tmp_path / "a.mp4", numbered_frames(4))
    data = folder(tmp_path, channels=1)
    assert data.media_shape == tuple(data.clip_at(0).shape) == (1, 4, 32, 48)


# what is refused


def test_clips_longer_than_every_file_are_refused(tmp_path):
    write_video(tmp_path / "a.mp4", numbered_frames(10))
    with pytest.raises(
        ValueError,
        match=r"no file is left; a data\.clip of 6 frames with stride 2, .* needs 11 frames, the longest file has 10",
    ):
        folder(tmp_path, 6, stride=2)


def test_broken_files_are_refused_or_counted(tmp_path, caplog):
    write_video(tmp_path / "a.mp4", numbered_frames(10))
    write_sound_only(tmp_path / "b.mp4")
    (tmp_path / "c.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:900])
    with pytest.raises(
        ValueError,
        match=r"broken video files: 2, data\.max_broken is 0; the first: video file .*b\.mp4: it has no video",
    ):
        folder(tmp_path)
    data = folder(tmp_path, max_broken=2, cache_dir=str(tmp_path / "cache"))
    assert [file.name[:19] for file in (tmp_path / "cache").iterdir()] == ["decoded_video_index"]
    assert len(data) == 1 and data.num_broken == 2
    assert "left out: video file" in caplog.text and "c.mp4: it is cut off" in caplog.text


@every_row(
    ("options", "told"),
    [
        ({"root": ""}, r"data\.root is ''"),
        ({"size": 0}, r"data\.size is 0"),
        ({"channels": 2}, r"data\.channels is 2; allowed: \[1, 3\]"),
        ({"fit": "pad"}, r"data\.fit is 'pad'; allowed: \['crop', 'squeeze'\]"),
        ({"crop": "left"}, r"data\.crop is 'left'"),
        ({"window": "all"}, r"data\.window is 'all'"),
        ({"short": "loop"}, r"data\.short is 'loop'; allowed: \['drop', 'pad'\]"),
        ({"max_broken": -1}, r"data\.max_broken is -1"),
        ({"threads": 0}, r"data\.threads is 0"),
    ],
)
def test_values_that_mean_nothing_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        WindowsConfig(**{"root": "there", **options})

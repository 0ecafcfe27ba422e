"""Clips to be measured: which clips of a file, the same for everyone, and what is said of them."""

import numpy as np
import pytest
import torch

from eval.measure.media import FirstMedia
from tests.rows import every_row
from tests.video.evaluations import frame_folders, moving, save_npz
from tests.video.video_files import frame_number, numbered_frames, write_frames, write_video
from video.datasets.clips import ClipConfig
from video.datasets.folder import FolderConfig
from video.media import ClipRule, FileClips, FileReference, NpzClips, StridedClips, keys_of, size_of, source_of

LENGTHS = (20, 31, 12, 25)  # frames of files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files whose frames carry their number, one an MP4, and one too short for a clip of 16."""
    root = tmp_path_factory.mktemp("files")
    for place, length in enumerate(LENGTHS):
        frames = numbered_frames(length)
        if place == 1:
            write_video(root / f"{place}.mp4", frames, crf=10)
        else:
            write_frames(root / f"{place}", frames)
    return root


def clips_of(folder, frames=16, stride=1, **rule):
    config = FolderConfig(root=str(folder), clip=ClipConfig(frames, None, stride), size=[32, 48], cache_dir=None)
    return FileClips("files", config, ClipRule(**rule))


def numbers(clips):
    return [[frame_number(frame) for frame in clip.numpy()] for clip in clips.rows(0, len(clips))]


def test_each_rule_takes_its_clips_and_a_short_file_is_left_out(folder):
    first = numbers(clips_of(folder, clips="first"))
    assert first == [list(range(16))] * 3
    middle = numbers(clips_of(folder, clips="middle"))
    assert [clip[0] for clip in middle] == [2, 7, 4]
    tiled = numbers(clips_of(folder, frames=10, clips="tiled"))
    assert [clip[0] for clip in tiled] == [0, 10, 0, 10, 20, 0, 0, 10]  # 20, 31, 12 and 25 frames
    strided = numbers(clips_of(folder, frames=8, stride=2, clips="first"))
    assert strided == [list(range(0, 16, 2))] * 3  # 15 frames are needed
    assert clips_of(folder, clips="first").facts()["short_files_left_out"] == 1


def test_random_clips_follow_the_seed_alone(folder):
    one, same, other = (clips_of(folder, frames=10, seed=seed) for seed in (0, 0, 1))
    found = numbers(one)
    assert found == numbers(same) != numbers(other)
    assert [clip[0] for clip in found] != [0] * 4
    assert all(np.diff(clip).tolist() == [1] * 9 for clip in found)
    backwards = [one.rows(row, row + 1) for row in (3, 2, 1, 0)]  # whatever is read before
    assert torch.equal(torch.cat(backwards[::-1]), one.rows(0, 4))


def test_of_more_files_than_are_asked_for_the_seed_draws_some(folder):
    drawn = {tuple(clips_of(folder, frames=10, seed=seed, count=2).chosen.tolist()) for seed in range(8)}
    assert len(drawn) > 1 and all(len(set(rows)) == 2 for rows in drawn)
    assert clips_of(folder, frames=10, count=9).chosen.tolist() == [0, 1, 2, 3]
    assert clips_of(folder, frames=10, count=2).facts()["num_samples"] == 2


def test_another_seed_is_another_draw_of_the_same_reference(folder):
    one, other = (FileReference(clips_of(folder, frames=10, seed=seed), (10, 32, 48)) for seed in (0, 1))
    assert one.facts() == other.facts() and one.identity() != other.identity()
    strided = FileReference(clips_of(folder, frames=5, stride=2), (5, 32, 48))
    assert strided.facts()["stride"] == 2 != one.facts()["stride"]


def test_the_hash_is_of_the_files(tmp_path):
    frame_folders(tmp_path / "a", moving(3, 12))
    frame_folders(tmp_path / "b", moving(3, 12))
    one, same = (clips_of(tmp_path / name, frames=10).sha256 for name in "ab")
    assert one == same
    write_frames(tmp_path / "b" / "clip01", moving(1, 12, seed=9)[0])
    assert clips_of(tmp_path / "b", frames=10).sha256 != one


def test_where_frames_come_from_is_told(folder, tmp_path):
    assert clips_of(folder).kind == "video files (.mp4) and folders of frames (.png)"
    assert clips_of(folder).facts()["lossless"] is False
    frame_folders(tmp_path / "png", moving(2, 12))
    frames = clips_of(tmp_path / "png", frames=10)
    assert (frames.kind, frames.lossless) == ("folders of frames (.png)", True)
    write_frames(tmp_path / "jpg" / "clip", moving(1, 12)[0], ".jpg")
    frames = clips_of(tmp_path / "jpg", frames=10)
    assert (frames.kind, frames.lossless) == ("folders of frames (.jpg)", False)


def test_frames_of_the_size_of_a_clip_are_not_touched(tmp_path):
    clips = moving(2, 12)
    frame_folders(tmp_path, clips)
    config = FolderConfig(root=str(tmp_path), clip=ClipConfig(12), size=[12, 16], cache_dir=None)
    found = FileClips("frames", config, ClipRule("first")).rows(0, 2)
    assert np.array_equal(found.numpy(), clips)


def test_every_so_many_frames_of_an_array(tmp_path):
    clips = moving(3, 20)
    array = NpzClips(save_npz(tmp_path / "clips.npz", clips))
    cut = StridedClips(array, 6, 3)
    assert np.array_equal(cut.rows(1, 3).numpy(), clips[1:, 0:18:3])
    assert size_of(cut) == (6, 12, 16) and len(cut) == 3 and cut.sha256 != array.sha256
    assert source_of(FirstMedia(cut, 2)) is array
    with pytest.raises(ValueError, match=r"clips of clips\.npz have 7 frames with stride 3; needed: .* 8"):
        StridedClips(array, 8, 3)


@every_row(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros((2, 3, 4, 4, 3), np.float32)}, r"arr_0 of .* is float32 .*needed: uint8"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8)}, r"is uint8 \(2, 4, 4, 3\)"),
        ({"arr_0": np.zeros((2, 3, 4, 4, 2), np.uint8)}, r"1 or 3\)"),
        ({"arr_0": np.zeros((0, 3, 4, 4, 3), np.uint8)}, "holds no clip"),
        ({"arr_0": np.zeros((2, 3, 4, 4, 3), np.uint8), "arr_1": np.zeros(3, int)}, "needed: classes from 0"),
        ({"arr_0": np.zeros((2, 3, 4, 4, 3), np.uint8), "arr_1": np.array([0, -1])}, "needed: classes from 0"),
    ],
)
def test_what_is_no_array_of_clips_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "clips.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        NpzClips(tmp_path / "clips.npz")


def test_errors_name_the_keys_of_the_command(folder):
    message = r"^real is .*: no file is left; a clip of 99 frames .* 0 are broken$"
    with pytest.raises(ValueError, match=message), keys_of("real"):
        clips_of(folder, frames=99)

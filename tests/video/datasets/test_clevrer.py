"""CLEVRER by the numbers of its files."""

import shutil

import pytest

from tests.video.video_files import numbered_frames, numbers_of, write_video
from video.datasets.clevrer import ClevrerConfig
from video.datasets.clips import ClipConfig


@pytest.fixture
def root(tmp_path):
    source = write_video(tmp_path / "source.mp4", numbered_frames(8, (32, 48)))
    for part, number in (("train", 0), ("train", 1000), ("train", 9999), ("validation", 10_000), ("test", 19_999)):
        first = number // 1000 * 1000
        file = tmp_path / f"data/video_{part}/video_{first:05}-{first + 1000:05}/video_{number:05}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, file)
    return tmp_path / "data"


def build(root, **options):
    return ClevrerConfig(root=str(root), clip=ClipConfig(4), size=[32, 48], cache_dir=None, **options).build()


def test_the_number_of_a_file_says_its_split(root, caplog):
    names = {split: [data.name(row)[-15:-4] for row in range(len(data))] for split, data in splits(root)}
    assert names == {
        "train": ["video_00000", "video_01000", "video_09999"],
        "validation": ["video_10000"],
        "test": ["video_19999"],
    }
    assert len(build(root, split="all")) == 5
    assert "data.split 'train' of CLEVRER has 3 clips, the published one 10000" in caplog.text
    data = build(root)
    assert data.labels is None and data.class_names == [] and numbers_of(data.clip_at(0)) == [2, 3, 4, 5]


def splits(root):
    return [(split, build(root, split=split)) for split in ("train", "validation", "test")]


def test_other_files_are_told_and_a_number_that_is_there_twice_is_refused(root, caplog):
    shutil.copy(root / "video_test/video_19000-20000/video_19999.mp4", root / "video_20000.mp4")
    build(root)
    assert "1 files of other names, such as ['video_20000.mp4']" in caplog.text
    shutil.copy(root / "video_20000.mp4", root / "video_00000.mp4")
    with pytest.raises(
        ValueError, match=r"data\.root is .*: video 0 is there twice: video_00000\.mp4 and .*video_train"
    ):
        build(root)


def test_a_root_without_the_split_is_refused(root):
    shutil.rmtree(root / "video_test")
    with pytest.raises(ValueError, match=r"data\.split is 'test': no file video_15000\.mp4 to video_19999\.mp4 there"):
        build(root, split="test")
    with pytest.raises(ValueError, match=r"data\.split is 'heldout'; allowed: \['train', 'validation'"):
        build(root, split="heldout")

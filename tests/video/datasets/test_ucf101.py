"""UCF-101 by its split lists, whose groups do not leak."""

import shutil

import pytest

from tests.rows import every_row
from tests.video.video_files import numbered_frames, write_video
from video.datasets.clips import ClipConfig
from video.datasets.ucf101 import Ucf101Config

CLIPS = ["Archery/v_Archery_g08_c01.avi", "Archery/v_Archery_g08_c02.avi", "Biking/v_Biking_g01_c01.avi"]
TESTED = ["Archery/v_Archery_g01_c01.avi"]


@pytest.fixture
def root(tmp_path):
    source = write_video(tmp_path / "source.avi", numbered_frames(6))
    for path in (*CLIPS, *TESTED, "Biking/v_Biking_g02_c09.avi"):
        file = tmp_path / "UCF-101" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, file)
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\r\n2 Biking\r\n")
    (lists / "trainlist01.txt").write_text("".join(f"{path} {1 + path.startswith('B')}\r\n" for path in CLIPS))
    (lists / "testlist01.txt").write_text("".join(f"{path}\n" for path in TESTED))
    return tmp_path / "UCF-101"


def build(root, **options):
    return Ucf101Config(root=str(root), clip=ClipConfig(2), size=16, cache_dir=None, **options).build()


def test_the_lists_say_the_splits_and_the_classes(root, caplog):
    data = build(root)
    assert [data.name(row).split("/")[-1] for row in range(3)] == [path.split("/")[-1] for path in CLIPS]
    assert data.class_names == ["Archery", "Biking"] and data.labels.tolist() == [0, 0, 1]
    assert [build(root, split=split).labels.tolist() for split in ("test", "all")] == [[0], [0, 0, 1, 0]]
    assert "data.split 'train' of UCF-101 lists 3 clips, the published one 9537" in caplog.text
    assert "1 files that no list names, such as ['Biking/v_Biking_g02_c09.avi']" in caplog.text
    assert "names 2 classes, UCF-101 has 101" in caplog.text


def test_a_clip_that_is_listed_and_not_there_is_refused_or_counted(root):
    (root / CLIPS[1]).unlink()
    with pytest.raises(ValueError, match=r"video file .*v_Archery_g08_c02\.avi is not there"):
        build(root)
    assert len(build(root, max_broken=1)) == 2


def test_a_group_in_both_lists_leaks_and_is_refused(root):
    (root.parent / "ucfTrainTestlist" / "testlist01.txt").write_text("Archery/v_Archery_g08_c03.avi\n")
    with pytest.raises(
        ValueError, match=r"1 groups are in the train list and in the test list, such as \['Archery g08'\]"
    ):
        build(root)


@every_row(
    ("file", "text", "told"),
    [
        ("classInd.txt", "1 Archery\n3 Biking\n", r"classInd\.txt, line 2 is '3 Biking'; needed: 2 and the name"),
        (
            "trainlist01.txt",
            "Golf/v_Golf_g01_c01.avi 1\n",
            r"trainlist01\.txt, line 1 is .*of a class of classInd\.txt",
        ),
        ("trainlist01.txt", "Biking/clip.avi 2\n", r"line 1 is 'Biking/clip\.avi 2'; needed: CLASS/v_CLASS_gXX_cYY"),
        ("trainlist01.txt", f"{CLIPS[2]} 1\n", r"line 1 is .*; classInd\.txt numbers Biking 2"),
        ("trainlist01.txt", f"{CLIPS[2]} 2\n" * 2, r"line 2 is .*; listed twice"),
        ("testlist01.txt", "\n", r"testlist01\.txt is empty"),
    ],
)
def test_lists_of_another_kind_are_refused_by_line(file, text, told, root):
    file = root.parent / "ucfTrainTestlist" / file
    before = file.read_text()
    file.write_text(text)
    with pytest.raises(ValueError, match=told):
        build(root)
    file.write_text(before)


def test_lists_that_are_not_there_are_refused(root):
    with pytest.raises(ValueError, match=r"data\.lists: there is no file .*trainlist02\.txt"):
        build(root, fold=2)
    with pytest.raises(ValueError, match=r"data\.lists is .*: no file classInd\.txt in "):
        build(root, lists=str(root))

"""The index of HumanML3D: clips by their recordings, and rows that are none."""

import pytest

from motion.amass.index import read_index
from motion.preparation.takes import Segment
from tests.motion.amass_files import write_index
from tests.rows import every_row

ROWS = [
    ("KIT/3/kick_high_left02_poses", 0, 117, "000000"),
    ("humanact12/humanact12/P11G01R02F1812T1847A0402", 0, -1, "000001"),
    ("CMU/80/80_63_poses", 516, 716, "000004"),
    ("KIT/3/kick_high_left02_poses", 20, -1, "000005"),
]


def test_clips_of_a_recording_stand_together(tmp_path):
    kit, humanact, cmu = read_index(write_index(tmp_path / "index.csv", ROWS))
    assert (kit.dataset, humanact.dataset, cmu.dataset) == ("KIT", "humanact12", "CMU")
    assert kit.segments == (Segment("000000", 0, 117), Segment("000005", 20, -1))
    assert humanact.is_humanact12 and humanact.segments == (Segment("000001"),)  # whole, whatever the index says
    assert str(cmu.path) == "CMU/80/80_63_poses" and not cmu.is_humanact12


@every_row(
    ("folder", "other", "seconds"),
    [
        *[("KIT", "KIT", 0), ("Eyes_Japan_Dataset", "EyesJapanDataset", 3), ("MPI_HDM05", "HDM05", 3)],
        *[("TotalCapture", "TotalCapture", 1), ("MPI_Limits", "PosePrior", 1)],
        *[("Transitions_mocap", "Transitions", 0.5), ("BioMotionLab_NTroje", "BMLrub", 0)],
    ],
)
def test_data_sets_have_two_names_and_some_a_start_that_is_not_counted(folder, other, seconds, tmp_path):
    (source,) = read_index(write_index(tmp_path / "index.csv", [(f"{folder}/a b/walk_poses", 0, 9, "000000")]))
    assert source.skipped_seconds == seconds and source.find(tmp_path / other) is None
    for name in {other, folder}:
        file = tmp_path / name / name / "a b" / "walk_poses.npz"
        file.parent.mkdir(parents=True)
        file.touch()
        assert source.find(tmp_path / name) == file


@every_row(
    ("lines", "words"),
    [
        (
            "source_path,start_frame\n",
            "has the columns ['source_path', 'start_frame']; needed: source_path, start_frame",
        ),
        ("", "has the columns None"),
        ("{head}", "names no clip"),
        ("{head}./pose_data/KIT/3/a.npy,zero,9,000000.npy\n", "line 2: start_frame is 'zero'"),
        ("{head}./pose_data/KIT/3/a.npy,0\n", "line 2: start_frame is '0' and end_frame None"),
        ("{head}./pose_data/KIT/3/a.npy,0,9,../up.npy\n", "line 2: new_name is '../up.npy'"),
        ("{head}./pose_data/../../etc/a.npy,0,9,000000.npy\n", "line 2: source_path is './pose_data/../../etc/a.npy'"),
        ("{head}/etc/a.npy,0,9,000000.npy\n", "line 2: source_path is '/etc/a.npy'"),
        (2 * "{row}", "line 3: the clip 000000 stands there twice"),
    ],
)
def test_rows_that_are_none_are_refused_with_their_line(lines, words, tmp_path):
    head = "source_path,start_frame,end_frame,new_name\n"
    row = "./pose_data/KIT/3/a.npy,0,9,000000.npy\n"
    lines = head + 2 * row if lines == 2 * "{row}" else lines.format(head=head)
    path = tmp_path / "index.csv"
    path.write_text(lines)
    with pytest.raises(ValueError) as refused:
        read_index(path)
    assert words in str(refused.value) and str(path) in str(refused.value), str(refused.value)


def test_an_index_that_is_not_there_or_no_text_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"index.csv is not there; it is index.csv of the repository EricGuo5513"):
        read_index(tmp_path / "index.csv")
    (tmp_path / "index.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read as CSV"):
        read_index(tmp_path / "index.csv")

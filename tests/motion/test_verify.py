"""`python -m motion.verify`: a whole folder, and each kind of fault by its names."""

import numpy as np
import pytest

from motion.body.skeleton import KIT, T2M
from motion.datasets import splits
from motion.verify import ENTRY, VerifyConfig, main
from tests.rows import every_row

CLIPS = ["000001", "M000001", "000002", "M000002", "000003", "M000003"]
LISTS = {"train": CLIPS[:2], "val": CLIPS[2:4], "test": CLIPS[4:]}


def write_folder(root, skeleton=T2M, frames=50):
    """A whole folder of six clips of random rows whose contacts are 0 or 1; returns the root."""
    rng = np.random.default_rng(0)
    for name in ("new_joint_vecs", "new_joints", "texts"):
        (root / name).mkdir(parents=True)
    every = []
    for name in CLIPS:
        rows = rng.normal(size=(frames, skeleton.size)).astype(np.float32)
        rows[:, -4:] = rng.integers(0, 2, (frames, 4))
        every.append(rows)
        save(root, name, rows)
        np.save(root / "new_joints" / f"{name}.npy", np.zeros((frames, skeleton.joints, 3), np.float32))
        (root / "texts" / f"{name}.txt").write_text("a man walks#a/DET man/NOUN walk/VERB#0.0#0.0\n")
    np.save(root / "Mean.npy", np.concatenate(every).mean(0))
    np.save(root / "Std.npy", np.concatenate(every).std(0))
    for split, names in LISTS.items():
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def save(root, name, rows):
    np.save(root / "new_joint_vecs" / f"{name}.npy", rows)


def verify(capsys, root, code=None, **keys):
    """What the command prints, and that it ends with `code`; None: well."""
    if code is None:
        main(VerifyConfig(root=str(root), **keys))
    else:
        with pytest.raises(SystemExit) as ended:
            main(VerifyConfig(root=str(root), **keys))
        assert ended.value.code == code
    return capsys.readouterr().out


@every_row(("skeleton", "more"), [(T2M, {"against": "none"}), (KIT, {"skeleton": "kit"})])
def test_a_whole_folder_is_called_whole(skeleton, more, tmp_path, capsys):
    said = verify(capsys, write_folder(tmp_path / skeleton.name, skeleton), **more)
    assert ": 6 clips, 0.0" in said and "train 2, val 2, test 2" in said and "nothing is wrong" in said


def test_counts_are_compared_with_the_published_ones(tmp_path, capsys, monkeypatch):
    root = write_folder(tmp_path / "root")
    said = verify(capsys, root, code=1)
    assert "6 of 29228 clips" in said and "train 2 of 23384, val 2 of 1460, test 2 of 4384" in said
    assert "fault             train.txt names 2 clips, the published one 23384" in said
    assert "broken            3 kinds of fault" in said
    monkeypatch.setitem(splits.PUBLISHED, "t2m", {"train": 2, "val": 2, "test": 2, "all": 6})
    assert "nothing is wrong" in verify(capsys, root)


def nan(root):
    save(root, "000001", np.full((50, 263), np.nan, np.float32))


def other_size(root):
    save(root, "000002", np.zeros((50, 251), np.float32))


def cut_off(root):
    file = root / "new_joint_vecs" / "000002.npy"
    file.write_bytes(file.read_bytes()[:-4])


def objects(root):
    save(root, "000002", np.array([{}], dtype=object))


def missing(root):
    (root / "new_joint_vecs" / "M000003.npy").unlink()


def no_caption(root):
    (root / "texts" / "000003.txt").unlink()


def empty_caption(root):
    (root / "texts" / "000003.txt").write_text("\n")


def no_time(root):
    (root / "texts" / "000003.txt").write_text("a man walks\n")


def other_joints(root):
    np.save(root / "new_joints" / "000001.npy", np.zeros((49, 22, 3), np.float32))


def overlap(root):
    (root / "test.txt").write_text("000003\n000001\n")


def no_list(root):
    (root / "val.txt").unlink()


def no_mean(root):
    (root / "Mean.npy").unlink()


def other_mean(root):
    np.save(root / "Mean.npy", np.load(root / "Mean.npy") + np.eye(263)[5] * 3)


def evaluators_std(root):
    std = np.load(root / "Std.npy")
    std[-4:] /= 25
    np.save(root / "Std.npy", std)


def kits_std(root):
    np.save(root / "Std.npy", np.ones(251))


@every_row(
    ("spoil", "words"),
    [
        (nan, "fault             1 clips: NaN or infinity: 000001"),
        (other_size, "1 clips: float32 (50, 251) instead of rows of 263 numbers: 000002"),
        (cut_off, "1 clips: cannot be read (000002.npy is truncated or damaged"),
        (objects, "1 clips: cannot be read (000002.npy is truncated or damaged: Object arrays are not read"),
        (missing, "1 clips: listed, without a file in new_joint_vecs: M000003"),
        (no_caption, "1 clips: without a file of captions in texts: 000003"),
        (empty_caption, "1 clips: captions that cannot be read (text file its file is empty"),
        (no_time, "1 clips: captions that cannot be read (its file, line 1 is 'a man walks'"),
        (other_joints, "1 clips: joints that are not of its rows: 000001"),
        (overlap, "1 motions of test.txt, or their mirror images, are in train.txt too, such as ['000001']"),
        (no_list, "fault             there is no val.txt"),
        (no_mean, "Mean.npy is not there"),
        (other_mean, "Mean.npy is of other data: number 5 is "),
        (evaluators_std, "Std.npy holds the evaluator's"),
        (kits_std, "Std.npy has shape (251,)"),
    ],
)
def test_each_kind_of_fault_is_a_line_and_the_exit_code(spoil, words, tmp_path, capsys):
    root = write_folder(tmp_path / spoil.__name__)
    spoil(root)
    said = verify(capsys, root, code=1, against="none")
    assert words in said and "broken            " in said, said


def test_what_published_training_leaves_out_is_a_note(tmp_path, capsys, monkeypatch):
    root = write_folder(tmp_path / "root")
    rng = np.random.default_rng(1)
    save(root, "000001", rng.normal(size=(39, 263)).astype(np.float32))
    save(root, "000002", rng.normal(size=(200, 263)).astype(np.float32))
    save(root, "extra", rng.normal(size=(50, 263)).astype(np.float32))
    nan(root)
    for file in (root / "new_joints").iterdir():
        file.unlink()
    monkeypatch.setitem(splits.PUBLISHED, "t2m", {})
    monkeypatch.setitem(splits.PUBLISHED_NAN, "t2m", {"000001"})
    said = verify(capsys, root)
    for words in (
        "1 clips: NaN or infinity, as published: left out in training: 000001",
        "1 clips: 200 rows or more: published training leaves them out: 000002",
        "1 clips: in none of train, val and test: extra",
        "nothing is wrong",
    ):
        assert words in said, said


def test_what_is_no_data_set_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for name, words in {"empty": "its folder new_joint_vecs holds no clip", "none": "which is not there"}.items():
        with pytest.raises(SystemExit) as ended:
            ENTRY.run([f"root={tmp_path / name}"])
        said = capsys.readouterr().err
        assert ended.value.code == 2 and words in said and said.count("\n") == 1, said

"""`python -m motion.prepare`: AMASS and own joints become a folder of HumanML3D's format, whole, by any way."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import zipfile

import numpy as np
import pytest
import torch
from torch.utils.data import dataloader

from motion.amass.source import AmassConfig, AmassSource
from motion.body.placing import process
from motion.body.skeleton import T2M
from motion.prepare import ENTRY
from motion.train import ENTRY as TRAIN
from tests.motion.amass_files import (
    body_arrays,
    expected_joints,
    recording_arrays,
    write_body_models,
    write_index,
    write_recording,
)

INDEX = [
    ("KIT/4/WalkInCircle02_poses", 0, 45, "000021"),
    ("KIT/4/WalkInCircle02_poses", 3, -1, "000022"),
    ("CMU/01/01_01_poses", 5, 40, "000004"),
    ("Eyes_Japan_Dataset/kudo/walk-01_poses", 2, 50, "000006"),
    ("humanact12/humanact12/P11G01R02", 0, -1, "000001"),
    ("Transitions_mocap/mazen/kick_poses", 0, 20, "000027"),
    ("CMU/01/01_01_poses", 390, 500, "009707"),
]
RECORDINGS = {
    "KIT/4/WalkInCircle02_poses": {"frames": 250, "fps": 100.0, "gender": "female", "seed": 1},
    "CMU/01/01_01_poses": {"frames": 360, "fps": 120.0, "gender": "male", "seed": 2},
    "EyesJapanDataset/kudo/walk-01_poses": {"frames": 330, "fps": 60.0, "gender": "unknown", "seed": 3},
    "Transitions_mocap/mazen/kick_poses": {"frames": 180, "fps": 59.94, "gender": "male", "seed": 4},
}


def humanact12(frames=30):
    """Joints (F, 24, 3) as HumanAct12's files hold them: y up."""
    joints = expected_joints(body_arrays(1), recording_arrays(frames=6 * frames, seed=9), 6)
    return np.concatenate([joints, joints[:, 20:22]], axis=1)


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """AMASS, body models and the repository of HumanML3D as a person has them: the folder that holds the three."""
    root = tmp_path_factory.mktemp("humanml3d")
    write_body_models(root / "bodies")
    for path, options in RECORDINGS.items():
        write_recording(root / "amass", path, **options)
    repository = root / "HumanML3D"
    write_index(repository / "index.csv", INDEX)
    folder = repository / "pose_data" / "humanact12" / "humanact12"
    folder.mkdir(parents=True)
    np.save(folder / "P11G01R02.npy", humanact12())
    inner = repository / "HumanML3D"
    inner.mkdir()
    with zipfile.ZipFile(inner / "texts.zip", "w") as archive:
        for _, _, _, name in INDEX:
            for clip in (name, f"M{name}"):
                archive.writestr(f"texts/{clip}.txt", f"a person walks.#a/DET person/NOUN walk/VERB#0.0#0.0\n{clip}\n")
    lists = {"train": ["000021", "M000021", "000022", "009707"], "val": ["000004"], "test": ["000006"]}
    for split, names in lists.items():
        (inner / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def words(root, out, *more):
    """The command line that prepares what lies in `root`."""
    source = [f"source.root={root / 'amass'}", f"source.body_models={root / 'bodies'}"]
    return [*source, f"source.repository={root / 'HumanML3D'}", f"out={out}", "num_workers=0", *more]


def contents(folder):
    """The bytes of all files of a folder, as hashes by their names."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="session")
def prepared(published, tmp_path_factory):
    """The folder made of `published`, and what was printed."""
    out, said = tmp_path_factory.mktemp("prepared") / "out", io.StringIO()
    with contextlib.redirect_stdout(said):
        ENTRY.run(words(published, out))
    return out, said.getvalue()


def expected_clip(name, mirrored=False):
    """Joints (F, 22, 3) of a clip before other bones, by what the published preparation is documented to do."""
    skipped = {"000006": 60, "000027": 10}
    if name == "000001":
        joints = humanact12()[:, :22]
    else:
        path, start, end, _ = next(row for row in INDEX if row[3] == name)
        options = RECORDINGS[path.replace("Eyes_Japan_Dataset", "EyesJapanDataset")]
        stride = {100.0: 5, 120.0: 6, 60.0: 3, 59.94: 2}[options["fps"]]
        body = body_arrays(0 if options["gender"] == "male" else 1)
        joints = expected_joints(body, recording_arrays(**options), stride)[skipped.get(name, 0) :][start:end]
    if mirrored:
        joints = joints[:, list(T2M.mirrored)] * [-1, 1, 1]
    return torch.from_numpy(joints).float()


def test_clips_are_cut_turned_mirrored_and_given_the_bones_of_the_reference(prepared):
    out, _ = prepared
    offsets = T2M.offsets(expected_clip("000021")[0])
    lengths = {"000021": 45, "000022": 46, "000004": 35, "000006": 48, "000001": 30, "000027": 20}
    for name, frames in lengths.items():
        for clip in (name, f"M{name}"):
            rows = np.load(out / "new_joint_vecs" / f"{clip}.npy")
            assert rows.shape == (frames - 1, 263) and rows.dtype == np.float32, clip
            expected, joints = process(expected_clip(name, mirrored=clip != name), offsets, T2M)
            np.testing.assert_allclose(rows[:, :67], expected[:, :67], atol=1e-4)
            np.testing.assert_allclose(np.load(out / "new_joints" / f"{clip}.npy"), joints, atol=1e-4)
    names = sorted([*lengths, *(f"M{name}" for name in lengths)])
    assert sorted(file.stem for file in (out / "new_joint_vecs").iterdir()) == names


def test_statistics_are_the_published_averages(prepared):
    out, _ = prepared
    rows = np.concatenate([np.load(file) for file in sorted((out / "new_joint_vecs").iterdir())]).astype(np.float64)
    std = rows.std(0)
    for begin, end in ((0, 1), (1, 3), (3, 4), (4, 67), (67, 193), (193, 259), (259, 263)):
        std[begin:end] = std[begin:end].mean()
    np.testing.assert_allclose(np.load(out / "Mean.npy"), rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(np.load(out / "Std.npy"), std, rtol=1e-4)


def test_captions_and_splits_are_those_of_the_clips_that_are_there(prepared):
    out, _ = prepared
    lists = {name: (out / f"{name}.txt").read_text().split() for name in ("train", "val", "test", "train_val", "all")}
    assert lists["train"] == ["000021", "M000021", "000022"] and lists["train_val"] == [*lists["train"], "000004"]
    assert lists["all"] == [*lists["train_val"], "000006"]
    assert len(list((out / "texts").iterdir())) == 12
    first, second = (out / "texts" / "M000022.txt").read_text().splitlines()
    assert first == "a person walks.#a/DET person/NOUN walk/VERB#0.0#0.0" and second == "M000022#m000022/OTHER#0.0#0.0"


def test_a_person_is_told_what_was_made_and_what_was_not(prepared):
    out, said = prepared
    assert "12 clips (6 of them mirrors)" in said and "train 3, val 1, test 1" in said
    assert "2 clips (009707, M009707): frames 390 to 500 of 60 frames are 0; a clip needs 2" in said
    assert "1 takes: 59.94 frames/s read as 29.97" in said
    assert f"python -m motion.verify root={out}\n" in said
    assert f"python -m motion.train experiment=humanml3d_flow data.root={out}\n" in said
    TRAIN.config(said.split("python -m motion.train ")[1].split())
    record = json.loads((out / "prepare.json").read_text())
    assert record["clips"] == 12 and set(record["left_out"]) == {"009707", "M009707"}


def test_processes_give_the_same_bytes_and_a_stopped_run_goes_on(prepared, published, tmp_path):
    whole, _ = prepared
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    for name in ("new_joint_vecs/000021", "new_joint_vecs/M000006", "new_joints/M000006", "new_joint_vecs/000004"):
        (out / f"{name}.npy").unlink()
    for name in ("Mean.npy", "Std.npy", "train.txt", "texts/000004.txt"):
        (out / name).unlink()
    (out / "new_joint_vecs" / ".000021.npy.0123abcd.tmp").write_bytes(b"half")
    kept = (out / "new_joints" / "000001.npy").stat().st_mtime_ns
    ENTRY.run([*words(published, out), "num_workers=2"])
    assert contents(out) == contents(whole)
    assert (out / "new_joints" / "000001.npy").stat().st_mtime_ns == kept


def test_what_is_done_and_what_is_asked_for_may_not_differ(prepared, published, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(prepared[0], out)
    before = contents(out)
    write_body_models(tmp_path / "others", genders=("female", "male"))
    changes = {
        "mirror": ["mirror=false"],
        "bones": ["source.reference='000004'"],
        "models": [f"source.body_models={tmp_path / 'others'}"],
    }
    for key, more in changes.items():
        assert key in refused(capsys, words(published, out, *more)) and contents(out) == before


def refused(capsys, argv, code=2):
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        ENTRY.run(argv)
    *bar, said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == code and said.startswith("error: "), said
    assert all(line.startswith("prepare ") for line in bar), bar
    return said


def test_bad_input_is_told_in_one_line(published, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(published, broken)
    shutil.rmtree(broken / "amass" / "CMU")
    shutil.rmtree(broken / "HumanML3D" / "pose_data")
    (broken / "amass" / "KIT" / "4" / "any_stageii.npz").touch()
    said = refused(capsys, words(broken, tmp_path / "out"))
    for word in ("recordings of 3 clips", "CMU 2, humanact12 1", "e.g. CMU/01/01_01_poses", "SMPL-X flavour"):
        assert word in said, said
    for word in ("source.humanact12=", "source.missing=skip"):
        assert word in said, said
    elsewhere = words(published, tmp_path / "out")
    rows = {
        "source.root is": [*elsewhere, f"source.root={tmp_path / 'none'}"],
        "fetch 'Extended SMPL+H model'": [*elsewhere, f"source.body_models={tmp_path}"],
        "source.index is null": [*elsewhere, "source.repository=null"],
        "index.csv is not there": [*elsewhere, f"source.repository={tmp_path}"],
        "source.reference is '000009'": [*elsewhere, "source.reference='000009'"],
        "skeleton is 'kit'; AMASS has the joints of 't2m'": [*elsewhere, "skeleton=kit"],
        "which is in use for something else": words(published, broken),
        "needed: a folder of text files, or a zip": [*elsewhere, f"texts={tmp_path / 'none'}"],
        "which has no train.txt": [*elsewhere, f"splits={tmp_path}"],
        "missing config key 'out'": elsewhere[:3],
    }
    for told, argv in rows.items():
        assert told in refused(capsys, argv), told


def test_missing_recordings_are_skipped_when_that_is_asked_for(published, tmp_path, capsys):
    some = tmp_path / "some"
    shutil.copytree(published, some)
    shutil.rmtree(some / "amass" / "CMU")
    (some / "amass" / "Transitions_mocap" / "mazen" / "kick_poses.npz").write_bytes(b"PK no zip")
    ENTRY.run(words(some, tmp_path / "out", "source.missing=skip"))
    said = capsys.readouterr().out
    assert (
        "8 clips (4 of them mirrors)" in said
        and "2 clips (000004, 009707): CMU/01/01_01_poses.npz is not there" in said
    )
    assert "kick_poses.npz is truncated or damaged" in said


class Mortal(AmassSource):
    """A source that ends a process which reads the files of CMU."""

    def read(self, take):
        if "CMU" in str(take.file):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(take)


def test_a_killed_process_is_told_in_one_line(published, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))  # seconds
    monkeypatch.setattr(AmassConfig, "build", lambda config, skeleton: Mortal(config))
    said = refused(capsys, [*words(published, tmp_path / "out"), "num_workers=1"], code=1)
    assert "error: a process that prepares clips was killed" in said and "the same command continues" in said

"""A folder of one's own joints: names, rates, axes and units; what is no motion is told with its file."""

import copy
import functools
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from core.commands.entry import compose_config
from core.schema import strict
from motion.body.placing import process
from motion.body.skeleton import KIT, T2M
from motion.datasets.humanml3d import HumanML3DConfig
from motion.preparation.own import JointsConfig, clip_name, resample
from motion.prepare import PrepareConfig, main
from motion.verify import VerifyConfig
from motion.verify import main as verify
from tests.motion.amass_files import body_arrays, expected_joints, recording_arrays
from tests.rows import every_row


def walk(frames=60, seed=0):
    """Joints (F, 22, 3) of somebody who walks, metres, y up, 20 frames a second."""
    recording = recording_arrays(frames=frames, fps=20.0, seed=seed)
    return expected_joints(body_arrays(), recording, 1).astype(np.float32)


def kit_walk(frames=40):
    """Joints (F, 21, 3) of KIT's skeleton: its rest pose, which turns and goes forward."""
    rest = np.zeros((21, 3), np.float32)
    for chain in KIT.chains:
        for before, joint in itertools.pairwise(chain):
            rest[joint] = rest[before] + 0.25 * np.array(KIT.raw_offsets[joint])
    turn = np.linspace(0, 1.5, frames)
    turns = np.array([[[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]] for a in turn], np.float32)
    joints = np.einsum("fij,kj->fki", turns, rest)
    return joints + np.linspace(0, 2, frames, dtype=np.float32)[:, None, None] * np.float32([0.3, 0, 1])


def save(root, **arrays):
    """<root>/<name>.npy of each, "__" in a name a folder; returns the root."""
    for name, array in arrays.items():
        file = root / f"{name.replace('__', '/')}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, array)
    return root


@functools.cache
def composed():
    """The config of `source=joints`, whose composition takes longer than a tiny folder."""
    needed = ["source=joints", "source.root=root", "source.fps=20", "out=out", "num_workers=0"]
    return compose_config("motion.conf", "prepare", needed)


def prepare(root, out, **changes):
    """The folder that the command makes of a folder of joints; keys of the source are among the changes."""
    values = copy.deepcopy(composed()) | {"out": str(out)}
    values["source"] |= {"root": str(root)} | {key: changes.pop(key) for key in [*changes] if key in values["source"]}
    main(strict(PrepareConfig, values | changes))
    return out


def rows_of(out, name):
    """Rows (F, C) of a clip."""
    return np.load(out / "new_joint_vecs" / f"{name}.npy")


def test_a_folder_of_joints_becomes_a_data_set(tmp_path, capsys):
    arrays = {"a": walk(), "walks__b": walk(50, 1), "walks__c": walk(45, 2), "d": np.tile(walk(30), (8, 1, 1))}
    root = save(tmp_path / "own", **arrays, e=walk(30, 3))
    for name, text in {"a": SAYS, "walks/b": "b", "walks/c": "c", "d": "d"}.items():
        (root / f"{name}.txt").write_text(text)
    out = prepare(root, tmp_path / "out")
    names = ["Ma", "Md", "Mwalks_b", "Mwalks_c", "a", "d", "walks_b", "walks_c"]
    assert sorted(file.stem for file in (out / "new_joint_vecs").iterdir()) == sorted([*names, "e", "Me"])
    assert rows_of(out, "a").shape == (59, 263) and np.load(out / "new_joints" / "a.npy").shape == (59, 22, 3)
    first, second = (out / "texts" / "Ma.txt").read_text().splitlines()
    assert first == "a man walks#a/OTHER man/OTHER walks/OTHER#0.0#0.0"
    assert second == "Somebody waves the right hand, turning counterclockwise#somebody/NOUN#0.0#0.0"
    lists = {name: (out / f"{name}.txt").read_text().split() for name in ("train", "val", "test", "all")}
    assert sorted(lists["all"]) == names and [len(lists[name]) for name in ("val", "test")] == [2, 2]
    assert (np.load(out / "Std.npy") > 0).all() and np.load(out / "Mean.npy").shape == (263,)
    said = capsys.readouterr().out
    for words in (
        "10 clips (5 of them mirrors)",
        "captions          2 clips have none, such as Me: they are in no list",
        "2 have fewer than 40 frames (Me, e), 2 have 200 frames or more (Md, d)",
        f"motion.verify root={out} against=none",
        f"motion.train data=humanml3d evaluation=none data.root={out}",
    ):
        assert words in said, said


SAYS = "a man walks\nSomebody waves the left hand, turning clockwise#somebody/NOUN#0.0#0.0\n"


def test_what_is_prepared_can_be_opened_and_is_whole(tmp_path, capsys):
    root = save(tmp_path / "own", **{f"walk{number}": walk(50 + number, number) for number in range(3)})
    for number in range(3):
        (root / f"walk{number}.txt").write_text("a man walks to the left\n")
    out = prepare(root, tmp_path / "out")
    verify(VerifyConfig(root=str(out), against="none"))
    assert "nothing is wrong" in capsys.readouterr().out
    data = HumanML3DConfig(root=str(out), split="train", cache_dir=None).build()
    assert len(data) == 2 and set(data.captions) == {"a man walks to the left", "a man walks to the right"}
    assert data.item(0, np.random.default_rng(0))["media"].shape == (263, 196)


def test_long_takes_are_cut_into_equal_clips_with_the_captions_of_their_seconds(tmp_path):
    root = save(tmp_path / "own", long=np.tile(walk(60), (5, 1, 1)), short=walk(50))  # 15 and 2.5 s
    (root / "long.txt").write_text("walks\nturns left#turn/VERB left/ADV#9.0#12.0\n")
    (root / "short.txt").write_text("stands\n")
    out = prepare(root, tmp_path / "out", seconds=7)
    frames = {"long_0": 99, "long_1": 99, "long_2": 99, "short": 49}
    assert {name: len(rows_of(out, name)) for name in frames} == frames
    texts = {name: (out / "texts" / f"{name}.txt").read_text().splitlines() for name in [*frames, "Mlong_1"]}
    walks = "walks#walks/OTHER#0.0#0.0"
    assert texts["long_0"] == [walks] and texts["short"] == ["stands#stands/OTHER#0.0#0.0"]
    assert texts["long_1"] == [walks, "turns left#turn/VERB left/ADV#4.000#5.000"]
    assert texts["Mlong_1"] == [walks, "turns right#turn/VERB right/ADV#4.000#5.000"]
    assert texts["long_2"] == [walks, "turns left#turn/VERB left/ADV#0.000#2.000"]


@every_row(
    ("change", "options"),
    [
        (lambda joints: joints[..., [2, 0, 1]], {"up": "z"}),  # x, y, z of the files are z, x, y
        (lambda joints: 100 * joints, {"scale": 0.01}),
        (lambda joints: joints.astype(np.float64) + np.array([5, 1, -3]), {}),
        (lambda joints: np.concatenate([joints, joints[:, :2]], axis=1), {}),  # SMPL's 24
        (lambda joints: np.repeat(joints, 3, axis=0), {"fps": 60}),
    ],
)
def test_axes_units_place_and_rate_of_the_files_do_not_matter(change, options, tmp_path):
    save(tmp_path / "changed", a=change(walk()))
    source = JointsConfig(**{"root": str(tmp_path / "changed"), "fps": 20, **options}).build(T2M)
    motion, offsets = source.read(source.takes[0]), T2M.offsets(torch.from_numpy(walk()[0]))
    found, expected = (process(joints, offsets, T2M)[0] for joints in (motion.joints, torch.from_numpy(walk())))
    torch.testing.assert_close(found[:, :67], expected[:, :67], atol=2e-4, rtol=0)
    torch.testing.assert_close(source.reference(), motion.joints[0])
    assert motion.note == ""


def test_a_body_that_lies_or_has_another_up_is_noted(tmp_path):
    source = JointsConfig(root=str(save(tmp_path / "own", a=walk()[..., [2, 0, 1]])), fps=20).build(T2M)
    assert source.read(source.takes[0]).note == "no upright body: is source.up right?"


def test_kit_has_its_own_joints_rate_and_units(tmp_path):
    out = prepare(save(tmp_path / "own", a=kit_walk()), tmp_path / "out", skeleton="kit", fps=12.5)
    rows = rows_of(out, "a")
    assert rows.shape == (39, 251) and rows[:, 3].mean() > 100  # the published rows are in millimetres
    np.testing.assert_allclose(np.load(out / "new_joints" / "a.npy")[:, 0, 1], rows[:, 3], atol=1e-2)


def test_the_bones_of_a_reference_that_is_named_are_those_of_all(tmp_path):
    other = walk(10, seed=4) * np.float32(1.2)
    save(tmp_path, other=other)
    out = prepare(save(tmp_path / "own", a=walk()), tmp_path / "out", reference=str(tmp_path / "other.npy"))
    bones = T2M.bones(torch.from_numpy(np.load(out / "new_joints" / "a.npy")))
    expected = T2M.bones(torch.from_numpy(other[0])).expand_as(bones)
    torch.testing.assert_close(bones, expected, atol=1e-4, rtol=0)


@every_row(("fps", "frames"), [(20.0, 41), (40.0, 21), (60.0, 14), (30.0, 27), (12.5, 65), (59.94, 14)])
def test_another_rate_is_every_kth_frame_or_linear_in_time(fps, frames):
    """A body that goes evenly does so at any rate; nothing is beyond the last frame."""
    time = torch.arange(41, dtype=torch.float64) / fps
    joints = time[:, None, None] * torch.ones(1, 2, 3, dtype=torch.float64)
    found = resample(joints, fps, 20.0)
    assert len(found) == frames
    torch.testing.assert_close(found[:, 0, 0], torch.arange(frames, dtype=torch.float64) / 20.0)


@every_row(
    ("path", "name"),
    [("a.npy", "a"), ("walks/slow 1.npy", "walks_slow-1"), ("é/ß#.npy", "é_ß-"), ("x.y/z.npy", "x-y_z")],
)
def test_names_of_clips_have_no_folders_and_no_blanks(path, name):
    assert clip_name(Path(path)) == name


def test_files_that_are_no_motion_are_left_out_by_their_names(tmp_path, capsys):
    nan, words = walk(), "expected (frames, 22, 3) of the skeleton 't2m'"
    nan[7, 3, 1] = np.nan
    broken = {
        "nan": (nan, "nan.npy holds 1 numbers that are NaN or infinite"),
        "one": (walk()[:1], "one.npy has 1 frames; a clip needs 2"),
        "kit": (kit_walk(), f"kit.npy holds float32 (40, 21, 3), {words} (joints: t2m 22, kit 21; of SMPL's 24"),
        "flat": (walk().reshape(60, 66), f"flat.npy holds float32 (60, 66), {words}"),
        "mm": (walk() * 1000, "mm.npy: all bones together have"),
        "zero": (np.zeros((60, 22, 3), np.float32), "zero.npy: all bones together have 0 m"),
        "objects": (walk().astype(object), "objects.npy is truncated or damaged: Object arrays are not read"),
    }
    root = save(tmp_path / "own", a=walk(), **{name: array for name, (array, _) in broken.items()})
    out = prepare(root, tmp_path / "out", mirror=False)
    assert [file.stem for file in (out / "new_joint_vecs").iterdir()] == ["a"]
    told = json.loads((out / "prepare.json").read_text())["left_out"]
    assert told.keys() == broken.keys()
    assert not {name: told[name] for name, (_, words) in broken.items() if words not in told[name]}
    said = capsys.readouterr().out
    assert said.count("left out          ") == 6 and "left out          2 clips (mm, zero): " in said


@every_row(
    ("arrays", "changes", "words"),
    [
        ({}, {}, "which is not there"),
        ({"a": walk(2)[:1]}, {}, "has 1 frames; a clip needs 2; it gives all clips their bones, source.reference="),
        ({"a b": walk(), "a-b": walk()}, {}, "would both be the clip a-b; rename one"),
        ({"a": walk()}, {"fps": 0}, "source.fps is 0; allowed: 1 to 1000"),
        ({"a": walk()}, {"scale": -1}, "source.scale is -1; it must be above 0"),
        ({"a": walk()}, {"up": "x"}, "source.up"),
        ({"a": walk()}, {"seconds": 1}, "source.seconds is 1; allowed: 2 or more, or null"),
        ({"a": walk(99), "a_0": walk()}, {"seconds": 3}, "would both be the clip a_0; rename one"),
        ({"a": walk()}, {"reference": "none.npy"}, "none.npy is not there"),
        ({"a": walk() * 1000}, {"scale": 0.001, "reference": "a.npy"}, "source.reference has to be in metres"),
        ({"a": walk()}, {"skeleton": "kit"}, "expected (frames, 21, 3) of the skeleton 'kit'"),
        ({"Ma": walk(), "a": walk()}, {}, "Ma is the name of the mirror of a"),
    ],
)
def test_a_folder_that_cannot_be_prepared_is_refused_in_one_line(arrays, changes, words, tmp_path, monkeypatch):
    path = tmp_path / f"{abs(hash(words))}"
    root = save(path / "own", **arrays)
    monkeypatch.chdir(root if arrays else tmp_path)
    with pytest.raises(ValueError) as refused:
        prepare(root, path / "out", **changes)
    assert words in str(refused.value) and "\n" not in str(refused.value), str(refused.value)


def test_a_file_that_has_changed_is_prepared_anew(tmp_path):
    root = save(tmp_path / "own", a=walk(), b=walk(50, 1))
    out = prepare(root, tmp_path / "out")
    before = {name: rows_of(out, name) for name in ("a", "b", "Mb")}
    save(root, b=walk(50, 2))
    os.utime(root / "b.npy", ns=(2 * 10**18, 2 * 10**18))
    prepare(root, tmp_path / "out")
    assert [np.array_equal(rows_of(out, name), before[name]) for name in ("a", "b", "Mb")] == [True, False, False]


def test_files_of_other_kinds_are_no_clips(tmp_path):
    save(tmp_path / "own", a=walk())
    (tmp_path / "own" / "notes.json").write_text("{}")
    assert [take.segments[0].name for take in JointsConfig(root=str(tmp_path / "own"), fps=20).build(T2M).takes] == [
        "a"
    ]

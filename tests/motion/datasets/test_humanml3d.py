"""A folder in the format of HumanML3D: which clips it gives, which window of one an item is, what is refused."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.latents.cache import LastAxisMasks
from motion.body.skeleton import KIT
from motion.data import motion_format
from motion.datasets.humanml3d import HumanML3DConfig
from tests.motion.motion_files import CAPTIONS, walking_rows, write_folder
from tests.rows import every_row

PART = "a person waves.#a/DET person/NOUN wave/VERB#1.0#4.5"


MASKS = LastAxisMasks(196, 4)


def opened(root, masks=MASKS, **keys):
    return HumanML3DConfig(root=str(root), cache_dir=None, **keys).build(masks)


def normalised(data, media):
    return data.statistics.normalise(media.T).T


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Motions of 60, 100, 197, 30, 1 and 200 frames; the second has a caption about its seconds 1 to 4.5."""
    root = tmp_path_factory.mktemp("humanml3d")
    nan = [line.replace("0.0", "nan") for line in CAPTIONS]
    texts = [CAPTIONS, [PART, *CAPTIONS, "too short#too/ADV#2#3"], nan, CAPTIONS, CAPTIONS, CAPTIONS]
    write_folder(root, [60, 100, 197, 30, 1, 200], texts=texts)
    write_folder(root, [44], split="val", first=100)
    return root


def test_clips_are_those_that_the_published_rules_give(folder):
    data = opened(folder)
    assert [data.name(row).rpartition("/")[2] for row in range(len(data))] == [
        "000000.npy",
        "000001.npy",
        "000001.npy, frames 20 to 89",
        "000002.npy",
    ]
    assert data.name(2).startswith("A_000001: ")
    assert data.lengths.tolist() == [60, 100, 68, 196]  # 70 frames are cut to whole units, 197 to 196
    assert data.caption_rows.tolist() == [0, 2, 4, 5, 7] and len(data.captions) == len(data.tokens) == 7
    assert data.captions[4] == "a person waves." and data.tokens[4] == ["a/DET", "person/NOUN", "wave/VERB"]
    left_out = {"long motions": 1, "short motions": 2, "short parts": 1}
    assert data.facts() == {"split": "train", "listed": 6, "clips": 4, "captions": 7, "left_out": left_out}
    assert data.media_shape == (263, 196) and data.fps == 20 and data.class_names == [] and data.labels is None


def test_a_part_is_the_rows_of_its_seconds(folder):
    rows = torch.from_numpy(walking_rows(100, 1))
    data = opened(folder)
    assert torch.equal(data.rows(2), rows[20:90])
    assert torch.equal(data.clip_at(2)[:, :68], rows[20:88].T)


def test_shorter_clips_are_taken_where_the_config_says_so(folder):
    assert opened(folder, min_frames=20).lengths.tolist() == [60, 100, 68, 20, 196, 28]


def test_an_item_is_a_window_and_what_is_behind_it_is_zero_when_normalised(folder):
    data, rows = opened(folder), torch.from_numpy(walking_rows(60))
    seen = set()
    for seed in range(60):
        item = data.item(0, np.random.default_rng(seed))
        length = 4 * int(item["mask"].sum())
        window = item["media"][:, :length].T
        first = next(start for start in range(61 - length) if torch.equal(window, rows[start : start + length]))
        assert item["mask"].shape == (49,) and item["mask"][: length // 4].all()
        assert not normalised(data, item["media"])[:, length:].any()
        assert normalised(data, item["media"])[:, :length].any(0).all()
        seen.add((length, first))
    assert {length for length, _ in seen} == {56, 60}
    assert {first for length, first in seen if length == 56} == {0, 1, 2, 3, 4}


def test_one_item_in_three_is_a_unit_shorter(folder):
    data = opened(folder)
    masks = [data.item(3, np.random.default_rng(seed))["mask"] for seed in range(300)]
    lengths = [4 * int(mask.sum()) for mask in masks]
    assert set(lengths) == {192, 196} and 70 < lengths.count(192) < 130


def test_items_depend_on_the_generator_alone_and_draw_captions_evenly(folder):
    data = opened(folder)
    data.conditions = torch.arange(len(data.captions))
    one, other = (data.item(1, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one["media"], other["media"]) and one["condition"] == other["condition"]
    drawn = [int(data.item(1, np.random.default_rng(seed))["condition"]) for seed in range(200)]
    assert set(drawn) == {2, 3} and 70 < drawn.count(2) < 130
    data.conditions = torch.arange(len(data))  # one of each clip, as without captions
    assert int(data.item(2, np.random.default_rng(0))["condition"]) == 2


def test_long_clips_are_cut_to_the_frames_asked_for(folder):
    data = opened(folder, masks=None, frames=40, representation="positions")
    item = data.item(3, np.random.default_rng(0))
    assert data.media_shape == item["media"].shape == (67, 40) and "mask" not in item
    assert data.lengths.tolist() == [40, 40, 40, 40]


def test_joints_begin_at_the_origin_of_their_window(folder):
    data = opened(folder, representation="joints")
    item = data.item(1, np.random.default_rng(1))
    assert data.media_shape == (66, 196)
    assert item["media"][[0, 2], 0].abs().max() < 1e-6 and item["media"][2, :92].max() > 0.5
    assert not normalised(data, item["media"])[:, 100:].any()
    assert torch.equal(opened(folder, representation="joints").statistics.mean, data.statistics.mean)


def test_held_out_are_the_clips_of_val_with_the_same_statistics(folder):
    data = opened(folder)
    heldout = data.heldout()
    assert len(heldout) == 1 and torch.equal(heldout.statistics.std, data.statistics.std)
    assert heldout.heldout() is None and data.config.heldout_split == "val"


def test_numbers_may_be_stored_in_other_ways(folder, tmp_path):
    write_folder(tmp_path, [60, 60])
    for number, change in enumerate((np.float64, np.asfortranarray)):
        file = tmp_path / "new_joint_vecs" / f"00000{number}.npy"
        np.save(file, change(np.load(file)))
    data = opened(tmp_path)
    for number in range(2):
        assert torch.equal(data.rows(number), torch.from_numpy(walking_rows(60, number)))


def test_kit_has_its_own_numbers_and_lengths(tmp_path):
    write_folder(tmp_path, [24, 23, 60], skeleton="kit")
    data = opened(tmp_path, skeleton="kit")
    assert data.media_shape == (251, 196) and data.lengths.tolist() == [24, 60] and data.fps == KIT.fps
    joints = motion_format(data.config).joints(data.clip_at(1)[:, :60])
    assert 1.0 < joints[..., 1].max() < 3.0  # metres, of rows in millimetres
    with pytest.raises(ValueError, match=r"251 numbers a frame; data.skeleton 't2m' has 263"):
        opened(tmp_path)


def test_the_clips_that_hold_nan_as_published_are_left_out_and_told(tmp_path, caplog):
    write_folder(tmp_path, [60, 60], first=7974)
    _spoil(tmp_path, "007975")
    assert opened(tmp_path).left_out == {"NaN as published": 1}
    assert "left out: 007975, which hold NaN as published" in caplog.text


def test_broken_files_are_an_error_or_counted(tmp_path, caplog):
    write_folder(tmp_path, [60] * 5)
    motions, texts = tmp_path / "new_joint_vecs", tmp_path / "texts"
    _spoil(tmp_path, "000001")
    (texts / "000002.txt").unlink()
    (motions / "000003.npy").unlink()
    with pytest.raises(ValueError, match=r"broken motion files: 1, data.max_broken is 0; .*000003.npy is not there"):
        opened(tmp_path)
    with pytest.raises(ValueError, match=r"broken motions and texts: 2, data.max_broken is 1; .*000001.npy holds NaN"):
        opened(tmp_path, max_broken=1)
    data = opened(tmp_path, max_broken=2)
    assert len(data) == 2 and data.left_out == {"broken": 3}
    assert "000002.txt is not there" in caplog.text


@every_row(
    ("array", "words"),
    [
        (np.zeros((60, 263), object), "Object arrays are not read"),
        (np.zeros((60, 263), np.int64), "holds int64 (60, 263); needed: floats"),
        (np.zeros(263, np.float32), "holds float32 (263,)"),
        (np.zeros((60, 251), np.float32), "251 numbers a frame"),
    ],
)
def test_what_is_no_motion_is_refused_with_its_name(array, words, tmp_path):
    write_folder(tmp_path, [60])
    np.save(tmp_path / "new_joint_vecs" / "000000.npy", array, allow_pickle=True)
    with pytest.raises(ValueError) as raised:
        opened(tmp_path)
    assert words in str(raised.value) and "000000.npy" in str(raised.value) and "\n" not in str(raised.value)


@every_row(
    ("change", "words"),
    [
        (lambda mean, std: (mean, _evaluators(std)), "holds the evaluator's"),
        (lambda mean, std: (mean[:251], std[:251]), "Mean.npy has shape (251,), which is representation 'full' of"),
        (lambda mean, std: (mean, std * np.nan), "Std.npy has 263 numbers that are NaN"),
        (lambda mean, std: (mean, std * 0), "Std.npy is 0 at number 0"),
        (lambda mean, std: (mean + 50 * (np.arange(263) == 3), std), "the block 'height' of 16 clips has a size of"),
    ],
)
def test_statistics_of_something_else_are_refused(change, words, tmp_path):
    files = tmp_path / "Mean.npy", tmp_path / "Std.npy"
    for file in files:
        file.unlink(missing_ok=True)
    write_folder(tmp_path, [60, 80])
    for file, values in zip(files, change(*map(np.load, files)), strict=True):
        np.save(file, values)
    with pytest.raises(ValueError) as raised:
        opened(tmp_path)
    assert words in str(raised.value) and "\n" not in str(raised.value), raised.value


def test_a_file_that_grew_shorter_is_told(tmp_path):
    write_folder(tmp_path, [60])
    data = opened(tmp_path)
    np.save(tmp_path / "new_joint_vecs" / "000000.npy", walking_rows(20))
    with pytest.raises(ValueError, match=r"000000.npy has changed: it held 60 frames"):
        data.item(0, np.random.default_rng(0))


def test_what_is_looked_up_once_is_kept(folder, tmp_path, monkeypatch):
    config = HumanML3DConfig(root=str(folder), cache_dir=str(tmp_path))
    first = config.build()
    monkeypatch.setattr("core.data.index._look", lambda root, path, kind, old: old)
    assert replace(config).build().facts() == first.facts()


@every_row(
    ("keys", "words"),
    [
        ({"root": ""}, "data.root is ''"),
        ({"split": "dev"}, "data.split is 'dev'; allowed: train, val"),
        ({"skeleton": "smpl"}, "data.skeleton is 'smpl'; allowed: t2m, kit"),
        ({"representation": "272"}, "data.representation is '272'; allowed: full"),
        ({"frames": 200}, "data.frames is 200; allowed: multiples of 4 from 8 to 196"),
        ({"frames": 42}, "data.frames is 42"),
        ({"min_frames": 4}, "data.min_frames is 4; allowed: 8 to 199, or null"),
        ({"max_broken": -1}, "data.max_broken is -1"),
    ],
)
def test_config_values_that_there_are_not(keys, words):
    with pytest.raises(ValueError) as raised:
        HumanML3DConfig(**{"root": "there"} | keys)
    assert words in str(raised.value)


def test_no_clip_left_is_told_with_the_reasons(tmp_path):
    write_folder(tmp_path, [1, 20, 300])
    with pytest.raises(ValueError, match=r"no clip of the 3 motions is left \(1 long motions, 2 short motions\)"):
        opened(tmp_path)


def test_the_log_compares_with_the_published_lists(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("motion.datasets.splits.PUBLISHED", {"t2m": {"train": 5}})
    write_folder(tmp_path, [60] * 5)
    caplog.set_level(logging.INFO)
    opened(tmp_path)
    assert "5 motions are listed, 5 clips with 10 captions are used; left out: nothing" in caplog.text
    assert "the published one" not in caplog.text
    monkeypatch.setattr("motion.datasets.splits.LIKE_PUBLISHED", 0.5)
    (tmp_path / "train.txt").write_text("000000\n000001\n000002\n000003\n")
    opened(tmp_path)
    assert "train.txt names 4 motions, the published one 5" in caplog.text


def _spoil(root, name):
    file = root / "new_joint_vecs" / f"{name}.npy"
    rows = np.load(file)
    rows[3, 7] = np.nan
    np.save(file, rows)


def _evaluators(std):
    std = std.copy()
    std[[*range(4), *range(259, 263)]] /= 25
    return std

"""Checkpoints: what is saved is read back, which are kept, what a failure leaves, and what damage is noticed."""

import json
import os

import pytest
import torch

import core.storage.checkpoint
from core.storage.atomic import sha256_file
from core.storage.checkpoint import MANIFEST, SCHEMA_VERSION, CheckpointStore, read_checkpoint
from core.storage.weights import load_weights
from tests.core.storage.states import assert_same_state, names_in, state
from tests.rows import every_row


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_saved_is_read_back(tmp_path):
    notes = {"config": {"lr": 1e-4, "pairs": [[2, 4]]}, "tokenizer": {"scale": 0.18215}, "none": None}
    path = CheckpointStore(tmp_path).save(12, {"model": state(), "ema": state(1)}, notes)
    assert path == tmp_path / "step_00000012"
    loaded = read_checkpoint(path)
    assert (loaded.step, loaded.notes, set(loaded.groups)) == (12, notes, {"model", "ema"})
    assert_same_state(loaded.groups["model"], state())
    assert_same_state(loaded.groups["ema"], state(1))
    assert names_in(path) == [MANIFEST, "ema.safetensors", "model.safetensors"]
    manifest, file = json.loads((path / MANIFEST).read_text()), path / "model.safetensors"
    assert manifest["files"][file.name] == {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    assert (manifest["step"], manifest["schema_version"]) == (12, SCHEMA_VERSION)
    file.unlink()
    assert set(read_checkpoint(path, only=("ema",)).groups) == {"ema"}


def test_tensors_that_share_memory_are_saved_each_for_itself(tmp_path):
    matrix = torch.arange(12.0).reshape(4, 3)
    tied = {"embed": matrix, "head": matrix, "rows": matrix[1:], "spread": matrix[0].expand(2, 3)}
    assert_same_state(read_checkpoint(CheckpointStore(tmp_path).save(1, {"model": tied}, {})).groups["model"], tied)


def test_latest_names_the_newest_and_is_followed(tmp_path):
    store = CheckpointStore(tmp_path)
    assert store.latest() is None
    for step in (5, 10):
        assert store.save(step, {"model": state(step), "ema": state(step + 1)}, {}) == store.latest()
        assert read_checkpoint(tmp_path / "latest").step == step
        assert_same_state(load_weights(tmp_path / "latest"), state(step + 1))


# Which are kept


def test_the_newest_are_kept_and_every_nth_for_good(tmp_path):
    for options, kept in (({"keep": 1}, [70]), ({"keep": 3}, [50, 60, 70]), ({"keep_every": 20}, [20, 40, 60, 70])):
        store = CheckpointStore(tmp_path / str(options), **options)
        for step in range(10, 80, 10):
            store.save(step, {"model": state()}, {})
        names = [f"step_{step:08d}" for step in kept]
        assert names_in(store.root) == ["latest", *names], options
        assert [path.name for path in store.paths()] == names
    with pytest.raises(ValueError, match=r"trainer\.keep_checkpoints is 0 and trainer\.keep_every 3; at least 1 and 0"):
        CheckpointStore(tmp_path, keep=0, keep_every=3)


def test_one_just_written_is_kept_beside_later_ones_and_replaces_its_own_step(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(20, {"model": state()}, {})
    store.save(10, {"model": state(), "ema": state()}, {})
    path = store.save(10, {"model": state(3)}, {})
    assert_same_state(read_checkpoint(path).groups["model"], state(3))
    assert names_in(tmp_path) == ["latest", "step_00000010", "step_00000020"]


def test_what_a_killed_process_had_left_to_do_is_done_later(tmp_path):
    """Killed between the rename of the newest folder and what follows it: `latest`, and the end of the oldest."""
    for step in (5, 10, 15):
        CheckpointStore(tmp_path, keep=3).save(step, {"model": state()}, {})
    (tmp_path / "latest").write_text("step_00000010\n")
    store = CheckpointStore(tmp_path, keep=2)
    store.settle(store.newest_intact())
    assert names_in(tmp_path) == ["latest", "step_00000010", "step_00000015"]
    assert read_checkpoint(tmp_path / "latest").step == 15


def test_a_checkpoint_that_is_being_removed_has_not_its_name_any_more(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(5, {"model": state()}, {})
    monkeypatch.setattr(core.storage.checkpoint, "remove", lambda path: (path / MANIFEST).unlink())
    store.save(10, {"model": state()}, {})
    assert [path.name for path in store.paths()] == ["step_00000010"]
    monkeypatch.undo()
    store.clean()
    assert names_in(tmp_path) == ["latest", "step_00000010"]


def test_cleaning_puts_back_what_was_about_to_be_replaced_and_removes_what_was(tmp_path):
    store, old = CheckpointStore(tmp_path), tmp_path / ".step_00000005.12345678.old"
    path = store.save(5, {"model": state()}, {})
    before = contents(path)
    for replaced in (False, True):
        old.mkdir() if replaced else path.rename(old)
        (tmp_path / ".step_00000005.87654321.tmp").mkdir()
        (tmp_path / ".latest.87654321.tmp").touch()
        store.clean()
        assert names_in(tmp_path) == ["latest", "step_00000005"]
        assert contents(path) == before


# What a failure leaves


@every_row("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_keeps_the_earlier_ones(tmp_path, failure):
    store = CheckpointStore(tmp_path, keep=1)
    old = contents(store.save(5, {"model": state()}, {}))

    def full(tensors, file, check):
        file.write_bytes(b"half")
        raise failure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.storage.checkpoint, "save_file", full)
        for step in (5, 6):
            with pytest.raises(type(failure)):
                store.save(step, {"model": state(1)}, {})
    with pytest.raises(TypeError):  # notes that cannot be written
        store.save(6, {"model": state()}, {"device": torch.device("cpu")})
    assert names_in(tmp_path) == ["latest", "step_00000005"]
    assert contents(store.latest()) == old


# Damage


@pytest.fixture
def saved(tmp_path):
    return CheckpointStore(tmp_path).save(3, {"model": state(), "ema": state(1)}, {"note": 1})


def refused(path, *parts):
    with pytest.raises(ValueError) as caught:
        read_checkpoint(path)
    assert all(str(part) in str(caught.value) for part in parts), caught.value


def test_a_changed_cut_or_lost_file_is_named(saved):
    file = saved / "ema.safetensors"
    whole = file.read_bytes()
    for place in (0, 9, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused(saved, file, "SHA-256")
    for left in (len(whole) - 1, len(whole) // 2, 0):
        os.truncate(file, left)
        refused(saved, file, f"{left} bytes", f"{len(whole)} were written")
    file.unlink()
    refused(saved, file, "damaged")


@every_row("content", [b"", b"{", b"[]", b"3", b"{}", b'{"schema_version": 1, "step": 3}', b"\xff\xfe\x00{", None])
def test_a_damaged_or_lost_manifest_is_named(saved, content):
    (saved / MANIFEST).unlink() if content is None else (saved / MANIFEST).write_bytes(content)
    refused(saved, saved, "is not a complete checkpoint" if content is None else "")


@every_row("version", [0, SCHEMA_VERSION + 1, None, str(SCHEMA_VERSION)])
def test_another_schema_version_is_named(saved, version):
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps({**manifest, "schema_version": version}))
    refused(saved, saved, f"schema {version}", f"reads {SCHEMA_VERSION}")


def test_a_folder_or_file_that_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file", tmp_path / "absent"):
        refused(path, path, "not a complete checkpoint")


@every_row("moment", ["read_mapping", "sha256_file"])
def test_one_that_its_run_prunes_while_it_is_looked_at_is_no_damage(tmp_path, monkeypatch, caplog, moment):
    store = CheckpointStore(tmp_path / moment, keep=1)
    store.save(5, {"model": state()}, {})
    read = getattr(core.storage.checkpoint, moment)

    def slowly(file):
        if file.parent.name == "step_00000005" and file.exists():
            store.save(10, {"model": state()}, {})
        return read(file)

    monkeypatch.setattr(core.storage.checkpoint, moment, slowly)
    assert store.newest_intact().name == "step_00000010"
    assert caplog.text == ""
    monkeypatch.undo()


def test_the_newest_intact_one_is_found_and_damaged_ones_are_set_aside(tmp_path, caplog):
    assert CheckpointStore(tmp_path / "none").newest_intact() is None
    store = CheckpointStore(tmp_path, keep=3)
    for step in (5, 10, 15):
        store.save(step, {"model": state(), "ema": state()}, {})
    for step in (10, 15):
        (tmp_path / f"step_{step:08d}" / "model.safetensors").unlink()
    assert store.newest_intact(only=("ema",)).name == "step_00000015"
    assert store.newest_intact().name == "step_00000005"
    assert len(store.paths()) == 3, "looking moves nothing"
    assert store.newest_intact(set_aside=True).name == "step_00000005"
    assert names_in(tmp_path) == ["latest", "step_00000005", "step_00000010.damaged", "step_00000015.damaged"]
    assert "step_00000015.damaged, and the one before it is used" in caplog.text
    (store.save(10, {"model": state()}, {}) / MANIFEST).unlink()  # a second one of the same step
    assert store.newest_intact(set_aside=True).name == "step_00000005"
    assert len([name for name in names_in(tmp_path) if name.startswith("step_00000010.damaged")]) == 2


def edit(path, *, checksum, **values):
    """Change keys of a manifest; without its `checksum` it is one that older code has left. None removes a key."""
    manifest = json.loads((path / MANIFEST).read_text()) | values
    gone = {key for key, value in values.items() if value is None} | ({"sha256"} if not checksum else set())
    (path / MANIFEST).write_text(json.dumps({key: value for key, value in manifest.items() if key not in gone}))


FACTS = {"bytes": 8, "sha256": "0"}
EDITS = [{"step": 17}, {"step": 40}, {"step": "15"}, {"step": True}, {"step": -1}, {"step": 15.0}, {"step": None}]
EDITS += [{"files": value} for value in (None, [], {}, {"model.safetensors": 3}, {"../model.safetensors": FACTS})]
EDITS += [{"files": {"model.safetensors": {"bytes": 8}}}, {"files": {"model.safetensors": FACTS | {"bytes": "8"}}}]
EDITS += [{"notes": value} for value in (None, [], "note", 3)]


@every_row(
    ("checksum", "values"), [*((both, values) for values in EDITS for both in (True, False)), (True, {"notes": {}})]
)
def test_a_manifest_that_was_changed_is_told_and_the_checkpoint_before_it_used(tmp_path, caplog, checksum, values):
    store = CheckpointStore(tmp_path / f"{checksum} {values}".replace("/", "-"))
    before, newest = (store.save(step, {"model": state()}, {"note": 1}) for step in (10, 15))
    edit(newest, checksum=checksum, **values)
    caplog.clear()
    assert store.newest_intact() == before
    assert f"{newest / MANIFEST} is damaged" in caplog.text
    refused(newest, newest / MANIFEST, "is damaged")


def test_a_manifest_without_a_checksum_is_read_as_one_of_older_code(tmp_path):
    path = CheckpointStore(tmp_path).save(15, {"model": state()}, {"note": 1})
    edit(path, checksum=False)
    assert read_checkpoint(path).notes == {"note": 1}
    moved = path.rename(tmp_path / "the best")
    assert read_checkpoint(moved).step == 15


@every_row("nested", [b'{"notes":' * 100_000, b"[" * 100_000])
def test_a_manifest_without_end_is_damaged(saved, nested):
    (saved / MANIFEST).write_bytes(nested)
    refused(saved, saved / MANIFEST, "is damaged: it is nested too deeply")


def test_notes_that_the_caller_cannot_use_are_damage(tmp_path, caplog):
    def check(notes):
        if "note" not in notes:
            raise core.storage.checkpoint.DamagedError("there is no note")

    store = CheckpointStore(tmp_path)
    before = store.save(10, {"model": state()}, {"note": 1})
    store.save(15, {"model": state()}, {})
    assert store.newest_intact(check=check) == before
    assert f"step_00000015/{MANIFEST} is damaged: there is no note" in caplog.text


@every_row("content", [b"", b"\xff\xfe", b"step_15", b"../step_00000003", b"step_00000003/../x", b"x" * 10_000])
def test_a_pointer_that_names_no_checkpoint_is_refused(saved, content):
    pointer = saved.parent / "latest"
    pointer.write_bytes(content)
    with pytest.raises(ValueError, match=r"latest is damaged: it says .*, which names no checkpoint"):
        read_checkpoint(pointer)


def test_a_file_where_the_folder_is_to_be_is_replaced(tmp_path):
    (tmp_path / "step_00000005").write_text("")
    assert read_checkpoint(CheckpointStore(tmp_path).save(5, {"model": state()}, {})).step == 5
    assert names_in(tmp_path) == ["latest", "step_00000005"]


def test_a_checkpoint_that_is_a_link_is_read_and_pruned_as_one(tmp_path):
    store, elsewhere = CheckpointStore(tmp_path / "run", keep=1), tmp_path / "elsewhere"
    store.save(5, {"model": state()}, {}).rename(elsewhere)
    (store.root / "step_00000005").symlink_to(elsewhere)
    (store.root / ".step_00000003.12345678.tmp").symlink_to(elsewhere)
    store.clean()
    assert store.newest_intact().name == "step_00000005"
    store.save(10, {"model": state()}, {})
    assert names_in(store.root) == ["latest", "step_00000010"]
    assert names_in(elsewhere) == [MANIFEST, "model.safetensors"]

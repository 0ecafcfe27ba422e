"""Files and folders that are whole or absent, whatever fails while they are written."""

import os
from pathlib import Path

import pytest

import core.storage.atomic
from core.storage.atomic import atomic_dir, write_atomic
from tests.core.storage.states import names_in
from tests.rows import every_row


def fill(folder, text):
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text(text)


def text_in(folder):
    return (folder / "sub" / "file").read_text()


def test_a_folder_appears_or_is_replaced_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "target"
    for before, text in ((None, "old"), ("old", "new")):
        with atomic_dir(target) as temporary:
            fill(temporary, text)
            assert (text_in(target) if target.exists() else None) == before
        assert text_in(target) == text
        assert names_in(target.parent) == ["target"]


@every_row("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
@every_row("before", [True, False])
def test_a_block_that_fails_leaves_what_was_there(tmp_path, failure, before):
    folder = tmp_path / f"{failure.__name__} {before}"
    folder.mkdir()
    if before:
        with atomic_dir(folder / "target") as temporary:
            fill(temporary, "old")
    with pytest.raises(failure), atomic_dir(folder / "target") as temporary:
        fill(temporary, "half")
        raise failure
    assert names_in(folder) == (["target"] if before else [])
    assert not before or text_in(folder / "target") == "old"


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_leaves_what_was_there(tmp_path, monkeypatch, failing):
    target, calls, rename = tmp_path / "target", [], Path.rename
    with atomic_dir(target) as temporary:
        fill(temporary, "old")

    def unreliable(self, other):
        calls.append(other)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", unreliable)
    with pytest.raises(OSError, match="No space left"), atomic_dir(target) as temporary:
        fill(temporary, "new")
    assert len(calls) >= failing
    assert names_in(tmp_path) == ["target"]
    assert text_in(target) == "old"


def test_everything_is_on_disk_before_it_has_the_final_name(tmp_path, monkeypatch):
    synced, target = [], tmp_path / "target"
    monkeypatch.setattr(core.storage.atomic, "sync", lambda path: synced.append((path.name, target.exists())))
    with atomic_dir(target) as temporary:
        fill(temporary, "new")
    assert {("file", False), ("sub", False), (temporary.name, False)} <= set(synced)
    assert synced[-1] == (tmp_path.name, True)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """Whoever reads meanwhile reads the old one to its end."""
    file = tmp_path / "deep" / "facts.json"
    assert write_atomic(file, "old") == file
    with file.open() as reader:
        write_atomic(file, b"\x00something new")
        assert reader.read() == "old"
    assert file.read_bytes() == b"\x00something new"
    monkeypatch.setattr(core.storage.atomic, "sync", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_atomic(file, "never")
    assert file.read_bytes() == b"\x00something new"
    assert names_in(file.parent) == ["facts.json"]


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    absent = tmp_path / "absent" / "x"
    monkeypatch.setattr(core.storage.atomic.os, "fsync", lambda descriptor: os.open(absent, os.O_RDONLY))
    with pytest.raises(OSError, match=r"facts\.json could not be written: No such file"):
        write_atomic(tmp_path / "facts.json", "new")
    assert names_in(tmp_path) == []

"""The list of a large folder: what the walk gives, and made anew whenever the walk would give something else."""

import contextlib
import logging
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.data import listing
from core.data.files import files_under
from core.data.listing import listed

PNG, GIF = (".png",), (".gif",)


@pytest.fixture(autouse=True)
def small_and_settled(monkeypatch):
    """Lists of few files are kept, also of folders that have just changed."""
    monkeypatch.setattr(listing, "LEAST_FILES", 1)
    monkeypatch.setattr(listing, "SETTLED", 0)


@pytest.fixture
def walks(monkeypatch):
    """The folders that were walked."""
    made, walk = [], listing.walk
    monkeypatch.setattr(listing, "walk", lambda root, *endings: made.append(root) or walk(root, *endings))
    return made


@pytest.fixture
def root(tmp_path):
    """Class folders, one of them behind a link, and what a walk leaves out and tells."""
    root = tmp_path / "root"
    for name in ("a/1.png", "a/b/2.PNG", "a-b/3.png", "4.png", "a/5.gif", ".h/6.png", "a/line\nbreak.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    open(os.path.join(os.fsencode(root), b"a", b"\xff.png"), "w").close()
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "deep" / "7.png").touch()
    (root / "c").symlink_to(tmp_path / "far")
    (root / "up").symlink_to(root)
    (root / "more").symlink_to(tmp_path / "gone")
    (root / "a" / "lost.png").symlink_to(tmp_path / "gone.png")
    return root


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


def names(root, cache):
    """Paths below the root."""
    return [os.fsdecode(path) for path in listed(root, PNG, GIF, cache).split()]


def walked(root):
    return [str(path.relative_to(root)) for path in files_under(root, PNG, GIF)]


def test_the_list_is_what_the_walk_gives_and_tells(root, cache, walks, caplog):
    caplog.set_level(logging.WARNING, "core.data")
    wanted = walked(root)
    told = sorted(caplog.messages)
    assert len(wanted) == 8 and len(told) == 3
    for _ in range(3):
        caplog.clear()
        assert names(root, cache) == wanted
        assert sorted(caplog.messages) == told
    assert len(walks) == 1
    assert names(root, None) == wanted and len(walks) == 2
    assert listed(root, GIF, (), cache).split() == [b"a/5.gif"] and len(walks) == 3, "other endings, another list"


def set_back(path, change):
    """Change a folder and set its time back, as copying programs do."""
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def relink(link, target):
    link.unlink()
    link.symlink_to(target)


CHANGES = {
    "a new file": lambda root: (root / "a" / "b" / "new.png").touch(),
    "a file that went": lambda root: (root / "a" / "1.png").unlink(),
    "a new name": lambda root: (root / "4.png").rename(root / "9.png"),
    "a time set back": lambda root: set_back(root, lambda: (root / "9.png").rename(root / "8.png")),
    "a new folder": lambda root: shutil.copytree(root / "a-b", root / "d"),
    "a folder that went": lambda root: shutil.rmtree(root / "a" / "b"),
    "a file behind a link": lambda root: (root.parent / "far" / "deep" / "new.png").touch(),
    "a link elsewhere": lambda root: relink(root / "c", root.parent / "far" / "deep"),
    "a link that led nowhere": lambda root: shutil.copytree(root / "a-b", root.parent / "gone"),
    "a hidden file": lambda root: (root / "a" / ".hidden.png").touch(),
}


def test_a_folder_that_has_changed_is_listed_anew_and_that_is_said(root, cache, walks, caplog):
    for name, change in CHANGES.items():
        names(root, cache)
        time.sleep(0.02)  # a tick of the file system's clock
        walks.clear()
        change(root)
        with caplog.at_level(logging.INFO):
            caplog.clear()
            assert names(root, cache) == walked(root), name
        assert "has changed since the files of" in caplog.text, name
        assert len(walks) == 1, name
        with contextlib.suppress(FileNotFoundError):
            assert names(root, cache) == walked(root) and len(walks) == 1, name


def test_a_damaged_list_is_made_anew_with_a_warning(root, cache, tmp_path, caplog):
    wanted = names(root, cache)
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    for damage in (
        b"",
        b"{",
        whole[:-1],
        whole.replace(b"4.png", b"5.png"),
        b"[]\n",
        whole.replace(b'"lost"', b'"los"'),
    ):
        file.write_bytes(damage)
        caplog.clear()
        assert names(root, cache) == wanted
        assert f"list of files {file} is damaged" in caplog.text, damage[:20]
        assert file.read_bytes() == whole


def test_small_and_unsettled_folders_are_walked_and_leave_nothing(root, cache, tmp_path, walks, monkeypatch):
    for key, value in (("LEAST_FILES", 9), ("SETTLED", 10**13)):
        with monkeypatch.context() as patch:
            patch.setattr(listing, key, value)
            assert names(root, cache) == names(root, cache) == walked(root)
            assert not (tmp_path / "cache").exists()
    assert len(walks) == 4


def test_of_several_that_ask_at_once_one_walks(root, cache, walks, monkeypatch):
    slow = listing.walk
    monkeypatch.setattr(listing, "walk", lambda *where: time.sleep(0.2) or slow(*where))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: names(root, cache), range(4)))
    assert found == [walked(root)] * 4 and len(walks) == 1


def test_a_cache_that_cannot_be_written_is_told_and_stops_nothing(root, tmp_path, walks, caplog):
    (tmp_path / "cache").touch()
    assert names(root, str(tmp_path / "cache")) == walked(root)
    assert "no lock" in caplog.text and "cannot be kept" in caplog.text

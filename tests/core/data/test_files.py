"""The one walk of files: what it follows, what it takes once, and what it tells."""

import os
import socket

import pytest

from core.data.files import class_folders, existing_folder, files_under


def touch(*paths):
    """Empty files, their folders made."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(root, *suffixes, others=()):
    """Paths below the root of what the walk finds."""
    return [str(path.relative_to(root)) for path in files_under(root, suffixes or (".png",), others)]


def test_files_come_sorted_by_their_parts_and_hidden_ones_not_at_all(tmp_path):
    wanted, others = ["a/z/y.png", "b/x.png", "b-c/x.PNG", "b.png"], [".h/x.png", "b/.x.png", "x.txt"]
    touch(*(tmp_path / name for name in [*wanted, *others]))
    assert names(tmp_path) == wanted


def test_links_to_folders_and_files_are_followed(tmp_path):
    root = tmp_path / "root"
    touch(root / "a" / "1.png", tmp_path / "far" / "2.png", tmp_path / "far" / "sub" / "3.png", tmp_path / "4.png")
    (root / "b").symlink_to(tmp_path / "far")
    (root / "a" / "linked.png").symlink_to(tmp_path / "4.png")
    assert names(root) == ["a/1.png", "a/linked.png", "b/2.png", "b/sub/3.png"]
    assert names(root / "b") == ["2.png", "sub/3.png"], "a link as the root itself"


def test_a_folder_with_the_name_of_an_image_is_a_folder(tmp_path):
    touch(tmp_path / "y.png" / "inside.png", tmp_path / "z.png")
    assert names(tmp_path) == ["y.png/inside.png", "z.png"]


def test_links_that_lead_back_multiply_nothing(tmp_path, caplog):
    root = tmp_path / "all" / "root"
    touch(root / "a" / "1.png", root / "b" / "2.png", tmp_path / "all" / "heldout" / "3.png")
    backwards = {root / "a" / "up": root / "a", root / "a" / "top": root, root / "around": tmp_path / "all"}
    for link, target in backwards.items():
        link.symlink_to(target)
    assert names(root) == ["a/1.png", "b/2.png"]
    for link in backwards:
        assert f"left out: the link {link} leads to a folder that holds it" in caplog.messages


def test_a_folder_that_several_links_lead_to_is_walked_once_at_its_own_place(tmp_path, caplog):
    root, far = tmp_path / "root", tmp_path / "far"
    touch(root / "b" / "1.png", root / "c" / "2.png", far / "3.png", far / "sub" / "4.png")
    (root / "a").symlink_to(root / "b")
    (root / "b" / "across").symlink_to(root / "c")
    (root / "c" / "across").symlink_to(root / "b")
    (root / "x").symlink_to(far / "sub")
    (root / "y").symlink_to(far)
    (root / "z").symlink_to(far)
    assert names(root) == ["b/1.png", "c/2.png", "x/4.png", "y/3.png"]
    assert f"left out: {root / 'a'} is the folder {root / 'b'} once more" in caplog.messages
    assert f"left out: {root / 'z'} is the folder {root / 'y'} once more" in caplog.messages


def test_thirty_folders_of_two_links_each_end(tmp_path):
    for number in range(30):
        touch(tmp_path / f"d{number}" / "1.png")
        for name in "xy":
            (tmp_path / f"d{number}" / name).symlink_to(tmp_path / f"d{(number + 1) % 30}")
    assert len(names(tmp_path)) == 30


def test_what_is_no_file_is_left_out_and_told(tmp_path, caplog):
    touch(tmp_path / "1.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "null.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s.png"))
    assert names(tmp_path) == ["1.png"]
    for name in ("pipe.png", "null.png", "s.png"):
        assert f"left out: {tmp_path / name} is a pipe, a socket or a device, not a file" in caplog.messages


def test_broken_links_are_listed_where_they_are_media_and_told_where_not(tmp_path, caplog):
    (tmp_path / "1.png").symlink_to(tmp_path / "gone")
    (tmp_path / "2.png").symlink_to(tmp_path / "2.png")
    (tmp_path / "more").symlink_to(tmp_path / "gone")
    assert names(tmp_path) == ["1.png", "2.png"]
    assert caplog.messages == [f"left out: the link {tmp_path / 'more'} leads nowhere"]


def test_media_that_are_not_read_are_counted(tmp_path, caplog):
    touch(*(tmp_path / name for name in ("1.png", "2.gif", "3.GIF", "4.bmp", "5.txt")))
    assert names(tmp_path, ".png", ".jpg", others=(".gif", ".bmp")) == ["1.png"]
    assert caplog.messages == [f"left out in {tmp_path}: 1 .bmp, 2 .gif; read are .png, .jpg"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path / "a" / "1.png")
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match=f"Permission denied: '{tmp_path / 'a'}'"):
        names(tmp_path)


def test_classes_are_folders_and_links_to_others(tmp_path):
    root = tmp_path / "root"
    touch(root / "b" / "1.png", root / "file", root / ".hidden" / "x", tmp_path / "far" / "2.png")
    (root / "a").symlink_to(tmp_path / "far")
    (root / "back").symlink_to(root)
    (root / "around").symlink_to(tmp_path)
    assert class_folders(root) == ["a", "b"]
    (root / "lost").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match="links that lead nowhere: lost; each could be a class"):
        class_folders(root)


def test_a_root_that_is_no_folder_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"data\.root is '.*pipe', which is not a folder"):
        existing_folder(str(tmp_path / "pipe"))

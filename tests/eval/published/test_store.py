"""The folder of weights: what is put there by hand, verified, and found; nothing is fetched by itself."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from eval.published.entry import WeightsFile
from eval.published.registry import REGISTRY
from eval.weights import locate, verified, weights_root
from tests.eval.published.weights_server import DATA, SHA256, entry_of, forbidden, refused, run

ROOT = Path(__file__).resolve().parents[3]


def test_only_by_hand(register, server, root, capsys):
    drive = WeightsFile("sub/finest.tar", "https://drive.google.com/file/d/1/view", by_hand=True)
    plain = WeightsFile("weights.pth", f"{server.url}/weights.pth")
    register(entry_of(drive, plain, kind="directory", notes="unpack toy.zip"))
    message = refused(capsys, "fetch", "toy")
    assert "sub/finest.tar from https://drive.google.com/file/d/1/view" in message and "unpack toy.zip" in message
    assert (root / "toy" / "weights.pth").read_bytes() == DATA, "what can be fetched is fetched"
    source = root.parent / "t2m"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "finest.tar").write_bytes(b"weights")
    assert run("add", "toy", source) == 0
    assert locate("toy") == root / "toy"


def test_add_copies_or_links_a_file_under_any_name(toy, tmp_path):
    source = tmp_path / "copy (1).bin"
    source.write_bytes(DATA)
    for options, linked in (([], False), (["--link"], True)):
        assert run("add", "toy", source, *options) == 0
        assert locate("toy").read_bytes() == DATA and toy.is_symlink() is linked
        toy.unlink() if not linked else source.unlink()
    assert run("verify") == 1


def test_add_refuses_a_wrong_file(toy, tmp_path, capsys):
    (tmp_path / "weights.pth").write_bytes(DATA[::-1])
    assert "its SHA-256 is" in refused(capsys, "add", "toy", tmp_path / "weights.pth")
    (tmp_path / "weights.pth").write_bytes(b"short")
    assert "5 bytes instead of 1048576" in refused(capsys, "add", "toy", tmp_path / "weights.pth")
    assert not toy.exists()
    assert "no file or folder" in refused(capsys, "add", "toy", tmp_path / "nowhere.pth")


def test_an_archive_is_not_taken_for_the_file_in_it(unknown, tmp_path, capsys):
    (tmp_path / "weights.zip").write_bytes(b"PK")
    assert "not clearly a file of 'toy'" in refused(capsys, "add", "toy", tmp_path / "weights.zip")
    (tmp_path / "weights.pth").touch()
    assert "0 bytes" in refused(capsys, "add", "toy", tmp_path / "weights.pth")


def test_add_a_folder(register, root, tmp_path, capsys):
    files = [WeightsFile(path, f"https://example.org/{path}") for path in ("a/config.json", "b/config.json", "c.npy")]
    register(entry_of(*files, kind="directory"))
    source = tmp_path / "download"
    for path in ("a/config.json", "b/config.json"):
        (source / path).parent.mkdir(parents=True)
        (source / path).write_text(path)
    assert "lacks c.npy" in refused(capsys, "add", "toy", source)
    assert not root.exists(), "nothing is taken of a folder that is not whole"
    (source / "c.npy").write_bytes(DATA)
    assert run("add", "toy", source) == 0
    assert locate("toy") == root / "toy"
    assert (root / "toy" / "b" / "config.json").read_text() == "b/config.json"
    assert "not clearly a file" in refused(capsys, "add", "toy", source / "a" / "config.json")


def test_what_lies_in_place_already_is_recorded(unknown, capsys):
    unknown.parent.mkdir(parents=True)
    unknown.write_bytes(DATA)
    assert run("verify") == 0
    assert "no hash to compare with" in capsys.readouterr().out
    assert run("add", "toy", unknown) == 0
    assert run("verify") == 0
    assert "toy/weights.pth: ok" in capsys.readouterr().out


# Trust on first use, verification


def test_what_nobody_published_is_recorded_at_first_and_compared_later(unknown, server, capsys):
    run("list")
    assert "unknown: recorded at first import" in capsys.readouterr().out
    assert run("fetch", "toy") == 0
    recorded = json.loads((unknown.parents[1] / "hashes.json").read_text())["files"]
    assert recorded == {"toy/weights.pth": {"sha256": SHA256, "bytes": len(DATA)}}
    capsys.readouterr()
    run("list")
    listed = capsys.readouterr().out
    assert "present" in listed and "recorded  " in listed
    unknown.write_bytes(DATA[::-1])
    assert run("verify", "toy") == 1
    assert "DAMAGED" in capsys.readouterr().out
    with pytest.raises(ValueError, match="at its import"):
        verified("toy")
    assert run("fetch", "toy") == 0, "a damaged file is fetched again"
    assert unknown.read_bytes() == DATA
    server.files["/weights.pth"], server.tag = DATA[::-1], '"two"'
    unknown.unlink()
    assert "hashes.json" in refused(capsys, "fetch", "toy"), "what changed at its origin is not taken silently"


def test_a_damaged_size_shows_without_reading(toy, capsys):
    assert run("fetch", "toy") == 0
    toy.write_bytes(DATA[:-1])
    run("list")
    assert "damaged size" in capsys.readouterr().out
    with pytest.raises(ValueError, match="1048575 bytes instead of 1048576"):
        locate("toy")
    assert run("verify") == 1


def test_a_damaged_record_is_one_error(unknown, root, capsys):
    assert run("verify") == 0, "an empty folder has nothing to verify"
    assert str(root) in capsys.readouterr().out
    root.mkdir()
    for content in ("{", "[]", '{"files": {"a": {"sha256": 1, "bytes": 2}}}'):
        (root / "hashes.json").write_text(content)
        assert "hashes.json is damaged" in refused(capsys, "list")


# Places and names


def test_the_place_is_the_key_then_the_environment_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LAYERSYNC_WEIGHTS", str(tmp_path / "environment"))
    assert weights_root(str(tmp_path / "key")) == tmp_path / "key"
    assert weights_root(None) == tmp_path / "environment"
    monkeypatch.delenv("LAYERSYNC_WEIGHTS")
    assert weights_root(None) == Path.home() / ".cache" / "layersync" / "weights"
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        weights_root(str(tmp_path / "file"))


def test_another_folder_on_the_command_line(toy, tmp_path, capsys):
    other = tmp_path / "other"
    with pytest.raises(ValueError, match=f"fetch toy --weights-dir {other}`.*add toy FILE --weights-dir {other}`"):
        locate("toy", other)
    assert run("fetch", "toy", "--weights-dir", other) == 0
    assert locate("toy", other) == other / "toy" / "weights.pth"
    assert not toy.exists()


def test_an_unknown_name_lists_the_names(root, capsys):
    for command in (["fetch", "incepton"], ["add", "incepton", "x"], ["verify", "incepton"]):
        message = refused(capsys, *command)
        assert "incepton" in message and "inception, " in message and "clap-music" in message
    with pytest.raises(ValueError, match="names: inception"):
        locate("incepton")


def test_locate_fetches_nothing(root, monkeypatch):
    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "create_connection", forbidden)
    for entry in REGISTRY:
        with pytest.raises(ValueError) as caught:
            locate(entry.name)
        message, first = str(caught.value), entry.files[0]
        assert "\n" not in message
        for part in (first.path, first.url, root / entry.name / first.path, f"add {entry.name}"):
            assert str(part) in message
        assert (f"fetch {entry.name}`" in message) != all(file.by_hand for file in entry.files)
    assert not root.exists()


def test_a_list_needs_no_torch(root):
    code = "import sys, eval.weights as w; w.main(['list']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(REGISTRY) + 1 and "absent" in done.stdout

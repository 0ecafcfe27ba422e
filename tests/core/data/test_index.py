"""The index of a collection: what is found, what is probed again, what is broken."""

import json
import logging
import os
import shutil
from dataclasses import replace

import pytest

from audio.sounds.files import AUDIO, AudioFacts, probe
from core.data.index import find_media, index_file, index_media
from tests.audio.audio_files import RATE, music, write_sound


@pytest.fixture
def root(tmp_path):
    """Three sounds at different depths, with files that are none."""
    root = tmp_path / "sounds"
    write_sound(root / "b.wav", music(0.1))
    write_sound(root / "a" / "deep" / "c.flac", music(0.2, channels=1))
    write_sound(root / "a" / "a.mp3", music(0.3))
    write_sound(root / ".hidden" / "x.wav", music(0.1))
    write_sound(root / "._b.wav", music(0.1))
    (root / "notes.txt").write_text("not a sound")
    return root


@pytest.fixture
def probed(monkeypatch):
    """The names of the files that are probed, in the order in which that is asked."""
    names = []
    counted = replace(AUDIO, probe=lambda path: names.append(path.name) or probe(path))
    monkeypatch.setitem(globals(), "AUDIO", counted)
    return names


@pytest.fixture
def cache(tmp_path):
    """A folder for indices."""
    return str(tmp_path / "cache")


PATHS = ["a/a.mp3", "a/deep/c.flac", "b.wav"]


def test_files_are_found_at_any_depth_in_order(root, tmp_path):
    assert find_media(root, AUDIO) == PATHS
    write_sound(tmp_path / "elsewhere" / "d.ogg", music(0.1))
    (root / "z").symlink_to(tmp_path / "elsewhere")
    (root / "b.wav").rename(root / "b.WAV")
    assert find_media(root, AUDIO) == ["a/a.mp3", "a/deep/c.flac", "b.WAV", "z/d.ogg"]


def test_a_kind_may_find_more_than_files(root):
    folders = replace(AUDIO, find=lambda root, files: sorted(path for path in root.iterdir() if path.is_dir()))
    assert find_media(root, folders) == [".hidden", "a"]


def test_no_audio_found_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("not a sound")
    with pytest.raises(ValueError, match=r"data.root is .*: no audio file there \(.flac"):
        find_media(tmp_path, AUDIO)


def test_a_folder_that_cannot_be_read_is_an_error(root, monkeypatch):
    """Refused by the stand-in of a system call: whoever runs the tests may read every folder."""
    scan = os.scandir

    def refuse(path):
        if os.path.basename(path) == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="deep"):
        find_media(root, AUDIO)


def test_facts_are_those_of_the_files(root, cache):
    facts = index_media(root, PATHS, AUDIO, cache).facts
    assert facts == {path: probe(root / path) for path in PATHS}
    assert facts["a/deep/c.flac"] == AudioFacts(round(0.2 * RATE), RATE, 1)


def test_only_new_and_changed_files_are_probed_again(root, cache, probed):
    first = index_media(root, PATHS, AUDIO, cache)
    assert sorted(probed) == ["a.mp3", "b.wav", "c.flac"]
    probed.clear()
    assert index_media(root, PATHS, AUDIO, cache) == first
    assert probed == []
    write_sound(root / "b.wav", music(0.4))  # another size
    status = (root / "a" / "a.mp3").stat()
    os.utime(root / "a" / "a.mp3", ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # same size, another time
    write_sound(root / "new.wav", music(0.1))
    second = index_media(root, [*PATHS, "new.wav"], AUDIO, cache)
    assert sorted(probed) == ["a.mp3", "b.wav", "new.wav"]
    assert second.facts["b.wav"].frames == round(0.4 * RATE)
    probed.clear()
    write_sound(root / "b.wav", music(0.5))
    assert list(index_media(root, ["b.wav"], AUDIO, cache).facts) == ["b.wav"]
    assert len(index_media(root, [*PATHS, "new.wav"], AUDIO, cache).facts) == 4
    assert probed == ["b.wav"]  # a part of the files does not forget the others


def test_no_cache_means_no_file(root, tmp_path, probed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    index_media(root, PATHS, AUDIO, None)
    index_media(root, PATHS, AUDIO, None)
    assert len(probed) == 2 * len(PATHS)
    assert sorted(tmp_path.rglob("*")) == before


def test_each_root_has_its_own_index_whatever_it_is_called_by(root, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert index_file(root, AUDIO, cache) == index_file(root.relative_to(tmp_path), AUDIO, cache)
    assert index_file(root, AUDIO, cache) != index_file(root / "a", AUDIO, cache)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"schema_version": 0, "files": {}}',
        "null",
        "\xff",
        '{"schema_version": 2, "files": {"b.wav": [1, 2, 3]}}',
        '{"schema_version": 1, "files": {"b.wav": [1, 2, 3, 4, 5]}}',
        '{"schema_version": 2, "files": {"b.wav": [1, 2, 4410, 0, 2, 0]}}',
        '{"schema_version": 2, "files": {"b.wav": [1, 2, -5, 44100, 2, 0]}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_index_is_made_anew_with_a_warning(root, cache, caplog, damage):
    wanted = index_media(root, PATHS, AUDIO, cache)
    file = index_file(root, AUDIO, cache)
    whole = json.loads(file.read_text())
    file.write_bytes(damage.encode("latin-1"))
    with caplog.at_level(logging.WARNING):
        assert index_media(root, PATHS, AUDIO, cache) == wanted
    assert f"index {file} is damaged" in caplog.text
    assert json.loads(file.read_text()) == whole


def test_broken_files_are_an_error_that_lists_the_first_five(root, cache):
    for number in range(7):
        (root / f"x{number}.mp3").write_text("no sound")
    with pytest.raises(ValueError, match=r"broken audio files: 7, data.max_broken is 0; the first:") as error:
        index_media(root, find_media(root, AUDIO), AUDIO, cache)
    assert "x4.mp3" in str(error.value)
    assert "x5.mp3" not in str(error.value)
    with pytest.raises(ValueError, match=r"broken audio files: 7, data.max_broken is 6"):
        index_media(root, find_media(root, AUDIO), AUDIO, cache, max_broken=6)


def test_broken_and_missing_files_within_the_bound_are_left_out_and_logged(root, cache, caplog):
    (root / "x.mp3").write_text("no sound")
    (root / "y.flac").touch()
    with caplog.at_level(logging.WARNING):
        index = index_media(root, [*PATHS, "gone.wav", "x.mp3", "y.flac"], AUDIO, cache, max_broken=3)
    assert list(index.facts) == PATHS
    assert list(index.broken) == ["gone.wav", "x.mp3", "y.flac"]
    assert f"{root / 'gone.wav'} is not there" in caplog.text
    assert all(f"left out: {why}" in caplog.text for why in index.broken.values())
    shutil.copy(root / "b.wav", root / "y.flac")  # mended: a broken file is never remembered
    assert "y.flac" in index_media(root, ["y.flac"], AUDIO, cache).facts


def test_what_is_no_file_is_broken_and_not_waited_for(root, cache, tmp_path):
    os.mkfifo(root / "pipe.wav")
    (root / "folder.wav").mkdir()
    (root / "circle.wav").symlink_to("circle.wav")
    names = ["pipe.wav", "folder.wav", "circle.wav", "b.wav/c.wav", "x" * 300 + ".wav"]
    broken = index_media(root, [*PATHS, *names], AUDIO, cache, max_broken=5).broken
    assert list(broken) == names
    for name, why in zip(names, ["a pipe", "a folder", "not there", "not there", "not there"], strict=True):
        assert f"audio file {root / name}" in broken[name] and why in broken[name]


def test_facts_that_the_data_set_cannot_use_are_broken_and_kept_in_the_index(root, cache, probed):
    def stereo(facts):
        if facts.channels != 2:
            raise ValueError(f"{facts.channels} channels")

    for _ in range(2):
        index = index_media(root, PATHS, AUDIO, cache, 1, stereo)
        assert index.broken == {"a/deep/c.flac": f"audio file {root / 'a/deep/c.flac'}: 1 channels"}
        assert list(index.facts) == ["a/a.mp3", "b.wav"]
    assert len(probed) == 3
    assert list(index_media(root, PATHS, AUDIO, cache).facts) == PATHS


def test_what_was_probed_before_an_error_is_kept(root, cache, probed):
    (root / "x.mp3").write_text("no sound")
    with pytest.raises(ValueError, match=r"x\.mp3"):
        index_media(root, [*PATHS, "x.mp3"], AUDIO, cache)
    probed.clear()
    index_media(root, PATHS, AUDIO, cache)
    assert probed == []

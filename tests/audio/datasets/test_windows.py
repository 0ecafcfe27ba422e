"""Files that a data set of windows cannot use, or not in full: counted and told before the first step."""

import logging
import os

import numpy as np
import pytest

from audio.datasets.folder import FolderConfig, FolderDataset
from audio.sounds.sound import ClipFormat
from tests.audio.audio_files import music, write_mp3, write_sound
from tests.rows import every_row

RATE = 8000
CLIP = ClipFormat.of(RATE, 2, 0.5, 500)


def folder(root, clip=CLIP, **options):
    """The data set of a folder."""
    common = {"seconds": 0.5, "sample_rate": clip.sample_rate, "channels": 2, "min_seconds": 0.1, "cache_dir": None}
    return FolderDataset(FolderConfig(root=str(root), **{**common, **options}), clip)


def with_rate(path, rate):
    """A WAV file whose header says another rate."""
    write_sound(path, music(1, RATE), RATE)
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(content)


def with_sample(path, value, subtype="FLOAT"):
    """A WAV file of floating-point numbers with one of them inside."""
    sound = music(1, RATE)
    sound[1, 3000] = value
    write_sound(path, sound, RATE, subtype=subtype)


def cut_mp3(path):
    """An MP3 whose Xing frame announces more than is there."""
    content = write_mp3(path, music(2)).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def longer_flac(path):
    """A FLAC file whose header announces 2^36 - 1 samples."""
    content = bytearray(write_sound(path, music(1, RATE), RATE).read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)


@every_row(
    ("name", "make", "reason"),
    [
        ("three.wav", lambda path: write_sound(path, music(1, RATE, 3), RATE), "3 channels into 2; allowed"),
        ("eight.flac", lambda path: write_sound(path, music(1, RATE, 8), RATE), "8 channels into 2; allowed"),
        ("many.wav", lambda path: write_sound(path, music(0.2, RATE, 255), RATE), "255 channels into 2; allowed"),
        ("fast.wav", lambda path: with_rate(path, 2**31 - 1), "its header says 2147483647 samples/s; allowed: 1000 to"),
        ("slow.wav", lambda path: with_rate(path, 1), "its header says 1 samples/s; allowed: 1000 to"),
        ("odd.wav", lambda path: with_rate(path, 999_983), "999983 Hz into 44101 Hz is a ratio of 999983:44101"),
        ("cut.mp3", cut_mp3, "it is cut off: not all of"),
        ("lie.flac", longer_flac, "it announces 68719476735 samples, and the last of them is not there"),
        (
            "loud.wav",
            lambda path: with_sample(path, 3e29),
            r"sample 3000 is 3e\+29; allowed: up to 32, full scale is 1",
        ),
        ("nan.wav", lambda path: with_sample(path, np.nan), "sample 3000 is not a finite number"),
        ("double.wav", lambda path: with_sample(path, np.inf, "DOUBLE"), "sample 3000 is not a finite number"),
        ("gsm.wav", lambda path: write_sound(path, music(1, RATE, 1), RATE, subtype="GSM610"), "GSM610 from the start"),
        ("pipe.wav", os.mkfifo, "is a pipe"),
        ("none.mp3", lambda path: path.write_bytes(b"\xff\xfb\x90\x64" * 100), "FFmpeg cannot decode|no audio stream"),
    ],
)
def test_what_cannot_be_used_is_broken_before_training(tmp_path, caplog, name, make, reason):
    """One error that names the file, or, up to max_broken, a file left out; all that is left can be read."""
    root = tmp_path / name
    write_sound(root / "good.wav", music(1, RATE), RATE)
    make(root / name)
    clip = ClipFormat.of(44101, 2, 0.5, 500) if name == "odd.wav" else CLIP
    with caplog.at_level(logging.WARNING):
        data = folder(root, clip, max_broken=1)
    assert (len(data), data.name(0)) == (1, str(root / "good.wav"))
    if name == "pipe.wav":
        assert reason in caplog.text
        return
    assert data.num_broken == 1
    assert data.item(0, np.random.default_rng(0))["media"].isfinite().all()
    with pytest.raises(ValueError, match=rf"broken audio files: 1, data.max_broken is 0; .*{name}: .*({reason})"):
        folder(root, clip)


def test_a_file_of_another_format_is_known_from_the_cached_index_too(tmp_path):
    """The same index serves clips of another rate, into which the other file cannot be resampled."""
    write_sound(tmp_path / "a" / "common.wav", music(1, RATE), RATE)
    with_rate(tmp_path / "a" / "odd.wav", 999_983)
    options = {"cache_dir": str(tmp_path / "cache"), "max_broken": 1, "min_seconds": 0}
    for _ in range(2):
        for rate, kept in ((44101, "common.wav"), (999_983, "odd.wav")):
            data = folder(tmp_path / "a", ClipFormat.of(rate, 2, 0.002, 50), **options)
            assert [data.name(index) for index in range(len(data))] == [str(tmp_path / "a" / kept)]


@every_row("rate", [44056, 44101, 11127])
def test_odd_rates_are_read(tmp_path, rate):
    """Their ratio to 44.1 kHz has no small numbers."""
    write_sound(tmp_path / f"{rate}.wav", music(1, rate), rate)
    clip = ClipFormat.of(44100, 2, 0.5, 500)
    data = folder(tmp_path, clip, window="tiled")
    assert data.item(1, np.random.default_rng(0))["media"].abs().max() > 0.1


def test_files_cut_off_count_as_shorter_ones_and_are_told(tmp_path, caplog):
    for number, suffix in enumerate((".wav", ".ogg", ".mka", ".flac")):
        write_sound(tmp_path / f"{number}{suffix}", music(4), 44100)
    content = (tmp_path / "1.ogg").read_bytes()
    (tmp_path / "1.ogg").write_bytes(content[: len(content) // 2])
    content = (tmp_path / "2.mka").read_bytes()
    (tmp_path / "2.mka").write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        data = folder(tmp_path, ClipFormat.of(44100, 2, 0.5, 500))
    assert data.num_cut == 2
    assert "2 of 4 audio files are cut off and count as shorter ones, such as ['1.ogg', '2.mka']" in caplog.text


def test_sound_that_is_not_read_is_counted_by_its_suffix(tmp_path, caplog):
    write_sound(tmp_path / "a.wav", music(1, RATE), RATE)
    for name in ("b.aiff", "deep/c.AIFF", "d.wma", "cover.jpg", "a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"FORM")
    with caplog.at_level(logging.WARNING):
        assert len(folder(tmp_path)) == 1
    assert f"left out in {tmp_path}: 2 .aiff, 1 .wma; read are" in caplog.text
    assert "jpg" not in caplog.text


def test_floating_point_sound_over_full_scale_is_sound(tmp_path):
    with_sample(tmp_path / "a.wav", 8.0)
    assert len(folder(tmp_path)) == 1

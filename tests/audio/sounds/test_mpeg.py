"""The length of an MP3 whatever stands around its frames, and frames against tags that look like them."""

import os

import numpy as np
import pytest
import soundfile
import torch

from audio.sounds import mpeg
from audio.sounds.files import probe, read, read_all
from audio.sounds.mpeg import count_frames, find_stream, frame_of
from tests.audio.audio_files import RATE, ape, id3, music, write_mp3
from tests.rows import every_row

SECONDS = 6
PADDING = 3 * 1152  # samples that an encoder adds at the ends, at most
PICTURE = b"\xff\xd8\xff\xe0" + np.random.default_rng(0).bytes(20_000) + b"\xff\xfb\x90\x64" * 9  # syncs in it
V1 = b"TAG" + b"a" * 125
LYRICS = b"LYRICSBEGIN" + b"l" * 500 + b"000511LYRICS200"


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """The bytes of the same sound as MP3 by (xing, variable), without tags around them."""
    folder, found = tmp_path_factory.mktemp("mp3"), {}
    t = np.arange(SECONDS * RATE) / RATE
    tones = 0.3 * np.sin(2 * np.pi * np.array([[220], [330]]) * t)
    sound = np.where(t < SECONDS / 3, music(SECONDS), tones).astype(np.float32)  # few bits after many: a bad guess
    for xing in (False, True):
        for variable in (False, True):
            path = write_mp3(folder / "a.mp3", sound, xing=xing, variable=variable)
            stream = find_stream(path)
            found[xing, variable] = path.read_bytes()[stream.first : stream.last]
    return found


AROUND = [
    ("one tag", id3(PICTURE), b""),
    ("a footer", id3(PICTURE, footer=True), b""),
    ("two tags", id3(b"x" * 500) + id3(PICTURE), b""),
    ("a zero", b"\0", b""),
    ("many zeros", bytes(100_000), b""),
    ("zeros after a tag that is shorter than it says", id3(b"abc") + b"\0" * 7, b""),
    ("the rest of a frame", "rest", b""),
    ("an APE tag", ape(PICTURE), b""),
    ("a tag longer than the file", b"ID3\4\0\0\x7f\0\0\0", b""),
    ("another file in a tag", "embedded", b""),
    ("noise", np.random.default_rng(1).bytes(9000), b""),
    ("ID3v1", b"", V1),
    ("APE with a picture and ID3v1", b"", ape(PICTURE) + V1),
    ("APE without a header", b"", ape(PICTURE, header=False)),
    ("Lyrics3 and ID3v1", b"", LYRICS + V1),
    ("an ID3v2 tag at the end", b"", id3(PICTURE, footer=True)),
    ("zeros at the end", b"", bytes(5000)),
    ("noise at the end", b"", np.random.default_rng(2).bytes(3000)),
    ("tags on both sides", id3(PICTURE, footer=True) + b"\0", ape(PICTURE) + V1),
]


@pytest.mark.parametrize("xing", [False, True])
@every_row(("what", "front", "back"), AROUND)
def test_tags_change_neither_the_length_nor_the_samples(frames, tmp_path, xing, what, front, back):
    """libsndfile takes a first frame elsewhere for none, and guesses: a quarter of the sound, or twice as much."""
    for variable in (False, True):
        content = frames[xing, variable]
        path = tmp_path / "plain.mp3"
        path.write_bytes(content)
        plain = probe(path)
        assert 0 <= plain.frames - SECONDS * RATE <= (0 if xing else PADDING)
        tagged = tmp_path / "tagged.mp3"
        before = {"rest": content[-300:-1], "embedded": id3(content[:30_000])}.get(front, front)
        tagged.write_bytes(before + content + back)
        assert probe(tagged) == plain, (what, variable)
        for start in (0, 150_000, plain.frames - 2000):
            assert torch.equal(read(tagged, start, 2000).samples, read(path, start, 2000).samples)


def test_two_files_in_one_are_as_long_as_both(frames, tmp_path):
    """The Xing frame of the first speaks of the first alone."""
    path = tmp_path / "both.mp3"
    for xing in (False, True):
        path.write_bytes(2 * frames[xing, True])
        facts = probe(path)
        assert 0 <= facts.frames - 2 * SECONDS * RATE <= 3 * PADDING
        assert read_all(path).samples.shape[1] == facts.frames


def test_a_number_of_frames_that_cannot_be_is_not_believed(frames, tmp_path):
    """Nothing is reserved for it, and the frames are counted."""
    path = tmp_path / "lie.mp3"
    for variable in (False, True):
        content = bytearray(frames[True, variable])
        place = max(content.find(b"Xing"), content.find(b"Info")) + 8
        for told in (2**32 - 1, 50, 0) if not variable else (2**32 - 1, 0):
            content[place : place + 4] = told.to_bytes(4, "big")
            path.write_bytes(content)
            facts = probe(path)
            assert 0 <= facts.frames - SECONDS * RATE <= PADDING
            assert read_all(path).samples.shape[1] == facts.frames


def test_a_cut_mp3_is_broken_where_it_announces_more_and_shorter_where_it_does_not(frames, tmp_path):
    path = tmp_path / "cut.mp3"
    for variable in (False, True):
        for kept in (0.5, 0.999):
            content = frames[True, variable]
            path.write_bytes(id3(b"x") + content[: int(kept * len(content))])
            with pytest.raises(ValueError, match=r"cut\.mp3: it is cut off: not all of the \d+ samples"):
                probe(path)
        content = frames[False, variable]
        path.write_bytes(content[: len(content) // 2])
        facts = probe(path)
        assert facts.cut_off == 1
        assert read_all(path).samples.shape[1] == facts.frames < SECONDS * RATE * (0.6 if not variable else 0.5)


def test_an_mp3_that_lacks_its_last_frame_is_read_to_the_end_that_it_has(frames, tmp_path):
    """Whether the Xing frame counts itself is not known, so that no bytes are torn and none may be lacking."""
    path = tmp_path / "whole.mp3"
    path.write_bytes(frames[True, True][:-10])
    _, end, torn = count_frames(path, find_stream(path))
    assert torn
    path.write_bytes(frames[True, True][:end])
    facts = probe(path)
    assert read_all(path).samples.shape[1] == facts.frames > (SECONDS - 1) * RATE


def test_a_file_of_zeros_is_not_searched_to_its_end(tmp_path):
    """It was reserved in advance and never written; FFmpeg would read gigabytes of them into memory."""
    for suffix in (".mp3", ".wav"):
        path = tmp_path / f"reserved{suffix}"
        path.touch()
        os.truncate(path, 2**32)
        with pytest.raises(ValueError, match=rf"reserved\{suffix}: nothing but zeros"):
            probe(path)


def test_frames_far_behind_the_last_one_are_not_looked_for(frames, tmp_path, monkeypatch):
    """Else a file of what looks like frames and is none takes minutes."""
    path, content = tmp_path / "a.mp3", frames[False, True]
    path.write_bytes(content + b"\xff" * 3000 + content)
    twice = count_frames(path, find_stream(path))[0]
    monkeypatch.setattr(mpeg, "JUNK", 2000)
    once, end, torn = count_frames(path, find_stream(path))
    assert (2 * once, end, torn) == (twice, len(content), False)


def test_mp3_under_another_name_is_no_guess_either(frames, tmp_path):
    path = tmp_path / "named.wav"
    path.write_bytes(id3(PICTURE) + frames[False, True])
    assert 0 <= probe(path).frames - SECONDS * RATE <= PADDING
    assert read_all(path).samples.shape == (2, probe(path).frames)


@every_row("rate", [8000, 11025, 16000, 24000, 32000, 48000])
def test_frames_of_all_rates_are_counted(tmp_path, rate):
    path = tmp_path / "a.mp3"
    soundfile.write(path, music(1, rate, 1).T, rate, format="MP3", subtype="MPEG_LAYER_III")
    stream = find_stream(path)
    count, end, torn = count_frames(path, stream)
    assert (end, torn, stream.there) == (path.stat().st_size, False, True)
    samples = 1152 if rate >= 32000 else 576
    assert stream.announced == (count - 1) * samples


def test_headers_that_no_frame_has():
    assert frame_of(b"\xff\xfb\x90\x64").length == 417  # 144 * 128000 / 44100
    assert frame_of(b"\xff\xfb\x92\x64").length == 418  # padded
    assert frame_of(b"\xff\xfd\x90\x04").samples == 1152  # layer II
    for wrong in (
        b"\xff\xfb\x00\x64",
        b"\xff\xfb\xf0\x64",
        b"\xff\xfb\x9c\x64",
        b"\xff\xf9\x90\x64",
        b"\xff\xeb\x90\x64",
    ):
        assert frame_of(wrong) is None  # free format, no bit rate, no sample rate, no layer, no version
    assert frame_of(b"\xff\xfb") is None

"""Files that are cut off: told where they can be read as shorter ones, broken where they cannot."""

import pytest
import soundfile
import torch

from audio.sounds.endings import is_cut_off
from audio.sounds.files import AUDIO_SUFFIXES, probe, read, read_all
from tests.audio.audio_files import RATE, music, write_sound
from tests.rows import every_row

SECONDS = 5
SHORTER = (".ogg", ".oga", ".opus", ".wav", ".mka", ".webm")


def write(folder, suffix, **options):
    """Some seconds of sound."""
    rate = 48000 if suffix in (".opus", ".webm") else RATE
    return write_sound(folder / f"whole{suffix}", music(SECONDS, rate), rate, **options)


@every_row("suffix", AUDIO_SUFFIXES)
def test_a_file_that_is_cut_off_says_so_or_is_broken(tmp_path, suffix):
    whole = write(tmp_path, suffix)
    assert not is_cut_off(whole)
    assert probe(whole).cut_off == 0
    content = whole.read_bytes()
    for kept in (len(content) // 2, int(0.99 * len(content)), len(content) - 20):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(content[:kept])
        if suffix in SHORTER or (suffix in (".m4a", ".mp4") and kept == len(content) - 20):
            facts = probe(path)
            assert facts.cut_off == 1
            assert read_all(path).samples.shape[1] == facts.frames <= probe(whole).frames
        else:
            with pytest.raises(ValueError, match=r"cut off|truncated"):
                probe(path)


def test_an_mp4_whose_index_comes_first_is_broken_by_a_cut(tmp_path):
    content = write(tmp_path, ".m4a", muxer={"movflags": "faststart"}).read_bytes()
    (tmp_path / "cut.m4a").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.m4a: it is cut off"):
        probe(tmp_path / "cut.m4a")


def test_streams_whose_recorder_did_not_know_the_end_are_whole(tmp_path):
    wav = write(tmp_path, ".wav")
    content = bytearray(wav.read_bytes())
    for size in (0xFFFFFFFF, 0x7FFFFFFF - 8):
        content[40:44] = size.to_bytes(4, "little")
        wav.write_bytes(content)
        facts = probe(wav)
        assert (facts.frames, facts.cut_off) == (SECONDS * RATE, 0)
    content[40:44] = (4 * RATE).to_bytes(4, "little")  # as a recorder says that died later
    wav.write_bytes(content)
    assert (probe(wav).frames, probe(wav).cut_off) == (RATE, 1)
    for behind in (b"id3 " + bytes(8), b"\0_PMX" + bytes(8), bytes(100)):
        wav.write_bytes(bytes(content[: 44 + 4 * RATE]) + behind)
        assert probe(wav).cut_off == 0
    live = write(tmp_path, ".mka", muxer={"live": "1"})
    assert probe(live).cut_off == 0


def test_a_wav_whose_size_was_never_filled_in_is_read_to_its_end(tmp_path):
    """As a recorder leaves it that died; a file that is empty in truth is refused, whatever chunks follow."""
    wav = write(tmp_path, ".wav")
    whole, content = read_all(wav), bytearray(wav.read_bytes())
    for place in (4, 40):
        content[place : place + 4] = bytes(4)
    wav.write_bytes(content)
    facts = probe(wav)
    assert (facts.frames, facts.cut_off) == (SECONDS * RATE, 0)
    assert read_all(wav).same(whole)
    assert torch.equal(read(wav, 100_000, 500).samples, whole.samples[:, 100_000:100_500])
    for behind in (b"", b"LIST\4\0\0\0INFO"):
        wav.write_bytes(bytes(content[:44]) + behind)
        with pytest.raises(ValueError, match=r"whole\.wav: it holds no samples"):
            probe(wav)


def test_a_flac_that_does_not_tell_its_length_is_read_to_its_end(tmp_path):
    """As it is written into a pipe."""
    flac = write(tmp_path, ".flac")
    whole, content = read_all(flac), bytearray(flac.read_bytes())
    content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])
    flac.write_bytes(content)
    facts = probe(flac)
    assert (facts.frames, facts.cut_off) == (SECONDS * RATE, 0)
    assert read_all(flac).same(whole)
    assert torch.equal(read(flac, 100_000, 500).samples, whole.samples[:, 100_000:100_500])


def test_a_chain_of_ogg_streams_is_refused_as_one(tmp_path):
    ogg = write(tmp_path, ".ogg")
    for seconds in (1, SECONDS + 1):  # libsndfile passes over a shorter one, and has no length for a longer one
        other = write_sound(tmp_path / "other.ogg", music(seconds, seed=1))
        (tmp_path / "chain.ogg").write_bytes(ogg.read_bytes() + other.read_bytes())
        with pytest.raises(ValueError, match=r"chain\.ogg: it is a chain of several streams"):
            probe(tmp_path / "chain.ogg")


def test_large_wav_headers_are_understood(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, music(1).T, RATE, format="RF64", subtype="PCM_16")
    assert probe(path).cut_off == 0
    path.write_bytes(path.read_bytes()[:-1000])
    assert probe(path).cut_off == 1

"""Clips to be measured: which files, what of them is decoded, what a folder says of them."""

import json
import logging
import unicodedata

import pytest
import soundfile
import torch

from audio.encoders.protocols import ONE_WINDOW
from audio.evaluate import PcmSamples
from audio.media import ChunkSounds, FolderSounds, central_span, labels_of, open_sounds
from audio.sounds.files import AudioFacts, read_all
from audio.sounds.pcm import write_wav
from audio.sounds.sound import ClipFormat, Sound
from eval.measure.generated import Chunks
from tests.audio.audio_files import music, write_mp3, write_sound


def mixture(folder):
    """Files of several formats, rates and lengths, one of them below."""
    write_sound(folder / "b.wav", music(0.3, 44_100, 2), 44_100)
    write_sound(folder / "a" / "c.flac", music(0.5, 22_050, 1), 22_050)
    write_sound(folder / "d.ogg", music(0.4, 48_000, 1), 48_000)
    write_mp3(folder / "e.mp3", music(0.6, 44_100, 1))
    write_sound(folder / "f.m4a", music(0.7, 44_100, 2))
    (folder / "notes.txt").write_text("no sound")
    return folder


def test_files_come_in_the_order_of_their_paths_as_they_are(tmp_path):
    clips = FolderSounds(mixture(tmp_path / "mixture"))
    assert clips.names == ["a/c", "b", "d", "e", "f"]
    sounds = clips.rows(0, 5)
    assert [sound.sample_rate for sound in sounds] == [22_050, 44_100, 48_000, 44_100, 44_100]
    assert [len(sound.samples) for sound in sounds] == [1, 2, 1, 1, 2]
    assert [sound.seconds for sound in sounds] == pytest.approx([0.5, 0.3, 0.4, 0.6, 0.7], abs=0.06)
    whole = read_all(tmp_path / "mixture" / "b.wav")
    assert clips.rows(1, 2)[0].same(whole)
    before = clips.sha256
    write_sound(tmp_path / "mixture" / "b.wav", music(0.3, 44_100, 2, seed=1), 44_100)
    assert FolderSounds(tmp_path / "mixture").sha256 != before


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("to", [16_000, 32_000, 48_000])
def test_the_part_that_is_read_holds_the_window_of_the_whole(rate, to):
    whole = Sound(torch.from_numpy(music(14.0317, rate, 1)), rate)
    first, count = central_span(AudioFacts(whole.samples.shape[1], rate, 1), ONE_WINDOW.seconds)
    assert first > 0 and count <= 10.6 * rate
    part = Sound(whole.samples[:, first : first + count], rate)
    windows = [ONE_WINDOW.windows(ONE_WINDOW.waveform(sound, to, "clip"), to)[0] for sound in (whole, part)]
    torch.testing.assert_close(windows[1], windows[0], rtol=0, atol=1e-6)


def test_a_clip_no_longer_than_the_window_is_read_whole():
    assert central_span(AudioFacts(80_000, 8_000, 1), 10.0) == (0, 80_000)
    assert central_span(AudioFacts(800_000, 8_000, 1), None) == (0, 800_000)


def test_what_is_beyond_the_window_is_not_decoded(tmp_path):
    """NaN at the file's ends, which a reader of them would refuse."""
    samples = music(14, 8_000, 1)
    samples[0, 0] = samples[0, -1] = float("nan")
    (tmp_path / "long").mkdir()
    soundfile.write(tmp_path / "long" / "a.wav", samples.T, 8_000, subtype="FLOAT")
    (sound,) = FolderSounds(tmp_path / "long", window=10.0).rows(0, 1)
    assert 10 <= sound.seconds <= 10.6
    with pytest.raises(ValueError, match=r"a\.wav: sample 0 is not a finite number"):
        FolderSounds(tmp_path / "long").rows(0, 1)


def test_a_clip_too_short_is_named(tmp_path):
    write_sound(tmp_path / "a" / "short.wav", music(0.05, 16_000, 1), 16_000)
    with pytest.raises(ValueError, match=r"short\.wav lasts 0\.05 s; needed: 0\.1 s"):
        FolderSounds(tmp_path / "a")


def test_two_files_of_one_name_are_no_pair(tmp_path):
    for suffix in (".wav", ".flac"):
        write_sound(tmp_path / "a" / f"same{suffix}", music(0.2, 16_000, 1), 16_000)
    assert FolderSounds(tmp_path / "a").names is None


def test_the_format_of_notes_is_asked_of_every_file_without_decoding_it(tmp_path):
    for number, rate in enumerate((16_000, 22_050)):
        write_sound(tmp_path / "a" / f"{number}.wav", music(0.5, rate, 2), rate)
    clips = FolderSounds(tmp_path / "a")
    with pytest.raises(ValueError, match=r"1\.wav is a clip of \(2, 11025, 22050\) .* takes those of \(2, 8000, 16000"):
        clips.check_format(ClipFormat(16_000, 2, 8_000, 1))
    (tmp_path / "a" / "1.wav").unlink()
    FolderSounds(tmp_path / "a").check_format(ClipFormat(16_000, 2, 8_000, 1))


def test_what_is_cut_off_or_not_read_is_told_and_what_is_no_file_is_refused(tmp_path, caplog):
    for name in ("a.wav", "b.wav"):
        write_sound(tmp_path / name, music(1, 16_000, 1), 16_000)
    (tmp_path / "b.wav").write_bytes((tmp_path / "b.wav").read_bytes()[:-8000])
    (tmp_path / "c.aiff").write_bytes(b"FORM")
    with caplog.at_level(logging.WARNING):
        clips = FolderSounds(tmp_path)
    assert clips.names == ["a", "b"]
    assert "1 of 2 audio files are cut off and count as shorter ones, such as ['b.wav']" in caplog.text
    assert "1 .aiff" in caplog.text
    write_sound(tmp_path / "loud.wav", 1000 * music(1, 16_000, 1), 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"loud\.wav: sample \d+ is .*; allowed: up to 32"):
        FolderSounds(tmp_path).rows(2, 3)


def test_names_in_two_unicode_forms_are_a_pair_and_have_their_condition(tmp_path):
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    write_sound(tmp_path / f"{apart}.wav", music(0.2, 16_000, 1), 16_000)
    (tmp_path / "conditions.json").write_text(json.dumps({f"{composed}.wav": "rain"}))
    clips = open_sounds(tmp_path, "samples")
    clips.read_conditions()
    assert (clips.names, clips.texts) == ([composed], ["rain"])


def said(folder, titles):
    """A folder of clips whose conditions.json says `titles`."""
    for number in range(2):
        write_sound(folder / f"{number}.wav", music(0.2, 16_000, 1, seed=number), 16_000)
    (folder / "conditions.json").write_text(titles if isinstance(titles, str) else json.dumps(titles))
    clips = open_sounds(folder, "samples")
    clips.read_conditions()
    return clips


def test_conditions_are_classes_or_texts_or_say_nothing(tmp_path):
    notes = said(tmp_path / "notes", {"0.wav": "flute", "1.wav": "hi-hat" if labels_of(["hi-hat"]) else "flute"})
    assert notes.labels.dtype == torch.int64
    assert notes.labels.tolist() == [labels_of([title])[0] for title in notes.texts]
    texts = said(tmp_path / "texts", {"0.wav": "rain", "1.wav": "a dog"})
    assert texts.texts == ["rain", "a dog"] and texts.labels is None
    nothing = said(tmp_path / "nothing", {"0.wav": "sample 0", "1.wav": "sample 1"})
    assert nothing.texts is None and nothing.labels is None


@pytest.mark.parametrize(
    ("titles", "message"),
    [
        ("{", r"conditions\.json is damaged"),
        ([1], r"does not say what 2 of 2 files are, such as 0\.wav"),
        ({"0.wav": "rain"}, r"does not say what 1 of 2 files are, such as 1\.wav"),
        ({"0.wav": "rain", "1.wav": 3}, r"does not say what 1 of 2 files are, such as 1\.wav"),
    ],
)
def test_damaged_conditions_are_refused(tmp_path, titles, message):
    with pytest.raises(ValueError, match=message):
        said(tmp_path / "clips", titles)


def test_generated_clips_are_what_a_reader_of_their_files_would_find(tmp_path):
    """Louder ones than full scale too."""
    media = (
        1.2
        * torch.from_numpy(music(0.2, 16_000, 2)[None]).repeat(3, 1, 1)
        * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    )
    chunks = Chunks(tmp_path, {}, torch.tensor([4, 5, 6]), 3, PcmSamples())
    chunks.begin()
    chunks._write(0, PcmSamples().store(media))
    clips = ChunkSounds(chunks, "run", 16_000, ["a", "b", "c"], labelled=True)
    assert clips.labels.tolist() == [4, 5, 6] and clips.texts == ["a", "b", "c"]
    for number, kept in enumerate(clips.rows(0, 3)):
        assert kept.same(read_all(write_wav(tmp_path / f"{number}.wav", media[number], 16_000)))

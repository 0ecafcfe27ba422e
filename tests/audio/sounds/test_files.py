"""Parts of files against whole files, in every format, and files that are not what they say."""

import numpy as np
import pytest
import soundfile
import torch
from torch.testing import assert_close

from audio.sounds.files import AUDIO_SUFFIXES, AudioFacts, probe, read, read_all, read_window, to_channels
from audio.sounds.resampling import resample
from audio.sounds.sound import Sound
from tests.audio.audio_files import (
    CODECS,
    EXACT_AAC,
    RATE,
    music,
    write_mp3,
    write_silent_video,
    write_sound,
)

SECONDS = 14.0
STARTS = (0, 1, 1151, 100_003, 500_000)


def rate_of(suffix):
    """Opus knows 48 kHz."""
    return 48000 if suffix in (".opus", ".webm") else RATE


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """One file in each format, of the same sound."""
    folder, paths = tmp_path_factory.mktemp("sounds"), {}
    for suffix in AUDIO_SUFFIXES:
        options = {"encoder": EXACT_AAC} if CODECS.get(suffix) == "aac" else {}
        rate = rate_of(suffix)
        paths[suffix] = write_sound(folder / f"sound{suffix}", music(SECONDS, rate), rate, **options)
    return paths


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_probe_tells_length_rate_and_channels(sounds, suffix):
    facts = probe(sounds[suffix])
    assert (facts.sample_rate, facts.channels) == (rate_of(suffix), 2)
    slack = 3 * 1024 if suffix in CODECS else 0  # what an encoder of frames adds at the ends
    assert abs(facts.frames - SECONDS * rate_of(suffix)) <= slack
    assert read_all(sounds[suffix]).samples.shape == (2, facts.frames)


@pytest.mark.parametrize("suffix", [suffix for suffix in AUDIO_SUFFIXES if suffix not in (".mka", ".webm")])
def test_a_part_is_that_of_the_whole(sounds, suffix):
    """Also near the end, where libsndfile alone enters a Vorbis stream at a wrong sample."""
    whole = read_all(sounds[suffix]).samples
    frames = whole.shape[1]
    for start in (*STARTS, frames - 30_000, frames - 700, frames - 1):
        wanted = whole[:, start : start + 20_000]
        part = read(sounds[suffix], start, wanted.shape[1])
        assert part.sample_rate == rate_of(suffix)
        assert_close(part.samples, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("suffix", [".mka", ".webm"])
def test_a_part_of_matroska_is_shifted_by_two_milliseconds_at_most(sounds, suffix):
    whole, slack = read_all(sounds[suffix]).samples, int(0.002 * rate_of(suffix)) + 1
    for start in (0, 100_003, 500_000):
        part = read(sounds[suffix], start, 20_000).samples
        shifts = range(-min(slack, start), slack + 1)
        errors = [float((part - whole[:, start + k : start + k + 20_000]).abs().max()) for k in shifts]
        assert min(errors) < 1e-6


@pytest.mark.parametrize("xing", [True, False])
@pytest.mark.parametrize("variable", [True, False])
def test_mp3_with_and_without_a_length(tmp_path, xing, variable):
    """Pure tones after noise take few bits: a bad guess of the length, and frames that lean on many before them."""
    seconds = 24
    t = np.arange(seconds * RATE) / RATE
    tones = 0.3 * np.sin(2 * np.pi * np.array([[220], [330]]) * t)
    sound = np.where(t < seconds / 3, music(seconds), tones).astype(np.float32)
    path = write_mp3(tmp_path / "a.mp3", sound, xing=xing, variable=variable)
    facts, whole = probe(path), read_all(path).samples
    assert 0 <= facts.frames - sound.shape[1] <= (0 if xing else 3 * 1152)
    for start in (*STARTS, 700_000, 900_000, facts.frames - 5000):
        wanted = whole[:, start : start + 20_000]
        assert_close(read(path, start, wanted.shape[1]).samples, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("rate", "mode"), [(24_000, "VARIABLE"), (16_000, "CONSTANT"), (48_000, "CONSTANT")])
def test_a_part_of_an_mp3_of_the_lowest_rate_of_bits(tmp_path, rate, mode):
    """A frame of the quiet stretch has a few bytes of its own, and takes bits from many frames before it."""
    noise = torch.randn(2, 10 * rate, generator=torch.Generator().manual_seed(0)).cumsum(1)
    sound = (0.5 * noise / noise.abs().max()).numpy()
    sound[:, 3 * rate : 7 * rate] *= 0.001
    path = tmp_path / "low.mp3"
    options = {"format": "MP3", "compression_level": 0.99, "bitrate_mode": mode}
    soundfile.write(path, sound.T, rate, subtype="MPEG_LAYER_III", **options)
    whole = read_all(path).samples
    for start in (int(5.3 * rate), int(7.05 * rate), int(9 * rate)):
        assert_close(read(path, start, 4000).samples, whole[:, start : start + 4000], atol=4e-6, rtol=0)


def test_wav_and_flac_keep_every_sample(tmp_path):
    sound = music(0.5)
    for name, options in (("a.wav", {"subtype": "FLOAT"}), ("b.flac", {"subtype": "PCM_24"})):
        whole = read_all(write_sound(tmp_path / name, sound, **options))
        assert_close(whole.samples, torch.from_numpy(sound), atol=2**-23, rtol=0)


# files that are not what they say


def assert_refused(path, reason, reading=probe):
    """A ValueError that names the file, once, and the reason."""
    with pytest.raises(ValueError, match=reason) as error:
        reading(path)
    assert str(error.value).count(str(path)) == 1


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_text_and_empty_files_are_refused(tmp_path, suffix):
    text, empty = tmp_path / f"text{suffix}", tmp_path / f"empty{suffix}"
    text.write_text("this is no sound\n" * 200)
    empty.touch()
    assert_refused(text, "cannot decode|no audio stream|no samples")
    assert_refused(empty, "0 bytes")
    assert_refused(empty, "0 bytes", lambda path: read(path, 0, 10))


def test_a_file_without_samples_is_refused(tmp_path):
    assert_refused(write_sound(tmp_path / "a.wav", np.zeros((2, 0), np.float32)), "holds no samples")


def test_a_video_without_sound_is_refused(tmp_path):
    assert_refused(write_silent_video(tmp_path / "mute.mp4"), "no audio stream")


def test_another_suffix_is_refused(tmp_path):
    path = tmp_path / "a.aiff"
    path.write_bytes(b"FORM")
    assert_refused(path, r"suffix is '.aiff'; allowed: .flac")


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
        probe(tmp_path / "gone.wav")


@pytest.mark.parametrize("suffix", [".mp3", ".flac", ".m4a", ".aac"])
def test_a_truncated_file_is_found_at_the_latest_when_its_end_is_read(sounds, tmp_path, suffix):
    data = sounds[suffix].read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: len(data) // 2])
    facts = probe(sounds[suffix])
    assert_refused(path, "truncated|cannot decode", lambda path: read(path, facts.frames - 1000, 1000))
    assert_refused(path, "truncated|cannot decode", lambda path: read(path, 0, facts.frames))


def test_an_mp3_of_one_torn_frame_is_refused(sounds, tmp_path):
    path = tmp_path / "torn.mp3"
    path.write_bytes(sounds[".mp3"].read_bytes()[:300])
    assert_refused(path, "cannot decode", read_all)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused_by_their_place(tmp_path, bad):
    sound = music(0.2)
    sound[1, 3000] = bad
    path = write_sound(tmp_path / "a.wav", sound, subtype="FLOAT")
    assert read(path, 0, 3000).samples.shape == (2, 3000)
    assert_refused(path, "sample 3000 is not a finite number", lambda path: read(path, 2000, 2000))


def test_more_than_the_file_holds_is_refused(sounds):
    facts = probe(sounds[".wav"])
    assert_refused(sounds[".wav"], "ends before", lambda path: read(path, facts.frames - 10, 11))
    with pytest.raises(ValueError, match="from sample -1"):
        read(sounds[".wav"], -1, 5)


# channels


def sound_of(*rows):
    """A sound of the given channels."""
    return Sound(torch.tensor(rows), 8000)


def test_channels_mono_stereo():
    assert to_channels(sound_of([0.5, -1.0]), 2).samples.tolist() == [[0.5, -1.0]] * 2
    assert to_channels(sound_of([1.0, 0.0], [0.5, -1.0]), 1).samples.tolist() == [[0.75, -0.5]]
    assert to_channels(sound_of([1.0], [0.5]), 2).samples.tolist() == [[1.0], [0.5]]


def test_surround_follows_bs_775_and_cannot_clip():
    gain = 1 / (1 + 2**0.5)
    for channel, expected in enumerate([(1, 0), (0, 1), (0.5**0.5, 0.5**0.5), (0, 0), (0.5**0.5, 0), (0, 0.5**0.5)]):
        sound = Sound(torch.eye(6)[channel][:, None], 8000)
        assert_close(to_channels(sound, 2).samples[:, 0], gain * torch.tensor(expected), rtol=1e-6, atol=0)
    assert float(to_channels(Sound(torch.ones(6, 1), 8000), 2).samples.max()) == pytest.approx(1)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".m4a"])
def test_surround_has_one_order_whatever_the_container(tmp_path, suffix):
    """Each channel has its own level; Ogg's own order would swap centre and right."""
    levels = np.array([0.1, 0.2, 0.3, 0.05, 0.5, 0.6], np.float32)
    wave = levels[:, None] * np.sin(2 * np.pi * 60 * np.arange(48000) / 48000, dtype=np.float32)
    if suffix in (".ogg", ".opus"):
        wave = wave[[0, 2, 1, 4, 5, 3]]  # soundfile writes what it is given; a player takes it in Ogg's order
    sound = read_all(write_sound(tmp_path / f"six{suffix}", wave, 48000))
    heard = sound.samples[:, 10_000:30_000].square().mean(1).mul(2).sqrt().numpy()
    assert np.argsort(heard).tolist() == np.argsort(levels).tolist(), heard  # lossy ones change the levels a little


@pytest.mark.parametrize(("found", "wanted"), [(3, 2), (8, 1), (2, 6)])
def test_other_numbers_of_channels_are_refused(found, wanted):
    with pytest.raises(ValueError, match=f"{found} channels into {wanted}; allowed: 1, 2 or 6"):
        to_channels(Sound(torch.zeros(found, 4), 8000), wanted)


# windows


@pytest.mark.parametrize(("old", "new"), [(8000, 44100), (48000, 44100), (44100, 16000), (44100, 44100)])
def test_a_window_is_that_of_the_whole_resampled_file(tmp_path, old, new):
    """The margin reaches as far as the filter, at both ends of the file and inside; a smaller one would show."""
    path = write_sound(tmp_path / "a.wav", music(4, old), old)
    facts = probe(path)
    whole = resample(read_all(path), new).samples
    total = facts.frames_at(new)
    assert total == whole.shape[1]
    for first, last in ((0, 5000), (1, 5001), (total // 2 + 3, total // 2 + 9003), (total - 5001, total), (0, total)):
        window = read_window(path, facts, (first, last), new, 2)
        assert_close(window, whole[:, first:last], atol=1e-5, rtol=0)
    assert read_window(path, facts, (total - 10, total + 500), new, 1).shape == (1, 10)


def test_the_margin_is_not_larger_than_needed_by_much(tmp_path, monkeypatch):
    """A window of a long file reads that window, not the file."""
    path = write_sound(tmp_path / "a.wav", music(20, 48000, 1), 48000)
    facts, asked = probe(path), []
    seek_and_read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, n, **how: asked.append(n) or seek_and_read(self, n, **how)
    )
    read_window(path, facts, (400_000, 444_100), 44100, 2)
    assert len(asked) == 1
    assert 48000 < asked[0] < 48000 + 1000


def test_8_khz_mono_into_44_khz_stereo(tmp_path):
    path = write_sound(tmp_path / "a.wav", music(2, 8000, 1), 8000)
    window = read_window(path, probe(path), (10_000, 54_100), 44100, 2)
    assert window.shape == (2, 44_100)
    assert torch.equal(window[0], window[1])
    spectrum = torch.fft.rfft(window[0].double() * torch.hann_window(44_100)).abs()
    assert spectrum[4200:].max() < 1e-3 * spectrum.max()  # nothing above the old Nyquist frequency


def test_a_window_error_names_the_file_once(tmp_path):
    path = write_sound(tmp_path / "three.wav", np.zeros((3, 100), np.float32))
    assert_refused(path, "3 channels into 2", lambda path: read_window(path, probe(path), (0, 50), RATE, 2))
    path = write_sound(tmp_path / "changed.wav", np.zeros((1, 100), np.float32))
    facts = AudioFacts(100, RATE, 2)
    assert_refused(path, "it has changed", lambda path: read_window(path, facts, (0, 50), RATE, 2))

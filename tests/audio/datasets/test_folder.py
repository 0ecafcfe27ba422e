"""Folders of audio: windows, padding, silence, loudness; and the bad inputs of each."""

import logging
import pickle

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from audio.datasets.folder import FolderConfig
from audio.sounds.files import read_all
from audio.sounds.loudness import PEAK, lufs, rms_db, to_loudness
from audio.sounds.sound import ClipFormat
from core.data.stream import StepPositions, collate, step_batches
from core.draws import numpy_rng
from core.schema import plain, strict
from tests.audio.audio_files import music, write_sound
from tests.audio.datasets.folders import CLIP, RATE, TOKEN, L, folder, item, write

# windows


def test_random_windows_are_parts_of_the_file_and_depend_on_the_generator_alone(tmp_path):
    whole = read_all(write(tmp_path, "a.wav", 2)).samples
    data = folder(tmp_path)
    starts = set()
    for seed in range(20):
        media = item(data, 0, seed)["media"]
        assert torch.equal(media, item(folder(tmp_path), 0, seed)["media"])
        places = torch.nonzero(whole[0] == media[0, 0]).flatten().tolist()
        assert len(places) == 1
        assert torch.equal(media, whole[:, places[0] : places[0] + L])
        starts |= set(places)
    assert len(starts) == 20
    assert media.dtype == torch.float32
    assert data.media_shape == (2, L)
    assert "mask" not in item(data, 0)


def test_random_windows_reach_both_ends_of_the_file(tmp_path):
    whole = read_all(write(tmp_path, "a.wav", (L + 1) / RATE)).samples
    data = folder(tmp_path)
    firsts = {item(data, 0, seed)["media"][0, 0].item() for seed in range(20)}
    assert firsts == {whole[0, 0].item(), whole[0, 1].item()}


def test_tiled_windows_cover_each_file(tmp_path):
    """All but the padding of the last window is the file, sample by sample; a short tail is left out if asked for."""
    lengths = {"a.wav": 3 * L, "b.wav": 2 * L + 1, "c.wav": L - 1, "d.wav": 2 * L + 900}
    for seed, (name, length) in enumerate(lengths.items()):
        write(tmp_path, name, length / RATE, seed)
    data = folder(tmp_path, window="tiled", min_seconds=0)
    assert len(data) == 3 + 3 + 1 + 3
    covered = dict.fromkeys(lengths, torch.zeros(2, 0))
    for index in range(len(data)):
        one = item(data, index, seed=index)
        assert torch.equal(one["media"], data.clip_at(index))
        name = data.name(index).split("/")[-1].split(" ")[0]
        covered[name] = torch.cat([covered[name], one["media"]], dim=1)
    for name, length in lengths.items():
        assert torch.equal(covered[name][:, :length], read_all(tmp_path / name).samples)
        assert not covered[name][:, length:].any()
    assert data.lengths.tolist() == [8, 8, 8, 8, 8, 1, 8, 8, 8, 2]
    assert data.name(5).endswith("b.wav from 1.000 s")
    assert len(folder(tmp_path, window="tiled", min_seconds=0.1)) == 9  # 900 samples are 0.1125 s, 1 is less
    whole = folder(tmp_path, window="tiled", min_seconds=0.5)
    assert len(whole) == 7
    assert "mask" not in item(whole, 0)


def test_clip_at_is_the_middle_of_a_file(tmp_path):
    whole = read_all(write(tmp_path, "a.wav", 3 * L / RATE)).samples
    assert torch.equal(folder(tmp_path).clip_at(0), whole[:, L : 2 * L])


def test_8_khz_mono_into_44_khz_stereo(tmp_path):
    write(tmp_path, "a.wav", 2, channels=1)
    clip = ClipFormat.of(44100, 2, 0.5, 2048)
    media = item(folder(tmp_path, clip, sample_rate=44100), 0)["media"]
    assert media.shape == clip.shape == (2, 10 * 2048)
    assert torch.equal(media[0], media[1])
    assert -20 < rms_db(media) < -6


def test_items_survive_pickling_and_loader_workers(tmp_path):
    for seed in range(4):
        write(tmp_path, f"{seed}.wav", 2, seed)
    data = folder(tmp_path)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(item(copy, 3)["media"], item(data, 3)["media"])
    positions = StepPositions(0, 3, 2, (0, 2))
    here, there = ([batch.media for batch in step_batches(data, 7, positions, n, pin=False)] for n in (0, 1))
    assert torch.equal(torch.stack(here), torch.stack(there))


# padding


@pytest.mark.parametrize(("samples", "tokens"), [(TOKEN, 1), (TOKEN + 1, 2), (2 * TOKEN, 2), (L - TOKEN, 7)])
def test_a_token_with_one_real_sample_is_real_and_padding_is_zero(tmp_path, samples, tokens):
    whole = read_all(write(tmp_path, "a.wav", samples / RATE)).samples
    data = folder(tmp_path, min_seconds=0.05)
    one = item(data, 0)
    assert one["mask"].tolist() == [token < tokens for token in range(CLIP.num_tokens)]
    assert data.lengths.tolist() == [tokens]
    assert torch.equal(one["media"][:, :samples], whole)
    assert torch.equal(one["media"][:, samples:], torch.zeros(2, L - samples))


def test_there_is_no_mask_where_every_token_holds_a_real_sample(tmp_path):
    write(tmp_path, "a.wav", (L - TOKEN + 1) / RATE)
    one = item(folder(tmp_path), 0)
    assert "mask" not in one
    assert not one["media"][:, L - TOKEN + 1 :].any()


def test_masks_are_given_for_all_items_or_none(tmp_path):
    write(tmp_path, "a.wav", 0.3)
    write(tmp_path, "b.wav", 2)
    data = folder(tmp_path)
    batch = collate([{**item(data, index), "index": index} for index in range(2)])
    assert batch.mask.sum(1).tolist() == [5, 8]
    assert "mask" not in item(folder(tmp_path, min_seconds=0.5), 0)


def test_padded_tokens_are_counted_at_the_clips_rate(tmp_path):
    """1000 samples at 4 kHz are 2000 at 8 kHz."""
    write_sound(tmp_path / "a.wav", music(0.25, RATE // 2), RATE // 2)
    data = folder(tmp_path)
    assert data.lengths.tolist() == [4]
    assert not item(data, 0)["media"][:, 2000:].any()


def test_a_clip_longer_than_every_file_is_padded_with_one_warning(tmp_path, caplog):
    for seed in range(3):
        write(tmp_path, f"{seed}.wav", 0.2, seed)
    with caplog.at_level(logging.WARNING):
        data = folder(tmp_path)
    assert len(data) == 3
    assert caplog.text.count("every file is shorter than a clip of data.seconds=0.5") == 1


def test_short_files_are_left_out_and_counted(tmp_path, caplog):
    write(tmp_path, "short.wav", 0.2)
    write(tmp_path, "long.wav", 1.0)
    with caplog.at_level(logging.WARNING):
        data = folder(tmp_path, min_seconds=0.21)
    assert [data.name(index) for index in range(len(data))] == [str(tmp_path / "long.wav")]
    assert data.num_short == 1
    assert "1 of 2 files are left out: shorter than data.min_seconds=0.21" in caplog.text
    with pytest.raises(ValueError, match=r"no file is left; data.min_seconds is 3, the longest file lasts 1 s"):
        folder(tmp_path, min_seconds=3)


# silence


def write_with_gap(root, noise):
    """Ten seconds of `noise` times music, but for a loud second near the end."""
    samples = noise * music(10, RATE)
    samples[:, 8 * RATE : 9 * RATE] = music(1, RATE)
    return write_sound(root / "a.wav", samples, RATE, subtype="FLOAT")


def test_a_silent_window_is_drawn_again_and_the_loudest_of_five_is_taken(tmp_path):
    """Against the rule written out: the same generator, the same five draws."""
    whole = read_all(write_with_gap(tmp_path, 1e-6)).samples
    data, plainly = folder(tmp_path), folder(tmp_path, silence_db=None)
    changed = 0
    for seed in range(30):
        rng = numpy_rng(seed, "augment", 0)
        levels, windows = [], []
        for _ in range(5):
            start = int(rng.integers(whole.shape[1] - L + 1))
            windows.append(whole[:, start : start + L])
            levels.append(rms_db(windows[-1]))
            if levels[-1] >= -60:
                break
        media = item(data, 0, seed)["media"]
        assert torch.equal(media, windows[int(np.argmax(levels))])
        assert torch.equal(media, item(data, 0, seed)["media"])
        assert torch.equal(item(plainly, 0, seed)["media"], windows[0])
        changed += len(windows) > 1 and levels[-1] >= -60
    assert changed > 5


def test_digital_silence_everywhere_is_given_as_it_is(tmp_path):
    write_sound(tmp_path / "a.wav", np.zeros((2, RATE), np.float32), RATE)
    assert not item(folder(tmp_path, loudness=-20.0), 0)["media"].any()


# loudness


def test_loudness_of_a_tone_follows_bs_1770():
    """A tone of 997 Hz at full scale: -3.01 LUFS on one channel, 0 on both, by the standard."""
    t = torch.arange(3 * 48000, dtype=torch.float64) / 48000
    tone = torch.sin(2 * torch.pi * 997 * t)
    for scale in (1.0, 0.1, 0.01):
        assert lufs((scale * tone).expand(2, -1), 48000) == pytest.approx(20 * np.log10(scale), abs=0.1)
        assert lufs((scale * tone)[None], 48000) == pytest.approx(20 * np.log10(scale) - 3.01, abs=0.1)


def test_clips_are_brought_to_a_loudness_as_far_as_the_peak_allows(tmp_path):
    write_sound(tmp_path / "quiet.wav", 0.01 * music(2, RATE), RATE, subtype="FLOAT")
    media = item(folder(tmp_path, loudness=-23.0), 0)["media"]
    assert lufs(media, RATE) == pytest.approx(-23, abs=0.05)
    spiky = torch.from_numpy(0.01 * music(2, RATE))
    spiky[0, 100] = 0.5
    loud = to_loudness(spiky, RATE, -10.0)
    assert float(loud.abs().max()) == pytest.approx(PEAK)
    assert lufs(loud, RATE) < -10
    assert_close(loud / spiky, torch.full_like(loud, PEAK / 0.5))


def test_padding_stays_zero_under_a_gain(tmp_path):
    write(tmp_path, "a.wav", 0.3)
    one = item(folder(tmp_path, loudness=-14.0), 0)
    assert not one["media"][:, round(0.3 * RATE) :].any()


# bad input


def test_no_audio_found_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"data.root is .*: no audio file there"):
        folder(tmp_path)
    with pytest.raises(ValueError, match=r"data.root is .*gone', which is not there"):
        folder(tmp_path / "gone")


def test_broken_files_are_an_error_or_are_left_out(tmp_path):
    write(tmp_path, "a.wav", 1)
    (tmp_path / "text.mp3").write_text("no sound")
    with pytest.raises(ValueError, match=r"broken audio files: 1, data.max_broken is 0.*text\.mp3"):
        folder(tmp_path)
    data = folder(tmp_path, max_broken=1)
    assert (len(data), data.num_broken) == (1, 1)


def test_damage_in_the_middle_is_named_when_it_is_read(tmp_path):
    path = write_sound(tmp_path / "a.flac", music(4, RATE), RATE)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    tiled = folder(tmp_path, window="tiled")
    assert item(tiled, 0)["media"].any()
    with pytest.raises(ValueError, match=r"audio file .*a\.flac"):
        [item(tiled, index) for index in range(len(tiled))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": ""}, "data.root is ''"),
        ({"seconds": 0}, "data.seconds is 0; allowed: above 0"),
        ({"sample_rate": 0}, "data.sample_rate is 0"),
        ({"channels": 6}, r"data.channels is 6; allowed: \[1, 2\]"),
        ({"window": "all"}, r"data.window is 'all'; allowed: \['random', 'tiled'\]"),
        ({"split": "test"}, r"data.split is 'test'; allowed: \['train', 'heldout', 'all'\]"),
        ({"min_seconds": -1}, "data.min_seconds is -1"),
        ({"silence_db": 3}, "data.silence_db is 3; allowed: below 0 dB"),
        ({"loudness": 1}, "data.loudness is 1; allowed: -70 to below 0 LUFS"),
        ({"loudness": -20, "seconds": 0.3}, "data.loudness is -20, data.seconds 0.3; needed: 0.4 s"),
        ({"heldout_share": 1}, "data.heldout_share is 1"),
        ({"max_broken": -1}, "data.max_broken is -1"),
        ({"classes": "files"}, r"data.classes is 'files'; allowed: \['none', 'folders'\]"),
        ({"captions": "c.txt"}, "data.captions is 'c.txt'; allowed: 'txt', a file .csv or .jsonl, null"),
    ],
)
def test_config_errors_name_the_key(options, message):
    with pytest.raises(ValueError, match=message):
        FolderConfig(**{"root": "x", **options})


def test_the_config_survives_the_schema():
    config = FolderConfig(root="x", loudness=-20.0, classes="folders")
    assert strict(FolderConfig, plain(config)) == config

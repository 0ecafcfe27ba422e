"""The picture and the sounds of a preview: which samples, under which names, in which bytes."""

import io

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from audio.preview import MAX_SOUNDS, RANGE_DB, AudioPreview, draw, log_mel
from audio.sounds.pcm import to_int16, write_wav
from core.storage.run_folder import RunDirectory
from eval.pages.page import last_previews

RATE = 16000
STEP = "step_00001500"


def sines(count, channels=2, length=4096):
    """Media (count, C, L): sample i at 200 (i + 1) Hz, the second channel half as loud."""
    time = torch.arange(length) / RATE
    waves = torch.sin(2 * torch.pi * 200 * (torch.arange(count)[:, None] + 1) * time)
    return 0.5 * waves[:, None] * torch.tensor([1.0, 0.5])[:channels, None]


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_picture_and_one_sound_a_class(tmp_path):
    media, labels = sines(6), torch.tensor([1, 0, 2, 1, 0, 2])
    file = AudioPreview(["piano", "Hi-hat / open", "bell"], RATE).save(media, labels, tmp_path / STEP)
    assert file == tmp_path / f"{STEP}.png"
    sounds = [f"{STEP}_00_hi-hat-open.wav", f"{STEP}_01_piano.wav", f"{STEP}_02_bell.wav"]
    assert names(tmp_path) == sorted([file.name, *sounds])
    for row, name in enumerate(sounds):
        info = soundfile.info(tmp_path / name)
        assert (info.format, info.subtype, info.samplerate, info.channels, info.frames) == (
            "WAV",
            "PCM_16",
            RATE,
            2,
            4096,
        )
        written, _ = soundfile.read(tmp_path / name, dtype="int16")
        assert np.array_equal(written.T, to_int16(media[row]))
    with Image.open(file) as picture:
        picture.load()
        assert picture.format == "PNG" and min(picture.size) > 200 and np.asarray(picture.convert("L")).std() > 10


def test_a_report_finds_the_newest_picture_and_its_sounds(tmp_path):
    run = RunDirectory(tmp_path)
    run.previews.mkdir()
    preview = AudioPreview(["piano", "bell"], RATE)
    for step in ("step_00000500", STEP):
        preview.save(sines(2), torch.tensor([0, 1]), run.previews / step)
    assert [f.name for f in last_previews(run)] == [f"{STEP}.png", f"{STEP}_00_piano.wav", f"{STEP}_01_bell.wav"]


def test_many_classes_give_few_files(tmp_path):
    labels = torch.arange(40)
    AudioPreview([f"class {k}" for k in range(40)], RATE).save(sines(40, 1, 1024), labels, tmp_path / STEP)
    sounds = [name for name in names(tmp_path) if name.endswith(".wav")]
    assert len(sounds) == MAX_SOUNDS and sounds[-1] == f"{STEP}_11_class-11.wav"


def test_titles_of_every_kind_of_condition():
    preview = AudioPreview(["piano", "bell"], RATE, tag_names=["loud", "slow", "old"])
    assert preview.titles(torch.tensor([1, 0, 2]), 3) == ["bell", "piano", "no class"]
    tags = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert preview.titles(tags, 3) == preview.titles(tags.float(), 3) == ["loud, old", "no tag", "slow"]
    numbers = ["sample 0", "sample 1", "sample 2"]
    assert preview.titles(torch.full((3, 3), 0.5), 3) == numbers  # an embedding, as wide as there are tags
    assert preview.titles(torch.ones(3, 5), 3) == preview.titles(None, 3) == numbers


@pytest.mark.parametrize("condition", [None, torch.randn(3, 8, generator=torch.Generator().manual_seed(0))])
def test_samples_without_names_are_saved(tmp_path, condition):
    AudioPreview([], RATE).save(sines(3, 1), condition, tmp_path / STEP)
    assert names(tmp_path) == [f"{STEP}.png", *(f"{STEP}_{k:02d}_sample-{k}.wav" for k in range(3))]


def test_panels_show_their_sample():
    """Waveform over seconds, the tone's band brightest, one colour scale, the title of the class."""
    media = sines(3).numpy()
    media[1] *= 0.1
    figure = draw(media, ["low", "middle", "high"], RATE)
    panels = figure.axes[:6]
    assert [axis.get_title() for axis in panels] == ["low", "middle", "high", "", "", ""]
    assert all(axis.get_xlim() == pytest.approx((0, 4096 / RATE)) for axis in panels)
    assert len({axis.get_ylim() for axis in panels[:3]}) == 1
    images = [axis.images[0] for axis in panels[3:]]
    assert {image.get_clim() for image in images} == {(-RANGE_DB, 0)}
    levels = [float(image.get_array().max()) for image in images]
    assert max(levels) == 0 and levels[1] == pytest.approx(-20, abs=2)  # a tenth in amplitude
    bands = [int(image.get_array().mean(1).argmax()) for image in images]
    assert bands == sorted(set(bands))


def test_log_mel_is_power_averaged_over_channels():
    one = log_mel(sines(1, 1).numpy(), RATE)
    opposite = np.concatenate([sines(1, 1).numpy(), -sines(1, 1).numpy()], axis=1)
    assert one.shape == (1, 64, 17)
    assert log_mel(opposite, RATE) == pytest.approx(one, abs=1e-3)


@pytest.mark.parametrize(("count", "length"), [(1, 40), (7, 700), (20, 60 * 400)])
@pytest.mark.filterwarnings("error")
def test_any_number_and_length_of_clips_without_a_warning(tmp_path, count, length):
    media = sines(count, 1, length)
    with Image.open(AudioPreview([], RATE).save(media, None, tmp_path / STEP)) as picture:
        picture.load()


@pytest.mark.filterwarnings("error")
def test_silence_and_broken_samples_can_be_looked_at(tmp_path):
    media = torch.zeros(3, 1, 2000)
    media[1] = 7.0
    media[2] = torch.inf
    AudioPreview([], RATE).save(media, None, tmp_path / STEP)
    assert len(names(tmp_path)) == 4
    quiet = draw(np.zeros((1, 1, 2000), np.float32), ["silence"], RATE)
    assert float(quiet.axes[1].images[0].get_array().max()) == pytest.approx(
        -RANGE_DB
    )  # dark, not at the top of the scale


def test_one_rule_from_floats_to_pcm():
    values = torch.tensor([0.0, 1.0, -1.0, 0.5, 1.2, -1.2, 0.6 / 32767, -0.4 / 32767, 1e9])
    assert to_int16(values).tolist() == [0, 32767, -32767, 16384, 32767, -32768, 1, 0, 32767]
    assert to_int16(values).dtype == torch.int16
    assert to_int16(values.double()).tolist() == to_int16(values).tolist()


def test_written_samples_come_back(tmp_path):
    samples = sines(1)[0]
    file = write_wav(tmp_path / "deep" / "a.wav", samples, 44100)
    read, rate = soundfile.read(io.BytesIO(file.read_bytes()), dtype="float32")
    assert rate == 44100 and read.shape == (4096, 2)
    assert torch.from_numpy(read.T) * 32768 / 32767 == pytest.approx(samples, abs=0.51 / 32767)
    assert names(file.parent) == ["a.wav"]

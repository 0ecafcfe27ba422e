"""`python -m video.train_tokenizer`: what a training leaves, what it says, and what it refuses."""

import json
import shlex

import pytest
import torch
from PIL import Image

from tests.rows import every_row
from tests.video.video_files import numbered_frames, write_video
from video.codecs.autoencoder import load_autoencoder
from video.codecs.fidelity import psnr_db
from video.tokenizer import Conv3dKLConfig
from video.train import ENTRY as TRAIN
from video.train_tokenizer import ENTRY, VideoFitting, shrunk, still

TINY = ["data.num_clips=160", "data.clip.frames=5", "heldout_clips=6", "autoencoder.width=4", "device=cpu"]


def train(place, *words):
    return ENTRY.main(ENTRY.config([*TINY, "batch_size=4", f"runs_dir={place}", *words]))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return train(tmp_path_factory.mktemp("own"), "steps=40", "autoencoder.frame_stride=2", "lr=0.01")


def test_a_training_leaves_weights_numbers_and_pictures(own):
    assert {file.name for file in own.iterdir()} == VideoFitting.files()
    metrics = json.loads((own / "metrics.json").read_text())
    assert set(metrics["conv3d_kl"]) == {"psnr_db", "ssim"} and metrics["heldout_clips"] == 6
    assert metrics["conv3d_kl"]["psnr_db"] > 8  # black clips have about 9, random weights 3
    assert (metrics["media_numbers"], metrics["latent_numbers"]) == (5 * 12 * 12, 8 * 3 * 6 * 6)
    with Image.open(own / "reconstructions.png") as sheet:
        columns, rows = sheet.size[0] // 48, sheet.size[1] // 48
    assert columns >= 5 and rows >= 12  # frames across, with titles; six clips, each before and after


def test_its_latents_are_normalised_by_what_was_measured(own):
    _, saved = load_autoencoder(own)
    tokenizer = Conv3dKLConfig(path=str(own), posterior="mean").build("cpu")
    constants = tokenizer.constants()
    assert constants["shift"] == saved.latent_mean and constants["frame_stride"] == 2
    assert constants["scale"] == [1 / std for std in saved.latent_std]


def test_the_command_that_it_prints_uses_it(own, capsys):
    train(own.parents[1], "steps=1", "autoencoder.frame_stride=2", "name=other")
    told = capsys.readouterr().out
    assert "6 held-out clips, encoded and decoded (0.8 numbers become one)" in told and "shrunk" in told
    words = told.split("python -m video.train ")[1].splitlines()[0]
    config = TRAIN.config(shlex.split(words))
    assert config.data.clip.frames == 5 and config.tokenizer.path.endswith("other")


def test_a_trained_tokenizer_is_not_overwritten(own):
    with pytest.raises(ValueError, match="holds a trained tokenizer and is left as it is: overwrite=true"):
        train(own.parents[1], "steps=1")


def test_it_trains_on_files(tmp_path):
    for number in range(6):
        write_video(tmp_path / "films" / f"{number}.mp4", numbered_frames(6, (16, 16), first=10 * number))
    words = ["data=folder", f"data.root={tmp_path / 'films'}", "data.clip.frames=5", "data.size=16", "name=files"]
    common = ["heldout_clips=6", "autoencoder.width=4", "device=cpu", "batch_size=2", "steps=1", "data.cache_dir=null"]
    made = ENTRY.main(ENTRY.config([*words, *common, f"runs_dir={tmp_path}"]))
    assert json.loads((made / "metrics.json").read_text())["train_clips"] == 5
    assert Conv3dKLConfig(path=str(made)).build("cpu").latent_shape((3, 5, 16, 16)) == (8, 2, 8, 8)


@every_row(
    ("changes", "words"),
    [
        (["data.clip.frames=16"], r"data.clip.frames is 16; .* \(4n\+1\), so 13 or 17"),
        (["data.size=17"], r"clips \(data.size\) of 17x17 pixels; .* multiples of 2"),
        (["heldout_clips=1"], "heldout_clips is 1; allowed: 6 or more"),
        (["autoencoder.frame_stride=3"], "autoencoder.frame_stride is 3; allowed: a power of two"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        train(tmp_path, *changes)
    assert not list(tmp_path.iterdir())


def test_baselines_are_what_they_say():
    media = torch.rand(2, 1, 5, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    constant = torch.full_like(media, 0.25)
    torch.testing.assert_close(shrunk((2, 2, 2), constant), constant)
    assert psnr_db(media, shrunk((5, 8, 8), media)).min() > 100  # nothing is lost at full size
    assert torch.equal(still(media)[:, :, 3], media[:, :, 0])

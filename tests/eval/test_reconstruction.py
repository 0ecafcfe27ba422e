"""What a tokenizer loses, by the run's own evaluation: nothing in pixels, much in an untrained autoencoder."""

import contextlib
import json

import pytest
import torch

import image.train
from eval.reconstruction import ENTRY
from image.codecs.autoencoder import AutoencoderConfig, ConvKL, save_autoencoder
from tests.eval.test_probe import TINY

MEASURED = ("evaluation=digits", "evaluation.classifier_steps=30", "evaluation.num_samples=40")


def trained(place, name, *words):
    """A tiny run on digits in `place`, of that name."""
    usual = [word for word in TINY if not word.startswith(("evaluation", "trainer.steps"))]
    with contextlib.chdir(place):
        image.train.ENTRY.run([*usual, "trainer.steps=1", f"name={name}", *words])
    return place / "runs" / "image" / name


def found(place, run, *words):
    """The results of the command."""
    with contextlib.chdir(place):
        ENTRY.run([f"run={run}", "device=cpu", "overwrite=true", *words])
    return json.loads((run / "inside" / "reconstruction.json").read_text())["results"]


def test_pixels_lose_nothing_and_an_untrained_autoencoder_much(tmp_path, capsys):
    whole = found(tmp_path, trained(tmp_path, "pixels", *MEASURED), "num=40")
    assert whole["num"] == 40 and whole["data"] == whole["reconstruction"]

    torch.manual_seed(0)
    (tmp_path / "vae").mkdir()
    save_autoencoder(tmp_path / "vae", ConvKL(AutoencoderConfig(width=4), 1), latent_mean=0.0, latent_std=1.0)
    run = trained(tmp_path, "vae", *MEASURED, "tokenizer=conv_kl", "tokenizer.path=vae", "backbone.patch_size=1")
    capsys.readouterr()
    lossy = found(tmp_path, run)  # as many as the evaluation takes samples
    assert lossy["data"] == whole["data"] and lossy["num"] == 40
    assert lossy["reconstruction"]["frechet_distance"] > 2 * whole["data"]["frechet_distance"]
    assert lossy["reconstruction"]["class_accuracy"] < whole["data"]["class_accuracy"]
    assert "of 40 held-out pieces of data" in capsys.readouterr().out
    in_threes = found(tmp_path, run, "batch_size=3")["reconstruction"]  # noise is a function of seed and row
    assert in_threes == pytest.approx(lossy["reconstruction"], rel=1e-3)
    assert found(tmp_path, run, "num=1000")["num"] == 359  # all that are held out


def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path, capsys):
    run = trained(tmp_path, "unmeasured", "evaluation=none")
    for words, said in (
        (("num=40",), "whose evaluation holds no data out; needed: a stand-in's"),
        (("num=1",), "num is 1; it must be at least 2"),
        (("batch_size=0",), "batch_size is 0; it must be at least 1"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            ENTRY.run([f"run={run}", "device=cpu", *words])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and said in error and len(error.splitlines()) == 1
    assert not (run / "inside").exists()

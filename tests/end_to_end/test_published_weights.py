"""`python -m image.sample architecture=... checkpoint=...`: published weights sample without a run and without data."""

import argparse

import numpy as np
import pytest
import torch

from image import sample
from image.backbone import SiTConfig


def run_sample(command):
    """The entry, in this process."""
    sample.ENTRY.run(command)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with a small VAE in the real format."""
    from diffusers import AutoencoderKL

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=4, **blocks)
    vae.save_pretrained("vae")
    return tmp_path


def sampled(architecture, *changes):
    """Four samples of the classes 6 and 2 of `published.pt`, an experiment whose network is made small."""
    small = ["tokenizer.path=vae", "data.size=32", "backbone.size=null", "backbone.depth=3"]
    small += ["backbone.hidden_size=24", "backbone.num_heads=2"]
    command = [f"architecture={architecture}", "checkpoint=published.pt", "num=4", "labels=[6,2]"]
    command += ["sampler.num_steps=2", *(f"+overrides.{change}" for change in [*small, *changes]), "device=cpu"]
    run_sample(command)
    return np.load(f"samples/{architecture}/ema_label6-2_seed0/samples.npz")


def test_published_weights_sample_without_run_or_data(place):
    """A published checkpoint (model, ema, opt, args in one .pt), an experiment and a VAE are enough."""
    model = SiTConfig(depth=3, hidden_size=24, num_heads=2, learn_sigma=True).build((4, 4, 4), 7)
    args = argparse.Namespace(model="SiT", lr=1e-4)
    torch.save({"model": model.state_dict(), "ema": model.state_dict(), "opt": {}, "args": args}, "published.pt")
    archive = sampled("imagenet256_xl2")
    assert archive["arr_0"].shape == (4, 32, 32, 3)
    assert archive["arr_1"].tolist() == [6, 2, 6, 2]
    assert len(np.unique(archive["arr_0"][0])) > 1


def test_the_published_weights_of_self_flow_sample(place):
    """A bare state dict: a linear map of patches, a head beside the network, the null label in the table's last row."""
    model = SiTConfig(depth=3, hidden_size=24, num_heads=2, learn_sigma=True).build((4, 4, 4), 7)
    with torch.no_grad():
        torch.nn.init.normal_(model.final_layer.linear.weight, std=0.2)
    state = {**model.state_dict(), "projector.linear1.weight": torch.zeros(48, 24)}
    torch.save({**state, "x_embedder.proj.weight": model.x_embedder.proj.weight.detach().flatten(1)}, "published.pt")
    theirs = sampled("self_flow_imagenet256_xl2", "alignment.pairs=[[1,2]]")["arr_0"]
    torch.save(model.state_dict(), "published.pt")
    ours = sampled("imagenet256_xl2", "sampler.solver=euler_maruyama")["arr_0"]
    assert np.array_equal(theirs, ours) and len(np.unique(ours)) > 1


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], "give one of them"),
        (["run=a", "architecture=digits"], "give one of them"),
        (["architecture=digits"], "checkpoint is null"),
        (["run=a", "+overrides.seed=1"], "overrides"),
        (["architecture=digitss", "checkpoint=x"], "digitss"),
    ],
)
def test_what_to_sample_must_be_clear(command, words, capsys):
    """One line says which of run, architecture and checkpoint is missing or too many."""
    with pytest.raises(SystemExit) as stop:
        run_sample(command)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err

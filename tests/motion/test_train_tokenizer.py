"""`python -m motion.train_tokenizer`, and runs and caches on the latents of what it leaves."""

import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from core.latents.tokenizer import FromMoments
from motion.cache import ENTRY as CACHE
from motion.codecs.autoencoder import load_autoencoder
from motion.train import ENTRY as TRAIN
from motion.train import build_domain
from motion.train_tokenizer import ENTRY, MotionFitting
from tests.motion.motion_files import CAPTIONS, write_folder
from tests.rows import every_row

TINY = ["data.num_clips=140", "heldout_clips=4", "autoencoder.width=16", "autoencoder.latent_channels=4", "device=cpu"]
SHORT = ["data.num_clips=140", "data.frames=40", "data.representation=positions"]
CPU = torch.device("cpu")


def train(place, *words):
    return ENTRY.main(ENTRY.config(["batch_size=16", f"runs_dir={place}", *words]))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    words = ["autoencoder.blocks=1", "autoencoder.root_weight=1", "steps=80", "lr=0.01"]
    return train(tmp_path_factory.mktemp("own"), *TINY, *SHORT, *words)


def run_config(own, *words):
    tokenizer = ["tokenizer=conv_vae", f"tokenizer.path={own}", "backbone.patch_size=1"]
    small = ["backbone.depth=2", "backbone.hidden_size=16", "backbone.num_heads=2", "alignment=none", "evaluation=none"]
    place = [f"runs_dir={own.parents[1]}", "conditioning=none", "sampler.guidance_scale=1"]
    return TRAIN.config([*tokenizer, *small, *place, *words])


def test_a_training_leaves_weights_numbers_and_a_picture(own):
    assert {file.name for file in own.iterdir()} == MotionFitting.files()
    metrics = json.loads((own / "metrics.json").read_text())
    assert metrics["heldout_clips"] == 4 and metrics["numbers_a_frame"] == {"clips": 67, "latents": 1.0}
    names = {"joints_mm", "pose_mm", "number_error", "skate_ratio"}
    assert all(set(metrics[name]) == names for name in ("original", "conv_vae", "interpolated"))
    assert metrics["original"]["joints_mm"] == 0 and metrics["conv_vae"]["number_error"] < 0.7
    with Image.open(own / "reconstructions.png") as sheet:
        assert sheet.size[0] > 200


def test_its_latents_are_normalised_by_what_was_measured(own):
    _, saved = load_autoencoder(own)
    domain = build_domain(run_config(own, *SHORT), CPU, evaluate=False)
    constants = domain.tokenizer.constants()
    assert constants["shift"] == saved.latent_mean and constants["scale"] == [1 / std for std in saved.latent_std]
    item = domain.dataset.item(0, np.random.default_rng(0))
    assert domain.latent_shape == (4, 10) and item["mask"].shape == (10,)
    mean, _ = domain.tokenizer.moments(item["media"][None])
    assert (mean[0, :, ~item["mask"]] == torch.tensor(saved.latent_mean)[:, None]).all()


@pytest.fixture(scope="module")
def random(own):
    """The folder of a VAE with random weights, and what its training said."""
    words = ["steps=1", "lr=1e-6", "batch_size=16", "name=random", f"runs_dir={own.parents[1]}"]
    said = []
    return MotionFitting(ENTRY.config([*TINY, *SHORT, *words])).run(said.append), "\n".join(said)


def test_the_command_that_it_prints_uses_it(random):
    _, told = random
    assert "4 held-out clips, encoded and decoded (67 numbers a frame become 1;" in told and "interpolated" in told
    words = told.split("python -m motion.train ")[1].splitlines()[0]
    config = TRAIN.config(shlex.split(words))
    assert config.tokenizer.path.endswith("random") and config.backbone.patch_size == 1
    assert config.data.frames == 40 and config.data.representation == "positions"


def test_a_cache_of_it_has_all_captions(own, tmp_path, capsys):
    write_folder(tmp_path / "clips", [60, 28, 35], texts=[CAPTIONS, CAPTIONS[:1], CAPTIONS])
    folder = ["data=humanml3d", f"data.root={tmp_path / 'clips'}", "data.min_frames=20", "data.cache_dir=null"]
    vae = ["tokenizer=conv_vae", f"tokenizer.path={own}"]
    asked = ["conditioning=text", "tokenizer.allow_untrained=true", 'conditioning.prompts=["a"]']
    place = [f"out={tmp_path / 'latents'}", "device=cpu", "num_workers=0", f"runs_dir={tmp_path}"]
    CACHE.main(CACHE.config([*folder, *SHORT[1:], *vae, *asked, *place]))
    printed = capsys.readouterr().out.split("python -m motion.train ")[1].splitlines()[0]
    assert TRAIN.config(shlex.split(printed)).backbone.patch_size == 1
    asked.append("sampler.guidance_scale=1")
    latents = ["data=latents", f"data.root={tmp_path / 'latents'}", *SHORT[1:]]
    domain = build_domain(run_config(own, *latents, *asked), CPU, evaluate=False)
    data = domain.dataset
    clips = build_domain(run_config(own, *folder, *SHORT[1:], *asked), CPU, evaluate=False).dataset
    assert isinstance(domain.tokenizer, FromMoments) and len(clips.captions) == 5
    assert torch.equal(data.conditions, clips.conditions) and torch.equal(data.caption_rows, clips.caption_rows)
    for row, count in enumerate((2, 1, 2)):
        items = [data.item(row, np.random.default_rng(seed)) for seed in range(20)]
        drawn = {item["condition"].numpy().tobytes() for item in items}
        first, last = clips.caption_rows[row : row + 2].tolist()
        assert drawn == {each.numpy().tobytes() for each in clips.conditions[first:last]} and len(drawn) == count
    assert [int(data.item(row, np.random.default_rng(0))["mask"].sum()) for row in range(3)] == [10, 7, 8]
    data.conditions = torch.zeros(3, 4)  # as of an unconditional run
    assert data.item(0, np.random.default_rng(0))["condition"].shape == (4,)


def test_it_trains_on_a_folder(tmp_path):
    write_folder(tmp_path / "clips", [60] * 5)
    write_folder(tmp_path / "clips", [60] * 4, split="val", first=10)
    words = ["data=humanml3d", f"data.root={tmp_path / 'clips'}", "data.frames=40", "data.cache_dir=null", "name=own"]
    made = train(tmp_path, *TINY[1:], *words, "steps=2")
    assert json.loads((made / "metrics.json").read_text())["train_clips"] == 5


def test_one_made_for_other_clips_is_refused(own):
    with pytest.raises(ValueError, match=r"made for clips of skeleton and representation \('t2m', 'positions'\)"):
        build_domain(run_config(own, *SHORT[:2]), CPU, evaluate=False)


def test_random_weights_are_refused(random):
    random, _ = random
    with pytest.raises(ValueError, match=r"decoded clips explain .* of the variance of the numbers"):
        build_domain(run_config(random, *SHORT), CPU, evaluate=False)
    build_domain(run_config(random, *SHORT, "tokenizer.allow_untrained=true"), CPU, evaluate=False)


@every_row(
    ("words", "told"),
    [
        (["data.frames=58", "data.min_frames=40"], "data.frames is 58; needed: a multiple of the autoencoder's stride"),
        (["heldout_clips=1"], "heldout_clips is 1; allowed: 4 or more"),
        (["autoencoder.stride=3"], "autoencoder.stride is 3; allowed: a power of two"),
    ],
)
def test_what_does_not_fit_is_refused(words, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        train(tmp_path, *TINY, *words)

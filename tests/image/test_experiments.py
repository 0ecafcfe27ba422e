"""Every experiment file: composed, checked against its schema, and taken at toy size through a step and a sample."""

import importlib
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from core.commands.entry import compose_config
from core.data.stream import StepPositions, step_batches
from core.processes.world import World
from core.schema import changed_keys, plain, strict
from core.storage.run_folder import RunDirectory
from core.train.trainer import Trainer
from image.backbone import SIZES
from image.train import ImageConfig, build_domain

CONF = Path(importlib.import_module("image.conf").__file__).parent
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
IMAGENET = [name for name in EXPERIMENTS if name.startswith("imagenet")]
SIDE, BATCH = 64, 4  # an image of 64 pixels has latents of 8
PLACES = {"folder": ["data.root=/nowhere"], "digits": []}  # what an experiment leaves to its user, by kind of data


def compose(name, *overrides):
    """An experiment as plain values, with a place for its data."""
    data = compose_config("image.conf", "train", [f"experiment={name}"], complete=False)["data"]["name"]
    return compose_config("image.conf", "train", [f"experiment={name}", *PLACES[data], *overrides])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image folder of two classes."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in ("n01", "n02"):
        (root / name).mkdir()
        for i in range(3):
            pixels = rng.integers(0, 256, (SIDE, SIDE + 8 * i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A random AutoencoderKL that shrinks eight times, as the published one does."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    widths, path = (4, 4, 4, 4), tmp_path_factory.mktemp("vae")
    down, up = ("DownEncoderBlock2D",) * len(widths), ("UpDecoderBlock2D",) * len(widths)
    diffusers.AutoencoderKL(
        block_out_channels=widths, down_block_types=down, up_block_types=up, latent_channels=4, norm_num_groups=2
    ).save_pretrained(path)
    return path


def toy_config(name, images, vae):
    """The experiment with tiny data, tokenizer, width and batch; depth, pairs and every other choice are its own."""
    full = strict(ImageConfig, compose(name))
    values = plain(full)
    depth, _, _ = full.backbone.dimensions
    values["backbone"] |= {"size": None, "depth": depth, "hidden_size": 8, "num_heads": 2}
    values["trainer"] |= {"batch_size": BATCH, "num_workers": 0, "compile": "none", "steps": 10}
    values["sampler"] |= {"num_steps": 2}
    values["device"] = "cpu"
    if values["data"]["name"] == "folder":
        values["data"] |= {"root": str(images), "size": SIDE}
    if values["tokenizer"]["name"] == "autoencoder_kl":
        values["tokenizer"] |= {"path": str(vae)}
    return strict(ImageConfig, values)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_valid_and_trains_and_samples_at_toy_size(name, images, vae, tmp_path):
    config = toy_config(name, images, vae)
    cpu = torch.device("cpu")
    domain = build_domain(config, cpu, evaluate=False)
    trainer = Trainer(config, domain, RunDirectory.create(str(tmp_path), "image", config.name), World())
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    batch = next(step_batches(domain.dataset, 0, StepPositions(0, 1, BATCH, (0, BATCH)), 0, pin=False))

    losses, norm = trainer.update(batch)
    assert trainer.step == 1
    assert math.isfinite(losses.total.detach())
    assert norm > 0
    pairs = getattr(config.alignment, "pairs", [])
    assert list(losses.similarity) == [f"{weak}->{strong}" for weak, strong in pairs]
    moved = [key for key, value in trainer.model.state_dict().items() if not torch.equal(before[key], value)]
    assert "final_layer.linear.weight" in moved

    media = trainer.generator()(torch.tensor([0, 1]), seed=0, batch_size=2)
    assert media.shape == (2, *domain.dataset.media_shape)
    assert media.abs().max() <= 1
    assert media.std() > 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_is_named_after_its_experiment(name):
    assert compose(name)["name"] == name


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if f"{name}_layersync" in EXPERIMENTS])
def test_baseline_and_layersync_differ_in_nothing_but_the_alignment(name):
    keys = changed_keys(compose(name), compose(f"{name}_layersync"))
    assert {key.partition(".")[0] for key in keys} == {"name", "alignment"}
    assert compose(name)["alignment"] == {"name": "none"}


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_experiments_keep_the_settings_of_the_paper(name):
    config = strict(ImageConfig, compose(name))
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (1e-4, (0.9, 0.999), 0.0)
    assert (optimizer.clip_norm, optimizer.warmup_steps, optimizer.schedule) == (None, 0, "constant")
    assert (config.trainer.batch_size, config.ema.decays, config.conditioning.drop) == (256, [0.9999], 0.1)
    assert (config.objective.path, config.objective.prediction, config.objective.time) == (
        "linear",
        "velocity",
        "uniform",
    )
    backbone = config.backbone
    assert (backbone.patch_size, backbone.learn_sigma, backbone.null_label) == (2, True, True)
    assert f"{backbone.size.lower()}2" in name.split("_")[1]
    assert config.data.size == int(name.split("_")[0].removeprefix("imagenet"))
    assert (config.sampler.solver, config.sampler.num_steps, config.sampler.guidance_scale) == ("heun", 249, 1.0)


@pytest.mark.parametrize("name", [name for name in IMAGENET if name.endswith("_layersync")])
def test_pairs_stand_where_the_paper_puts_them(name):
    config = strict(ImageConfig, compose(name))
    depth = SIZES[config.backbone.size][0]
    [(weak, strong)] = config.alignment.pairs
    assert config.alignment.weight == 0.2
    assert weak < strong <= 0.8 * depth
    if config.backbone.size == "XL":
        assert (weak, strong) == (8, 16)
    assert weak / depth == pytest.approx(8 / 28, abs=0.06)
    assert strong / depth == pytest.approx(16 / 28, abs=0.06)


# --- typos

NODES = ["data", "tokenizer", "backbone", "alignment", "sampler", "evaluation"]
NODES += ["optimizer", "ema", "objective", "conditioning"]


@pytest.fixture
def copied_conf(tmp_path, monkeypatch):
    """A copy of the config folder, as a module of its own: `copied_conf(experiment, node)` puts a typo into it."""
    shutil.copytree(CONF, tmp_path / "copied_image" / "conf")
    (tmp_path / "copied_image" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def inject(experiment, node):
        file = tmp_path / "copied_image" / "conf" / "experiment" / f"{experiment}.yaml"
        content = yaml.safe_load(file.read_text())
        target = content.setdefault(node, {}) if node else content
        target["tpyo"] = 1
        file.write_text("# @package _global_\n" + yaml.safe_dump(content, sort_keys=False))
        data = "digits" if experiment == "digits" else "folder"
        return compose_config("copied_image.conf", "train", [f"experiment={experiment}", *PLACES[data]])

    yield inject
    for module in ("copied_image.conf", "copied_image"):
        importlib.sys.modules.pop(module, None)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_typo_in_an_experiment_file_is_refused_with_its_key(copied_conf, name):
    with pytest.raises(ValueError, match=r"unknown config key 'trainer.tpyo' \(value 1\); allowed: steps, batch_size"):
        strict(ImageConfig, copied_conf(name, "trainer"))


@pytest.mark.parametrize("node", NODES)
def test_a_typo_in_any_node_is_refused_with_its_key(copied_conf, node):
    with pytest.raises(ValueError, match=rf"unknown config key '{node}.tpyo' \(value 1\); allowed: "):
        strict(ImageConfig, copied_conf(IMAGENET[-1], node))


def test_a_typo_at_the_top_is_refused_with_its_key(copied_conf):
    with pytest.raises(ValueError, match=r"unknown config key 'tpyo' \(value 1\); allowed: .*trainer"):
        strict(ImageConfig, copied_conf(IMAGENET[-1], None))


def test_a_copy_without_a_typo_is_accepted(copied_conf):
    values = compose_config("copied_image.conf", "train", ["experiment=digits"])
    assert strict(ImageConfig, values) == strict(ImageConfig, compose("digits"))

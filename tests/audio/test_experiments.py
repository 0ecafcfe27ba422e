"""Every experiment file of audio: composed, checked against its schema, and taken at toy size through a step."""

import importlib
import math
from pathlib import Path

import pytest
import torch

from audio.backbone import SiTConfig
from audio.train import AudioConfig, build_domain
from core.commands.entry import compose_config
from core.conditioning.none import NoneConfig, Unconditional
from core.data.stream import StepPositions, step_batches
from core.nets.sit import SIZES
from core.processes.world import World
from core.schema import changed_keys, plain, strict
from core.storage.run_folder import RunDirectory
from core.train.trainer import Trainer
from tests.audio.audio_files import music, write_sound
from tests.end_to_end.audio_runs import HOP, RATE, SECONDS, save_vae

CONF = Path(importlib.import_module("audio.conf").__file__).parent
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
JAMENDO = [name for name in EXPERIMENTS if name.startswith("jamendo")]
BATCH = 2
PLACES = {"folder": ["data.root=x"], "jamendo": ["data.root=x", "data.tsv=y"], "notes": []}
FORMAT = {"sample_rate": RATE, "seconds": SECONDS, "min_seconds": 0.01}


def compose(name, *overrides):
    """An experiment as plain values, with a place for its data."""
    data = compose_config("audio.conf", "train", [f"experiment={name}"], complete=False)["data"]["name"]
    return compose_config("audio.conf", "train", [f"experiment={name}", *PLACES[data], *overrides])


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    """A folder of four WAV files, one shorter than a clip, and a TSV as MTG-Jamendo's."""
    root = tmp_path_factory.mktemp("tracks")
    lines = ["TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"]
    for number, seconds in enumerate((0.5, 0.4, 0.3, 0.06)):
        write_sound(root / f"{number}.wav", music(seconds, RATE, 2, seed=number), RATE)
        tags = f"genre---{'rock' if number % 2 else 'jazz'}\tinstrument---piano"
        lines.append(f"track_{number}\tartist_{number}\talbum_{number}\t{number}.wav\t{seconds}\t{tags}")
    (root / "split.tsv").write_text("\n".join(lines) + "\n")
    return root


def toy_config(name, tracks, vae, tmp_path):
    """The experiment with tiny data, tokenizer, width and batch; depth, pairs and every other choice are its own."""
    full = strict(AudioConfig, compose(name))
    values = plain(full)
    depth, _, _ = full.backbone.dimensions
    values["backbone"] |= {"size": None, "depth": depth, "hidden_size": 8, "num_heads": 2}
    values["trainer"] |= {"batch_size": BATCH, "num_workers": 0, "compile": "none", "steps": 10, "precision": "fp32"}
    values["sampler"] |= {"num_steps": 2}
    values |= {"device": "cpu", "runs_dir": str(tmp_path)}
    if values["data"]["name"] == "notes":
        values["data"] |= {"num_notes": 24}
        values["evaluation"] = {"name": "none"}
        return strict(AudioConfig, values)
    values["data"] |= {"root": str(tracks), **FORMAT, "cache_dir": str(tmp_path)}
    values["tokenizer"] |= {"path": str(vae), "subfolder": "", "allow_untrained": True}
    if values["data"]["name"] == "jamendo":
        values["data"] |= {"tsv": str(tracks / "split.tsv")}
    return strict(AudioConfig, values)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return save_vae(tmp_path_factory.mktemp("vae"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_and_samples_at_toy_size(name, tracks, vae, tmp_path):
    config = toy_config(name, tracks, vae, tmp_path)
    domain = build_domain(config, torch.device("cpu"), evaluate=False)
    trainer = Trainer(config, domain, RunDirectory.create(str(tmp_path), "audio", config.name), World())
    batch = next(step_batches(domain.dataset, 0, StepPositions(0, 1, BATCH, (0, BATCH)), 0, pin=False))
    losses, norm = trainer.update(batch)
    assert math.isfinite(losses.total.detach()) and norm > 0
    pairs = getattr(config.alignment, "pairs", [])
    assert list(losses.similarity) == [f"{weak}->{strong}" for weak, strong in pairs]
    request = domain.conditioning.requests(2, 0)
    media = trainer.generator()(request, seed=0, batch_size=2)
    assert media.shape == (2, *domain.dataset.media_shape)
    assert media.abs().max() <= 1
    if config.data.__class__.__name__ != "NotesConfig":
        assert domain.dataset.media_shape == (2, int(RATE * SECONDS) // HOP * HOP)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_is_named_after_its_experiment(name):
    assert compose(name)["name"] == name


@pytest.mark.parametrize("name", [name for name in JAMENDO if not name.endswith("_layersync")])
def test_baseline_and_layersync_differ_in_nothing_but_the_alignment(name):
    keys = changed_keys(compose(name), compose(f"{name}_layersync"))
    assert {key.partition(".")[0] for key in keys} == {"name", "alignment"}
    assert compose(name)["alignment"] == {"name": "none"}


@pytest.mark.parametrize("name", JAMENDO)
def test_jamendo_experiments_keep_the_settings_of_the_paper(name):
    config = strict(AudioConfig, compose(name))
    optimizer, data = config.optimizer, config.data
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (1e-4, (0.9, 0.999), 0.0)
    assert (config.trainer.batch_size, config.ema.decays) == (1024, [0.9999])
    assert (data.seconds, data.sample_rate, data.channels) == (10.0, 44100, 2)
    assert (config.backbone.patch_size, config.backbone.size) == (1, name.split("_")[1].upper())
    assert (config.sampler.solver, config.sampler.num_steps, config.sampler.guidance_scale) == ("heun", 249, 1.0)
    if name.endswith("_layersync"):
        [(weak, strong)] = config.alignment.pairs
        depth = SIZES[config.backbone.size][0]
        assert config.alignment.weight == 0.2 and weak < strong <= 0.8 * depth
        assert (weak, strong) == (8, 16) or config.backbone.size != "XL"


@pytest.mark.parametrize("size", SIZES)
def test_a_published_size_has_the_parameters_of_its_formula(size):
    """Blocks of 18 D^2 (attention 4, MLP 8, modulation 6) with their biases, times, projections of 64 channels."""
    depth, width, _ = SIZES[size]
    with torch.device("meta"):
        network = SiTConfig(size=size).build((64, 215), Unconditional())
    block = 18 * width**2 + (3 + 1 + 4 + 1 + 6) * width
    ends = 65 * width + (256 * width + width + width**2 + width) + (2 * width**2 + 2 * width) + 64 * (width + 1)
    assert sum(each.numel() for each in network.parameters()) == depth * block + ends
    assert network.num_tokens == 215
    assert isinstance(strict(AudioConfig, compose("jamendo_xl")).conditioning, NoneConfig)

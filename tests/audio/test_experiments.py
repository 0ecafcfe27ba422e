"""The experiments of MTG-Jamendo keep the settings of the paper; every experiment steps in tests/end_to_end."""

from pathlib import Path

import pytest
import torch

import audio.conf
from audio.backbone import SiTConfig
from audio.train import ENTRY
from core.conditioning.none import NoneConfig, Unconditional
from core.nets.sit import SIZES

FOLDER = Path(audio.conf.__file__).parent / "experiment"
JAMENDO = sorted(path.stem for path in FOLDER.glob("jamendo*.yaml"))
PAIRS = {"S": (4, 7), "B": (4, 7), "L": (8, 18), "XL": (8, 16)}  # L and XL are the paper's


@pytest.mark.parametrize("name", JAMENDO)
def test_jamendo_experiments_keep_the_settings_of_the_paper(name):
    config = ENTRY.config([f"experiment={name}", "data.root=x", "data.tsv=y"])
    optimizer, data, backbone = config.optimizer, config.data, config.backbone
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (1e-4, (0.9, 0.999), 0.0)
    assert (config.trainer.batch_size, config.ema.decays) == (1024, [0.9999])
    assert (data.seconds, data.sample_rate, data.channels) == (10.0, 44100, 2)
    assert (backbone.patch_size, f"jamendo_{backbone.size.lower()}") == (1, name.removesuffix("_layersync"))
    assert (config.sampler.solver, config.sampler.num_steps, config.sampler.guidance_scale) == ("heun", 249, 1.0)
    assert isinstance(config.conditioning, NoneConfig)
    if name.endswith("_layersync"):
        assert (config.alignment.pairs, config.alignment.weight) == ([PAIRS[backbone.size]], 0.2)


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

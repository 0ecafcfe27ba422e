"""The experiments of ImageNet keep the settings of the paper; every experiment steps in tests/end_to_end."""

from pathlib import Path

import pytest

import image.conf
from image.backbone import SIZES
from image.train import ENTRY
from layersync.pairs import allowed_pairs

FOLDER = Path(image.conf.__file__).parent / "experiment"
IMAGENET = sorted(path.stem for path in FOLDER.glob("imagenet*.yaml"))
PAIRS = {"S": (4, 7), "B": (4, 7), "L": (8, 18), "XL": (8, 16)}  # L and XL are the paper's


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_experiments_keep_the_settings_of_the_paper(name):
    config = ENTRY.config([f"experiment={name}", "data.root=x"])
    optimizer, objective, backbone = config.optimizer, config.objective, config.backbone
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (1e-4, (0.9, 0.999), 0.0)
    assert (optimizer.clip_norm, optimizer.warmup_steps, optimizer.schedule) == (None, 0, "constant")
    assert (config.trainer.batch_size, config.ema.decays, config.conditioning.drop) == (256, [0.9999], 0.1)
    assert (objective.path, objective.prediction, objective.time) == ("linear", "velocity", "uniform")
    assert (backbone.patch_size, backbone.learn_sigma, backbone.null_label) == (2, True, True)
    assert (config.sampler.solver, config.sampler.num_steps, config.sampler.guidance_scale) == ("heun", 249, 1.0)
    data, size, *method = name.split("_")
    assert size == f"{backbone.size.lower()}2" and data == f"imagenet{config.data.size}"
    if method:
        [(weak, strong)] = config.alignment.pairs
        assert (weak, strong) == PAIRS[backbone.size] and config.alignment.weight == 0.2
        assert (weak, strong) in allowed_pairs(SIZES[backbone.size][0])

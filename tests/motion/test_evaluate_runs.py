"""`python -m motion.evaluate run=...`: samples of the captions of a folder in the format of HumanML3D."""

import json
from pathlib import Path

import pytest

from eval.measure.record import differences
from motion.sample import ENTRY as SAMPLE
from motion.train import ENTRY as TRAIN
from tests.motion.evaluations import evaluators, measured, real_folder

TOY = [
    "backbone.depth=2",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "trainer.steps=2",
    "trainer.batch_size=4",
    "trainer.num_previews=1",
    "trainer.compile=none",
    "trainer.num_workers=0",
    "trainer.precision=fp32",
    "trainer.checkpoint_every=2",
    "trainer.preview_every=2",
    "sampler.num_steps=2",
    "tracking.tensorboard=off",
    "device=cpu",
]


def train(place: Path, *overrides: str) -> Path:
    """A finished tiny run in `place`/runs; its folder."""
    config = TRAIN.config([*TOY, f"runs_dir={place / 'runs'}", f"conditioning.cache_dir={place / 'texts'}", *overrides])
    TRAIN.main(config)
    return place / "runs" / "motion" / config.name


@pytest.fixture(scope="module")
def on_folder(tmp_path_factory):
    """A run on a folder in the format of HumanML3D, and the keys of an evaluator."""
    root = tmp_path_factory.mktemp("folder")
    real_folder(root / "HumanML3D", 12, split="train", first=100)
    real_folder(root / "HumanML3D", 32, split="val", first=200)
    real_folder(root / "HumanML3D", 40, split="test")
    own = ["experiment=humanml3d_flow", f"data.root={root / 'HumanML3D'}", f"data.cache_dir={root / 'cache'}"]
    sizes = ["backbone.size=null", "data.frames=64", "backbone.patch_size=2"]
    return train(root, *own, *sizes), evaluators(root)


def test_samples_of_the_captions_of_the_split_are_measured_beside_real_motion(on_folder, tmp_path):
    run, keys = on_folder
    words = [f"run={run}", *keys, "real_row=warn", "multimodality=2", "batch_size=64"]
    found = measured(*words, "replications=2", out=tmp_path / "out")
    record = found["t2m263/r_precision_3"]
    assert record.num_samples == 32 and record.interval.kind == "replications, 95 %" and record.step == 2
    assert {"split": "test", "pool": 32, "replications": 2}.items() <= record.protocol.items()
    assert record.protocol["prompts"].startswith("captions of HumanML3D, test")
    assert record.protocol["num"] == 32 and record.protocol["multimodality"] == 2
    assert record.protocol["seed"] == [0, 1]
    assert "guidance_scale" in json.dumps(record.protocol)
    assert found["t2m263/multimodality"].num_samples == 60
    assert found["t2m263/fid"].reference["num_samples"] == 40 and "t2m263/real_r_precision_3" in found
    assert not list((tmp_path / "out").glob("samples_*"))  # they go when the numbers are written
    fewer = measured(*words, "replications=1", "split=val", "num=32", out=tmp_path / "val")
    assert {"protocol.split", "protocol.replications"} <= differences(record, fewer["t2m263/r_precision_3"]).keys()


def test_written_samples_are_measured_as_what_they_were_asked_to_be(on_folder, tmp_path):
    run, keys = on_folder
    SAMPLE.main(SAMPLE.config([f"run={run}", f"out={tmp_path / 'made'}", "num=4", "device=cpu"]))
    real = f"real={run.parents[2] / 'HumanML3D'}"
    words = ["real_row=warn", "replications=1", "metrics=[t2m263/fid]"]
    found = measured(f"samples={tmp_path / 'made'}", real, *keys, *words, out=tmp_path / "a")
    assert found["t2m263/fid"].num_samples == 4
    assert found["t2m263/fid"].step == 2 and "unknown" not in json.dumps(found["t2m263/fid"].protocol)

"""A sweep of `audio.train`: named by its entry only, run by submitit's own executor on this machine, and collected."""

import json

import pytest
import yaml

from tests.audio.evaluations import TOY
from tests.slurm.commands import launch
from tests.slurm.test_local import Launcher

WORDS = dict(word.split("=", 1) for word in [*TOY, "evaluation.num_samples=12", "sample_batch_size=12"])


@pytest.fixture
def sweep(tmp_path):
    """One run of two processes on notes, a file for `slurm/launch.py`."""
    overrides = {key: yaml.safe_load(value) for key, value in WORDS.items() if not key.startswith("alignment")}
    keys = {
        "name": "notes",
        "entry": "audio.train",
        "runs_dir": str(tmp_path / "runs"),
        "overrides": overrides | {"tracking.tensorboard": "off"},
        "cases": [{"case": "layersync", "alignment.pairs": [[1, 2]]}],
        "metric": "frechet_distance",
        "resources": {"tasks_per_node": 2},
    }
    file = tmp_path / "notes.yaml"
    file.write_text(yaml.safe_dump(keys))
    return file


@pytest.mark.slow
def test_it_runs_here_in_two_processes_and_is_collected(sweep):
    shown = launch(sweep, "--dry-run")
    assert shown.code == 0 and "python -m audio.train" in shown.out
    with Launcher(sweep.parent, sweep, "--local", "1") as launcher:
        assert launcher.wait() == 0, launcher.said()
    run = sweep.parent / "runs" / "sweeps" / "notes" / "audio" / "layersync-seed0"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["processes"]) == (3, 2) and summary["frechet_distance"] > 0
    assert any((run / "previews").glob("*.wav"))
    collected = launch("collect", sweep)
    assert collected.code == 0 and "frechet_distance" in collected.out

"""A sweep of `audio.train`: named by its entry only, run in two processes on this machine, and collected."""

import json

import pytest
import yaml

from tests.audio.evaluations import TOY
from tests.slurm.commands import launch
from tests.slurm.test_local import Launcher


@pytest.mark.slow
def test_it_runs_here_in_two_processes_and_is_collected(tmp_path):
    words = dict(word.split("=", 1) for word in TOY if not word.startswith(("evaluation", "tracking")))
    keys = {
        "name": "notes",
        "entry": "audio.train",
        "runs_dir": str(tmp_path / "runs"),
        "overrides": {key: yaml.safe_load(value) for key, value in words.items()}
        | {"evaluation": "none", "tracking.tensorboard": "off"},
        "resources": {"tasks_per_node": 2},
    }
    sweep = tmp_path / "notes.yaml"
    sweep.write_text(yaml.safe_dump(keys))
    shown = launch(sweep, "--dry-run")
    assert shown.code == 0 and "python -m audio.train" in shown.out
    with Launcher(tmp_path, sweep, "--local", "1") as launcher:
        assert launcher.wait() == 0, launcher.said()
    run = tmp_path / "runs" / "sweeps" / "notes" / "audio" / "seed0"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["processes"]) == (3, 2)
    assert any((run / "previews").glob("*.wav"))
    collected = launch("collect", sweep)
    assert collected.code == 0 and "| all | 1 |" in collected.out

"""The command line of `python slurm/launch.py`; what the actions do is in test_submit, test_local and test_real."""

import os
import subprocess
import sys

import pytest

import slurm.launch
from slurm.launch import ACTIONS, parse
from tests.rows import every_row
from tests.slurm.commands import ROOT, ToySweep, launch


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep file, in a folder without SLURM."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return ToySweep(tmp_path, "toy", ["through"])


def test_without_an_action_a_sweep_is_submitted():
    assert parse(["s.yaml"]) == parse(["submit", "s.yaml"])
    assert parse(["--dry-run", "s.yaml"]) == parse(["submit", "s.yaml", "--dry-run"])
    assert vars(parse(["s.yaml", "--local", "3"])) == {
        "action": "submit",
        "sweep": "s.yaml",
        "dry_run": False,
        "local": 3,
    }


def test_an_action_may_be_named():
    for action in ACTIONS:
        options = parse([action, "s.yaml"])
        assert (options.action, options.sweep, options.dry_run, options.local) == (action, "s.yaml", False, None)


@every_row(
    ("arguments", "part"),
    [
        ([], "required: sweep"),
        (["status"], "required: sweep"),
        (["statsu", "sweep.yaml"], "unrecognized arguments: sweep.yaml"),
        (["s.yaml", "--dryrun"], "unrecognized arguments: --dryrun"),
        (["s.yaml", "--dry"], "unrecognized arguments: --dry"),
        (["s.yaml", "--local"], "--local: expected one argument"),
        (["s.yaml", "--local", "two"], "invalid int value: 'two'"),
        (["s.yaml", "--local", "2", "--dry-run"], "not allowed with argument --local"),
    ],
)
def test_an_option_that_is_none_is_told(arguments, part):
    refused = launch(*arguments)
    assert refused.code == 2
    assert part in refused.err.splitlines()[-1]


@every_row("action", ["status", "cancel", "collect"])
@every_row("option", [["--dry-run"], ["--local", "1"]])
def test_options_of_submit_are_refused_elsewhere(sweep, action, option):
    assert launch(action, sweep.file, *option).is_error("go with submit and resubmit", f"not with {action}")


def test_a_sweep_file_that_is_not_there_is_told(tmp_path):
    for action in ACTIONS:
        assert launch(action, tmp_path / "nowhere.yaml").is_error(f"there is no sweep file {tmp_path}/nowhere.yaml")


def test_a_run_that_does_not_compose_is_told_before_anything_is_written(tmp_path, sweep):
    wrong = ToySweep(tmp_path, "wrong", ["through", {"case": "typo", "trainer.stepz": 3}])
    for arguments in ([], ["--dry-run"], ["--local", "1"]):
        assert launch(wrong.file, *arguments).is_error("run typo-seed0: unknown config key 'trainer.stepz'", "steps")
    assert not (tmp_path / "runs").exists()


def test_a_local_run_that_stops_is_an_error_of_the_command(sweep, monkeypatch):
    monkeypatch.setattr(slurm.launch, "run_here", lambda *arguments: ["through-seed0"])
    ended = launch(sweep.file, "--local", 1)
    assert (ended.code, ended.err) == (1, "error: 1 of 1 runs stopped: through-seed0\n")


def test_a_folder_that_cannot_be_written_is_told(tmp_path, sweep):
    (tmp_path / "runs").write_text("a file")
    assert launch(sweep.file, "--local", 1).is_error(str(tmp_path / "runs"))


def test_help_tells_every_action():
    told = launch("--help").out
    assert all(action in told for action in (*ACTIONS, "--dry-run", "--local N"))


def test_as_a_program_it_refuses_without_a_traceback(tmp_path):
    """From another folder, by its path; its own modules hide no others."""
    command = [sys.executable, ROOT / "slurm" / "launch.py", "status", "nowhere.yaml"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", "error: there is no sweep file nowhere.yaml\n")

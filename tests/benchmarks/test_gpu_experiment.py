"""Matched runs on scenes, driven on the CPU at toy size: turns, curves, and going on in another call."""

import itertools
import json

import pytest

from benchmarks.gpu import experiment as gpu_experiment
from benchmarks.gpu import suite as gpu
from benchmarks.gpu.budget import Budget

TINY = ["experiment", "--device", "cpu", "--tiny", "--sizes", "S/8", "--seeds", "0"]


@pytest.fixture
def call(tmp_path, monkeypatch):
    """The command for some turns; returns the JSON's results."""

    def run(count):
        real = gpu_experiment.turns
        monkeypatch.setattr(gpu_experiment, "turns", lambda *given: itertools.islice(real(*given), count))
        out = tmp_path / "found.json"
        assert gpu.main([*TINY, "--runs-dir", str(tmp_path / "runs"), "--out", str(out)]) == 0
        monkeypatch.setattr(gpu_experiment, "turns", real)
        return json.loads(out.read_text())["results"]

    return run


def test_runs_take_turns_and_go_on_in_another_call(call):
    first = call(2)
    assert [run["method"] for run in first["runs"]] == ["baseline", "layersync"]
    for run in first["runs"]:
        assert [step for step, _ in run["flow_loss"]] == [1, 2]
        assert [line["step"] for line in run["evaluations"]] == [2]
    assert first["runs"][0]["flow_loss"][0] == first["runs"][1]["flow_loss"][0]  # matched: the first step is the same
    assert [(row["size"], row["step"], len(row["gain_by_seed"])) for row in first["gains"]] == [("S/8", 2, 1)]
    later = call(1)
    assert [line["step"] for line in later["runs"][0]["evaluations"]] == [2, 4]
    assert later["runs"][0]["flow_loss"][:2] == first["runs"][0]["flow_loss"]
    assert later["runs"][1] == first["runs"][1]


def test_time_that_is_over_stops_a_run():
    assert gpu_experiment.TimeIsOver(Budget(-1)) and not gpu_experiment.TimeIsOver(Budget(60))


def test_bad_options_are_one_line(capsys):
    for options, said in (
        (["--device", "cpu"], "needs --tiny"),
        (["--device", "cpu", "--tiny", "--minutes", "0"], "--minutes is 0"),
        (["--device", "cpu", "--tiny", "--sizes", "Q/2"], "--sizes has 'Q/2'"),
    ):
        with pytest.raises(SystemExit):
            gpu.main(["experiment", *options])
        assert said in capsys.readouterr().err.strip().splitlines()[-1]

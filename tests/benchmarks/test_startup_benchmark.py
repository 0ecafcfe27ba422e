"""The benchmark of start-up finds the commands, counts the seconds of their processes, and judges the aim."""

import json

import pytest

from benchmarks import startup


def test_it_measures_and_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(startup, "BASE", "sum(range(3_000_000))")  # sooner done than `import torch`
    out = tmp_path / "record.json"
    startup.main(["--commands", "eval.weights", "--rounds", "2", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert set(results["cpu_seconds"]) == {startup.BASE, "eval.weights"}
    assert all(seconds["low"] > 0 for seconds in results["cpu_seconds"].values())
    assert results["met"] == (results["ratios"]["eval.weights"]["median"] <= startup.AIM)
    assert "(eval.weights): " + ("met" if results["met"] else "not met") in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [out]


def test_a_command_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"exits with 1: (?s:.*)no good"):
        startup.cpu_seconds(["-c", "raise ValueError('no good')"])

"""The benchmark of rendering measures each size of scene, and records it."""

import json

from benchmarks import rendering


def test_it_measures_and_records(tmp_path, capsys):
    out = tmp_path / "record.json"
    rendering.main(["--batch", "2", "--batches", "1", "--rounds", "2", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    rates = results["scenes_per_cpu_second"]
    assert list(rates) == ["32", "64", "128"] and rates["32"]["median"] > rates["128"]["median"] > 0
    assert results["aim_met"] == (rates["32"]["median"] >= results["aim"])
    assert "batches of 2" in capsys.readouterr().out

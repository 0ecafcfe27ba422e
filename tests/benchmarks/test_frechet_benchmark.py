"""The benchmark of the Fréchet distance measures three ways of the same number."""

import json

import pytest
import torch

from benchmarks import frechet, measure


def test_it_measures_and_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "LIMIT_BYTES", 2**16)
    monkeypatch.setattr(measure, "matmul_peak", lambda device, dtype: 7e9 if dtype == torch.float64 else 0.0)
    out = tmp_path / "record.json"
    frechet.main(["--width", "24", "--samples", "200", "--few", "10", "--rounds", "2", "--out", str(out)])
    record = json.loads(out.read_text())
    full = record["results"]["cases"]["200"]
    assert set(full["values"]) == {"sqrtm", "eigenvalues", "ours"}
    assert full["values"]["sqrtm"] == pytest.approx(full["values"]["ours"], rel=1e-7)
    assert record["results"]["difference_met"]
    assert full["speedup"]["ours"] == {"median": 1, "low": 1, "high": 1}
    assert record["results"]["speedup_met"] == (full["speedup"]["sqrtm"]["median"] >= frechet.AIM_SPEEDUP)
    printed = capsys.readouterr().out
    assert f"aim: {frechet.AIM_SPEEDUP:g} times as fast as sqrtm" in printed
    assert "limits: 7.0 (7.0-7.0) GFLOP/s of products in float64, " in printed
    assert list(tmp_path.iterdir()) == [out]

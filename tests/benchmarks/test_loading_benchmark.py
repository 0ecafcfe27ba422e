"""The benchmarks of loading and of teachers measure, compare and record."""

import json

import pytest
import torch

from benchmarks import loading, measure, teachers
from benchmarks.gpu.throughput import busy_microseconds
from tests.rows import every_row


def test_loading_is_measured_in_both_ways(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "alone", lambda function: function())  # processes of their own take seconds to start
    out = tmp_path / "record.json"
    monkeypatch.setattr(measure, "LIMIT_BYTES", 2**16)
    loading.main(["--size", "tiny", "--rounds", "2", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert list(results["cases"]) == ["sample", "resume"]
    for case in results["cases"].values():
        assert set(case["ways"]) == {"drawn", "without"}
        assert all(way["seconds"]["low"] >= way["build_seconds"]["low"] > 0 for way in case["ways"].values())
    assert results["time_met"] == all(each["time_ratio"]["median"] <= 1 / 3 for each in results["cases"].values())
    printed = capsys.readouterr().out
    assert "aim: a third of the time" in printed
    assert f"limits: {results['limits']['copy']['median']:.1f} (" in printed


def test_teachers_are_measured_beside_a_step_without(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "matmul_peak", lambda device, dtype: 5e9 if dtype == torch.float32 else 0.0)
    out = tmp_path / "record.json"
    teachers.main(["--size", "tiny", "--rounds", "1", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert set(results["ratio"]) == {"none", "sra", "self_flow"} and results["ratio"]["none"]["median"] == 1
    assert results["flops_ratio"]["none"] == 1 and results["flops_ratio"]["sra"] > 1 + 1 / 3
    assert set(results["teacher"]) == {"sra", "self_flow"}
    assert all(0 < each["median"] < results["ratio"][name]["median"] for name, each in results["teacher"].items())
    assert results["met"] == all(each["median"] <= 0.25 for each in results["teacher"].values())
    printed = capsys.readouterr().out
    assert "aim: a pass of at most 0.25 of a step" in printed
    assert "limits: 5.0 (5.0-5.0) GFLOP/s of products in float32" in printed


@every_row(
    ("intervals", "busy", "span"),
    [
        ([(0, 10)], 10, 10),
        ([(20, 30), (0, 10)], 20, 30),
        ([(0, 10), (2, 5), (8, 12), (15, 16)], 13, 16),
        ([(5, 6), (5, 9), (5, 7)], 4, 4),
        ([], 0, 0),
    ],
)
def test_a_device_is_busy_where_anything_runs_on_it(intervals, busy, span):
    assert busy_microseconds(intervals) == pytest.approx((busy, span))

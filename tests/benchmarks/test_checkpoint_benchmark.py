"""The benchmark of checkpoints measures each way and leaves nothing but its record."""

import json

from benchmarks import checkpoint, measure


def test_it_measures_and_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checkpoint, "ALONE_SECONDS", 0.01)
    monkeypatch.setattr(measure, "LIMIT_BYTES", 2**16)
    out, folder = tmp_path / "record.json", tmp_path / "disk"
    folder.mkdir()
    checkpoint.main(["--size", "tiny", "--rounds", "1", "--folder", str(folder), "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert len(results["seconds"]) == 5
    for way, each in results["seconds"].items():
        waits = way not in (checkpoint.BESIDE, checkpoint.DISTRIBUTED)
        assert (each["blocked"] == each["total"]) == waits, way
        assert 0 < each["blocked"]["median"] <= each["total"]["median"]
    assert results["blocked_met"] == (results["blocked_over_former"]["median"] <= checkpoint.AIM_BLOCKED)
    assert set(results["limits"]) == {"copy", "hash", "disk"}
    assert all(each["low"] > 0 for each in results["limits"].values())
    printed = capsys.readouterr().out
    assert "of its rate alone" in printed and "GB/s to the disk, synced" in printed
    assert list(folder.iterdir()) == []

"""The benchmark of checkpoints measures each way and leaves nothing but its record."""

import json

from benchmarks import checkpoint


def test_it_measures_and_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checkpoint, "ALONE_SECONDS", 0.01)
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
    assert "of its rate alone" in capsys.readouterr().out
    assert list(folder.iterdir()) == []

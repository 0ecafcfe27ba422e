"""The benchmark of reading motions reads what it says, and leaves nothing behind."""

import json
import tempfile

from benchmarks import motion_reading


def test_it_measures_and_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = tmp_path / "record.json"
    options = ["--motions", "30", "--different", "10", "--items", "5", "--rounds", "2", "--out", str(out)]
    motion_reading.main(options)
    results = json.loads(out.read_text())["results"]
    for name in ("open_again_s", "open_plain_s", "items_per_second", "plain_items_per_second", "items_ratio"):
        assert 0 < results[name]["low"] <= results[name]["median"] <= results[name]["high"]
    met = results["open_ratio"]["median"] >= 2 and results["items_ratio"]["median"] >= 1
    assert results["aim_met"] == met and "30 motions; opened for the first time" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [out]

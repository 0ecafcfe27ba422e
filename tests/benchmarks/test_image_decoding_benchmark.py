"""The benchmark of image decoding reads what it says, compares the bytes, and leaves nothing behind."""

import json
import tempfile

from benchmarks import image_decoding


def test_it_measures_and_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = tmp_path / "record.json"
    image_decoding.main(["--size", "64", "--images", "2", "--rounds", "2", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert set(results["cases"]) == {"landscape", "portrait"}
    for case in results["cases"].values():
        assert case["different_bytes"] == 0
        assert all(0 < each["low"] <= each["median"] <= each["high"] for each in case["milliseconds"].values())
    met = results["cases"]["landscape"]["ratio"]["median"] >= image_decoding.AIM
    assert results["aim_met"] == met and "0 bytes differ" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [out]

"""The decoding benchmark reads what it says, and leaves nothing behind."""

import json
import tempfile

import pytest

from benchmarks import decoding


def test_it_measures_and_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = tmp_path / "record.json"
    options = ["--minutes", "0.1", "--seconds", "1", "--windows", "2", "--rounds", "2", "--out", str(out)]
    decoding.main(options)
    results = json.loads(out.read_text())["results"]
    assert set(results["formats"]) == {"mp3", "flac", "m4a"}
    for each in results["formats"].values():
        assert all(0 < each[key]["low"] <= each[key]["median"] <= each[key]["high"] for key in ("seek_ms", "whole_ms"))
        low, high = each["whole_ms"]["low"] / each["seek_ms"]["high"], each["whole_ms"]["high"] / each["seek_ms"]["low"]
        assert low <= each["ratio"]["median"] <= high
    assert results["aim_met"] == (results["formats"]["mp3"]["ratio"]["median"] >= decoding.AIM)
    assert f"aim: a factor of {decoding.AIM} for MP3" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [out]


def test_a_window_longer_than_the_file_is_refused(capsys):
    with pytest.raises(SystemExit):
        decoding.main(["--minutes", "0.1", "--seconds", "7"])
    assert "--seconds is 7.0; allowed" in capsys.readouterr().err

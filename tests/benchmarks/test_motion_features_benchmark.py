"""The benchmark of the numbers of a frame measures what it says."""

import json

import pytest

from benchmarks import motion_features
from tests.rows import every_row


@every_row(("skeleton", "rows"), [("t2m", 720), ("kit", 450)])
def test_it_measures_and_records(tmp_path, capsys, skeleton, rows):
    out = tmp_path / "record.json"
    motion_features.main(["--hours", "0.01", "--clip", "4", "--rounds", "2", "--skeleton", skeleton, "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert results["clips"] == 9 and results["rows"] == rows and results["error_m"] < 1e-5
    assert list(results["seconds_per_hour"]) == ["features", "process", "joints"]
    for each in results["seconds_per_hour"].values():
        assert 0 < each["low"] <= each["median"] <= each["high"]
    assert results["aim_met"] == (results["seconds_per_hour"]["features"]["median"] < motion_features.AIM)
    assert f"aim: the features of an hour in {motion_features.AIM} s" in capsys.readouterr().out


@every_row(
    ("options", "words"),
    [
        (["--clip", "0.05"], "--clip is 0.05; needed: 0.1 s, two frames"),
        (["--clip", "nan"], "--clip is nan"),
        (["--hours", "0"], "--hours is 0; allowed: above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, options, words):
    with pytest.raises(SystemExit):
        motion_features.main(options)
    assert words in capsys.readouterr().err

"""The benchmark of video decoding reads what it says, and leaves nothing behind."""

import json
import tempfile

import pytest

from benchmarks import video_decoding


def test_it_measures_and_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(video_decoding, "HEIGHT", 64)
    monkeypatch.setattr(video_decoding, "WIDTH", 96)
    out = tmp_path / "record.json"
    options = ["--seconds", "0.4", "1", "--frames", "4", "--size", "16", "--clips", "2", "--rounds", "2"]
    video_decoding.main([*options, "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert [(each["format"], each["frames"]) for each in results["files"]] == [
        (name, frames) for frames in (10, 25) for name in ("mp4", "webm", "avi")
    ]
    for each in results["files"]:
        for key in ("clips_per_second", "whole_clips_per_second", "ratio"):
            assert 0 < each[key]["low"] <= each[key]["median"] <= each[key]["high"]
    assert results["aim_met"] == (results["files"][3]["ratio"]["median"] >= video_decoding.AIM)
    assert f"aim: a factor of {video_decoding.AIM} for the longest MP4" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [out]


def test_a_clip_longer_than_the_file_is_refused(capsys):
    with pytest.raises(SystemExit):
        video_decoding.main(["--seconds", "0.2", "30"])
    assert "--seconds is 0.2; needed: 0.64" in capsys.readouterr().err

"""The benchmark of listing opens what it says, and leaves nothing behind."""

import json
import tempfile

import pytest

from benchmarks import listing


def test_it_measures_and_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(listing, "LEAST_FILES", 20)
    monkeypatch.setattr("core.data.listing.LEAST_FILES", 20)
    monkeypatch.setattr(listing, "SETTLED", 20_000_000)
    monkeypatch.setattr("core.data.listing.SETTLED", 20_000_000)
    monkeypatch.setattr(listing, "A_CLASS", 8)
    out = tmp_path / "record.json"
    listing.main(["--files", "20", "--rounds", "2", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert results["same_files"] and results["list_mib"] > 0
    assert 0 < results["again_s"]["low"] <= results["again_s"]["median"] <= results["again_s"]["high"]
    assert "20 files, 8 a folder" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [out]
    with pytest.raises(SystemExit):
        listing.main(["--files", "19"])

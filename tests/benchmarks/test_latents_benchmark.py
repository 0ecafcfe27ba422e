"""The loader's benchmark reads what it says, and leaves nothing behind."""

import json

import pytest

from benchmarks import latents


@pytest.mark.parametrize(("kind", "numbers"), [("image", 4 * 32 * 32), ("audio", 64 * 215)])
def test_it_measures_and_records(kind, numbers, tmp_path, capsys):
    out = tmp_path / "record.json"
    options = [
        "--rows",
        "64",
        "--batch",
        "8",
        "--batches",
        "4",
        "--rows-per-shard",
        "24",
        "--rounds",
        "2",
        "--kind",
        kind,
    ]
    latents.main([*options, "--folder", str(tmp_path), "--out", str(out)])
    record = json.loads(out.read_text())
    rates = record["results"]["latents_per_second"]
    assert set(rates) == {"main process", "1 worker", "from disk"}
    assert all(0 < each["low"] <= each["median"] <= each["high"] for each in rates.values())
    assert record["results"]["aim_met"] == (rates["main process"]["median"] >= record["results"]["aim"])
    assert record["results"]["aim"] * numbers == pytest.approx(latents.AIM * 4 * 32 * 32)
    assert record["results"]["bytes_per_latent"] > 2 * 2 * numbers - 1  # moments in float16
    assert f"aim: {record['results']['aim']:,.0f} latents/s" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [out]

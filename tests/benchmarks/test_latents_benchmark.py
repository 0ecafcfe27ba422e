"""The loader's benchmark reads what it says, and leaves nothing behind."""

import json

from benchmarks import latents


def test_it_measures_and_records(tmp_path, capsys):
    out = tmp_path / "record.json"
    options = ["--rows", "64", "--batch", "8", "--batches", "4", "--rows-per-shard", "24", "--rounds", "2"]
    latents.main([*options, "--folder", str(tmp_path), "--out", str(out)])
    record = json.loads(out.read_text())
    rates = record["results"]["latents_per_second"]
    assert set(rates) == {"main process", "1 worker", "from disk"}
    assert all(0 < each["low"] <= each["median"] <= each["high"] for each in rates.values())
    assert record["results"]["aim_met"] == (rates["main process"]["median"] >= latents.AIM)
    assert record["results"]["bytes_per_latent"] > 2 * 2 * 4 * 32 * 32 - 1  # moments in float16
    assert f"aim: {latents.AIM:,} latents/s" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [out]

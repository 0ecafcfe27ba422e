"""What a latent cache refuses: other contents, bad manifests, damage, and values that cannot be kept."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from core.data.stream import fingerprint
from core.draws import numpy_rng
from core.latents.cache import array_facts, damaged_files, missing_shards
from core.latents.writer import Source
from core.processes.failures import LoaderError
from tests.core.latents.caches import (
    ROWS,
    SOURCE,
    Numbers,
    encode,
    files,
    make,
    moments,
    read,
    spec,
)
from tests.rows import every_row


@every_row(
    ("changes", "message"),
    [
        ({"tokenizer": {"scale": 0.5, "sha256": "xyz"}}, r"another tokenizer\.sha256 \('abc', now 'xyz'\)"),
        ({"transform": {"size": 2}}, r"another transform\.size \(1, now 2\)"),
        ({"dtype": "float16", "rows_per_shard": 6}, r"another dtype .*, rows_per_shard \(5, now 6\)"),
        ({"data": {**fingerprint(Numbers()), "labels_sha256": "0"}}, r"another data\.labels_sha256"),
    ],
)
def test_another_cache_in_the_same_folder_is_refused(cache, changes, message):
    before = files(cache)
    with pytest.raises(ValueError, match=message):
        make(cache, **changes)
    assert files(cache) == before


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"out is .* in use for something else \('thesis\.tex'\)"):
        make(tmp_path)
    assert sorted(files(tmp_path)) == ["thesis.tex"]


def test_a_shard_of_another_cache_does_not_count(cache, tmp_path):
    other = make(tmp_path / "other", tokenizer={"scale": 2.0})
    for name in ("shard_00003.npy", "shard_00003.json"):
        (cache / name).write_bytes((other / name).read_bytes())
    assert missing_shards(cache, spec()) == [3]


def test_a_changed_byte_is_found(cache):
    content = bytearray((cache / "shard_00002.npy").read_bytes())
    content[-3] ^= 1
    (cache / "shard_00002.npy").write_bytes(content)
    read(cache)  # by its size it is whole
    assert damaged_files(cache, spec(), range(5)) == [cache / "shard_00002.npy"]
    assert damaged_files(cache, spec(), [0, 1, 3, 4]) == []
    content[:6] = b"garbag"  # of its header
    (cache / "shard_00002.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"shard .*shard_00002\.npy is damaged"):
        read(cache).item(11, numpy_rng(0))


@every_row(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "schema_version None; this version reads 1"),
        ('{"schema_version": 2}', "schema_version 2; this version reads 1"),
        ('{"schema_version": 1, "kind": "x"}', "is damaged: missing"),
    ],
)
def test_a_bad_manifest_is_one_error(cache, content, message):
    (cache / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=rf"manifest\.json.* {message}"):
        read(cache)


LIES = {
    "rows is 1000000000, but the array of conditions.npy has shape": {"rows": 10**9},
    "rows is 0; needed": {"rows": 0},
    "rows is -5; needed": {"rows": -5},
    "rows_per_shard is 0; needed": {"rows_per_shard": 0},
    r"latent_shape\[1\] is 0; needed": {"latent_shape": [2, 0]},
    "'conditions' is null|'conditions' is None": {"conditions": None},
    "array of conditions.npy has shape None": {"conditions": {}},
    "'rows' is '23'": {"rows": "23"},
}


@every_row(("message", "changes"), list(LIES.items()))
def test_a_manifest_whose_numbers_lie_is_one_error_at_once(tmp_path, message, changes):
    cache = make(tmp_path / str(len(list(tmp_path.iterdir()))))
    content = json.loads((cache / "manifest.json").read_text())
    (cache / "manifest.json").write_text(json.dumps(content | changes))
    with pytest.raises(ValueError, match=rf"manifest\.json is damaged: .*({message})"):
        read(cache)


def test_rows_and_shapes_are_held_against_the_files(cache):
    """A manifest that agrees with itself, but not with what lies beside it."""
    file = cache / "manifest.json"
    content = json.loads(file.read_text())
    many = {**content["conditions"], "shape": [10**9]}
    file.write_text(json.dumps(content | {"rows": 10**9, "conditions": many}))
    with pytest.raises(ValueError, match=r"conditions\.npy is missing or damaged"):
        read(cache)
    identity = spec().identity()
    large = spec(latent_shape=(10**6, 10**6))
    file.write_text(json.dumps(content | {"latent_shape": [10**6, 10**6]}))
    for facts in cache.glob("shard_*.json"):
        facts.write_text(facts.read_text().replace(identity, large.identity()))
    with pytest.raises(ValueError, match=r"the shard .*shard_00000\.npy is damaged: float32 .*, needed"):
        read(cache)


@every_row("array", [np.full(ROWS, 3), np.full(ROWS, -1), np.full(ROWS, np.nan), np.array(["a"] * ROWS)])
def test_conditions_that_are_none_are_refused(tmp_path, array):
    cache = make(tmp_path / str(len(list(tmp_path.iterdir()))), conditions=array_facts(array))
    np.save(cache / "conditions.npy", array)
    with pytest.raises(ValueError, match=r"conditions\.npy is damaged"):
        read(cache)


@every_row("content", ["[]", "null", '{"bytes": 1}', "[" * 100_000])
def test_facts_of_a_shard_that_are_none_make_it_missing(tmp_path, content):
    cache = make(tmp_path)
    (cache / "shard_00003.json").write_text(content)
    assert missing_shards(cache, spec()) == [3]
    with pytest.raises(ValueError, match=r"1 of 5 shards .* shard_00003\.npy"):
        read(cache)


@every_row("where", ["nowhere", "."])
def test_no_cache_there(tmp_path, where):
    with pytest.raises(ValueError, match=r"data\.root is .* holds no latent cache .*`python -m make` makes one"):
        read(tmp_path / where)


def test_flip_needs_both_mirrors(tmp_path):
    one = Source(SOURCE.read, lambda media: encode(media)[:, :1], SOURCE.name)
    root = make(tmp_path / "one", source=one, mirrors=1)
    assert torch.equal(read(root, flip=False).item(4, numpy_rng(0))["media"], moments(4, 0))
    with pytest.raises(ValueError, match=r"data\.flip is true.*holds no mirrored latents; allowed there: false"):
        read(root)


@every_row(
    ("value", "dtype", "message"),
    [
        (float("nan"), "float32", r"number 13 \(row 13\): .*not finite"),
        (float("inf"), "float16", r"number 13 \(row 13\): .*not finite"),
        (7e4, "float16", r"number 13 \(row 13\): its latents reach 70000, too large for dtype=float16; .*float32"),
    ],
)
def test_latents_that_cannot_be_kept_name_their_sample(tmp_path, value, dtype, message):
    def broken(media):
        return torch.where((media == 13)[:, :, None, None, None], value, encode(media))

    root = tmp_path / f"{value} {dtype}"
    with pytest.raises(ValueError, match=message):
        make(root, source=Source(SOURCE.read, broken, SOURCE.name), dtype=dtype)
    assert missing_shards(root, spec(dtype=dtype)) == [2, 3, 4]
    assert not list(root.glob(".*"))


def test_an_error_of_the_data_comes_as_it_was_from_a_worker(tmp_path):
    def unreadable(row):
        raise ValueError(f"broken image {row}.png")

    with pytest.raises(ValueError, match=r"^broken image \d\.png$"):
        make(tmp_path / "bad", source=Source(unreadable, encode, str), num_workers=1)


def test_a_killed_worker_is_one_error(tmp_path):
    def fatal(row):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(LoaderError, match=r"killed .*the same command continues"):
        make(tmp_path / "bad", source=Source(fatal, encode, str), num_workers=1)


def test_a_disk_that_lies_is_noticed(cache, monkeypatch):
    (cache / "shard_00001.json").unlink()
    monkeypatch.setattr("core.latents.writer.sha256_file", lambda path: "0" * 64)
    monkeypatch.setattr("core.latents.writer.same_array", lambda file, facts: True)
    with pytest.raises(OSError, match="reads back differently"):
        make(cache)
    assert missing_shards(cache, spec()) == [1]

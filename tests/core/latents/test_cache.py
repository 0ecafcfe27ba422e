"""Latent caches on real files: whole or absent, continued after anything, read as the data set that was encoded."""

import json
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.stream import SampleStream, StepPositions, fingerprint, step_batches
from core.draws import numpy_rng
from core.latents.cache import CacheSpec, LatentShards, array_facts, damaged_files, missing_shards
from core.latents.writer import LatentWriter, Source, encode_shards
from core.processes.failures import LoaderError
from tests.rows import every_row

ROWS, PER_SHARD, LATENT = 23, 5, (2, 3)
MAKE = "python -m make"


def moments(row, mirror):
    """(2, *LATENT) that tell row and mirror."""
    return torch.arange(12, dtype=torch.float32).reshape(2, *LATENT) / 8 + row + 100 * mirror


class Numbers:
    """The data set that is encoded: row i is a number, its mirror image is its negative."""

    media_shape = (1,)
    class_names = ("a", "b", "c")
    labels = torch.arange(ROWS) % 3

    def __len__(self):
        return ROWS

    def read(self, row):
        return torch.tensor([float(row)])

    def item(self, index, rng):
        """What a run that encodes by itself would get, as moments."""
        return {"media": moments(index, int(rng.random() < 0.5)), "condition": int(self.labels[index])}


def encode(media):
    """(B, 1) -> (B, 2, 2, *LATENT)."""
    rows = [torch.stack([moments(int(row), mirror) for mirror in (0, 1)]) for row in media[:, 0]]
    return torch.stack(rows)


SOURCE = Source(Numbers().read, encode, lambda row: f"number {row}")


def spec(**changes):
    values = {
        "kind": "number",
        "rows": ROWS,
        "rows_per_shard": PER_SHARD,
        "mirrors": 2,
        "latent_shape": LATENT,
        "media_shape": (1,),
        "dtype": "float32",
        "class_names": ["a", "b", "c"],
        "conditions": array_facts(Numbers.labels.numpy()),
        "data": fingerprint(Numbers()),
        "transform": {"size": 1},
        "tokenizer": {"scale": 0.5, "sha256": "abc"},
    }
    return CacheSpec(**{**values, **changes})


def writer(root, part=(0, 1), **changes):
    return LatentWriter(root, spec(**changes), {"conditions": Numbers.labels.numpy()}, {"path": "x"}, part)


def make(root, part=(0, 1), source=SOURCE, stop_after=None, num_workers=0, **changes):
    """Write a cache, or the part of it, and give up after `stop_after` batches."""
    own = writer(root, part, **changes)
    for number, _ in enumerate(encode_shards(own, own.missing(), source, 2, num_workers), start=1):
        if number == stop_after:
            break
    return root


def read(root, flip=True):
    return LatentShards(root, kind="number", flip=flip, make_command=MAKE)


def files(root):
    return {file.name: file.read_bytes() for file in sorted(root.iterdir())}


@pytest.fixture
def cache(tmp_path):
    return make(tmp_path / "cache")


# --- reading


def test_every_row_and_mirror_is_read_back(cache):
    data = read(cache)
    seen = set()
    for index in range(ROWS):
        for seed in range(12):
            item = data.item(index, numpy_rng(seed))
            mirror = int(numpy_rng(seed).random() < 0.5)
            assert torch.equal(item["media"], moments(index, mirror))
            assert item["condition"] == index % 3
            seen.add(mirror)
    assert seen == {0, 1}
    assert len(data) == ROWS and data.media_shape == (1,) and data.class_names == ["a", "b", "c"]


def test_without_flip_nothing_is_drawn(cache):
    rng, untouched = numpy_rng(3), numpy_rng(3)
    assert torch.equal(read(cache, flip=False).item(7, rng)["media"], moments(7, 0))
    assert rng.random() == untouched.random()


@every_row("num_workers", [0, 2])
def test_the_batches_are_those_of_the_data_set_that_was_encoded(cache, num_workers):
    positions = StepPositions(1, 9, 6, (0, 6))
    ours = list(step_batches(read(cache), 5, positions, num_workers, pin=False))
    theirs = list(step_batches(Numbers(), 5, positions, 0, pin=False))
    assert len(ours) == len(theirs) == 8
    for a, b in zip(ours, theirs, strict=True):
        for name in ("media", "condition", "index"):
            one, other = getattr(a, name), getattr(b, name)
            assert one.dtype == other.dtype and torch.equal(one, other)


def test_a_batch_at_once_is_the_samples_one_by_one(cache):
    stream, positions = SampleStream(read(cache), 2), [3, 40, 41, 22, 23]
    together = stream.__getitems__(positions)
    for row, position in enumerate(positions):
        one = stream[position]
        assert torch.equal(together.media[row], one["media"])
        assert together.condition[row] == one["condition"] and together.index[row] == one["index"]


def test_it_travels_to_a_worker_without_its_maps(cache):
    data = read(cache)
    data.item(0, numpy_rng(0))
    copy = pickle.loads(pickle.dumps(data))
    assert not copy._shards and len(pickle.dumps(data)) < 20_000
    assert torch.equal(copy.item(9, numpy_rng(1))["media"], data.item(9, numpy_rng(1))["media"])


def test_a_row_is_named_by_its_shard_and_the_fingerprint_is_that_of_the_data_set(cache):
    assert read(cache).name(12) == f"{cache / 'shard_00002.npy'}, row 2"
    assert fingerprint(read(cache)) == fingerprint(Numbers()) == json.loads(json.dumps(fingerprint(Numbers())))


@every_row("change", ["labels", "class_names", "length"])
def test_a_fingerprint_tells_data_sets_apart(change):
    class Other(Numbers):
        labels = Numbers.labels.flip(0) if change == "labels" else Numbers.labels
        class_names = ("a", "b", "d") if change == "class_names" else Numbers.class_names

        def __len__(self):
            return ROWS - (change == "length")

    assert fingerprint(Other()) != fingerprint(Numbers())


def test_float16_keeps_three_digits(tmp_path):
    data = read(make(tmp_path / "half", dtype="float16"), flip=False)
    media = data.item(11, numpy_rng(0))["media"]
    assert media.dtype == torch.float16
    torch.testing.assert_close(media.float(), moments(11, 0), rtol=2**-11, atol=0)


# --- writing


def test_a_cache_is_complete_and_nothing_else(cache):
    names = ["conditions.npy", "manifest.json"] + [
        f"shard_0000{k}.{kind}" for k in range(5) for kind in ("json", "npy")
    ]
    assert sorted(files(cache)) == sorted(names)
    assert missing_shards(cache, spec()) == [] and damaged_files(cache, spec(), range(5)) == []
    assert np.load(cache / "shard_00004.npy").shape == (3, 2, 2, *LATENT)
    assert json.loads((cache / "manifest.json").read_text())["notes"] == {"path": "x"}


@every_row("stop_after", [1, 3, 4, 9])
def test_an_interrupted_one_is_continued(cache, tmp_path, stop_after):
    root = make(tmp_path / f"again {stop_after}", stop_after=stop_after)
    assert len(missing_shards(root, spec())) == 5 - (stop_after - 1) // 3  # three batches a shard
    assert files(make(root)) == files(cache)


def test_what_is_there_is_not_written_again(cache):
    before = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    make(cache, source=Source(None, None, None))
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == before


def test_several_processes_and_their_workers_write_the_same_files(cache, tmp_path):
    for k in (2, 0, 1):
        make(tmp_path / "parts", part=(k, 3), num_workers=2 * (k == 0))
    assert files(tmp_path / "parts") == files(cache)


@every_row("name", ["shard_00001.npy", "shard_00001.json", "conditions.npy"])
@every_row("damage", ["missing", "cut"])
def test_a_lost_or_cut_file_is_written_again(cache, name, damage):
    before = files(cache)
    content = (cache / name).read_bytes()
    (cache / name).unlink()
    if damage == "cut":
        (cache / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"missing or (cut off|damaged).*same `python -m make \.\.\.`"):
        read(cache)
    make(cache)
    assert files(cache) == before


def test_left_overs_of_dead_processes_go_and_those_of_living_ones_stay(cache):
    from core.latents.writer import _locked_file

    dead = cache / ".shard_00002.npy.0123abcd.tmp"
    foreign = cache / ".notes.tmp"
    others = cache / ".shard_00001.npy.0123abcd.tmp"
    for file in (dead, foreign, others):
        file.write_bytes(b"torn")
    living = _locked_file(cache / "shard_00002.npy")
    writer(cache, part=(0, 2))
    assert not dead.exists() and foreign.exists() and others.exists() and Path(living.name).exists()
    living.close()


def test_a_killed_process_leaves_a_cache_that_is_continued(cache, tmp_path):
    root = tmp_path / "killed"

    def slow(media):
        time.sleep(0.03)
        return encode(media)

    process = multiprocessing.get_context("fork").Process(
        target=make, args=(root,), kwargs={"source": Source(SOURCE.read, slow, SOURCE.name)}
    )
    process.start()
    while not (root / "shard_00001.json").exists() and process.is_alive():
        time.sleep(0.005)
    process.kill()
    process.join()
    assert 0 < len(missing_shards(root, spec())) < 5
    assert files(make(root)) == files(cache)


# --- what is refused


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

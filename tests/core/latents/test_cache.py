"""Latent caches on real files: whole or absent, continued after anything, read as the data set that was encoded."""

import json
import multiprocessing
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.stream import SampleStream, StepPositions, fingerprint, step_batches
from core.draws import numpy_rng
from core.latents.cache import damaged_files, missing_shards
from core.latents.writer import Source
from tests.core.latents.caches import (
    LATENT,
    ROWS,
    SOURCE,
    Numbers,
    encode,
    files,
    make,
    moments,
    read,
    spec,
    writer,
)
from tests.rows import every_row

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

"""Features beside the latents of a cache: of every view, added later, continued, and known by who made them."""

import json

import pytest
import torch

from core.data.stream import SampleStream
from core.draws import numpy_rng
from core.latents.cache import StoredFeatures, damaged_files, missing_shards
from core.latents.features import cached_encoder, check_cached
from core.latents.writer import Source, encode_shards
from image.train import ENTRY as TRAIN
from tests.core.latents.caches import PER_SHARD, ROWS, SOURCE, files, make, moments, read, spec, writer

SHAPE = (3, 2)
STORED = StoredFeatures("eye", "abc", SHAPE, "float16")


def of(row, mirror):
    """(3, 2) that tell row and mirror."""
    return torch.arange(6.0).reshape(SHAPE) + 8 * row + mirror / 2


def features(media, rows):
    """(B, 1) -> (B, 2, 3, 2), of the rows that the media name."""
    assert media[:, 0].tolist() == list(rows)
    return torch.stack([torch.stack([of(row, mirror) for mirror in (0, 1)]) for row in rows])


SEEING = Source(SOURCE.read, SOURCE.encode, SOURCE.name, features)


def fill(root, source=SEEING, stop_after=None, stored=STORED):
    return make(root, source=source, stop_after=stop_after, features=stored)


def sha256(name):
    """Of the files that a name means."""
    return {"here": "abc"}.get(name.partition(":")[2], "xyz")


def test_an_item_has_the_features_of_its_own_mirror_once_they_are_asked_for(tmp_path):
    data, seen = read(fill(tmp_path / "cache")), set()
    assert "features" not in data.item(3, numpy_rng(0))
    encoder = cached_encoder("eye:here", data, sha256)
    assert (encoder.width, encoder.flops) == (3, 0)
    for index in range(ROWS):
        mirror = int(numpy_rng(index).random() < 0.5)
        item = data.item(index, numpy_rng(index))
        assert torch.equal(item["media"], moments(index, mirror)) and item["features"].dtype == torch.float16
        assert torch.equal(item["features"].float(), of(index, mirror))
        seen.add(mirror)
    assert seen == {0, 1}
    stream = SampleStream(data, 2)
    batch = stream.__getitems__([3, 40, 5])
    assert torch.equal(encoder(batch)[1:2], stream[40]["features"][None]) and len(encoder(batch[:2])) == 2
    data.with_features = False
    with pytest.raises(ValueError, match="these rows have none"):
        encoder(stream.__getitems__([3]))


def test_they_are_added_to_a_cache_whose_latents_stay(tmp_path):
    whole = files(fill(tmp_path / "at once"))
    root = make(tmp_path / "later")
    before = {file: file.stat().st_mtime_ns for file in root.glob("shard_*")}
    fill(root, Source(SOURCE.read, None, SOURCE.name, features))
    assert {file: file.stat().st_mtime_ns for file in root.glob("shard_*")} == before
    assert files(root) == whole
    with pytest.raises(ValueError, match=r"another features\.sha256 \('abc', now 'xyz'\)"):
        fill(root, stored=StoredFeatures("eye", "xyz", SHAPE, "float16"))
    with pytest.raises(ValueError, match=r"another features"):
        writer(root)
    assert files(root) == whole


def test_what_was_interrupted_lost_or_spoilt_is_written_again(tmp_path):
    whole = files(fill(tmp_path / "whole"))
    root = fill(tmp_path / "cache", stop_after=4)
    assert len(missing_shards(root, spec(features=STORED))) == 4 and not list(root.glob(".*.tmp"))
    assert files(fill(root)) == whole
    (root / "features_00001.npy").unlink()
    with pytest.raises(ValueError, match=r"1 of 5 shards .*missing or cut off"):
        read(root)
    own = writer(root, features=STORED)
    assert [part.stem for part in own.lacking(1)] == ["features"]
    assert sum(encode_shards(own, own.missing(), SEEING, 2, 0)) == PER_SHARD and files(root) == whole
    content = bytearray((root / "features_00002.npy").read_bytes())
    content[-3] ^= 1
    (root / "features_00002.npy").write_bytes(content)
    assert damaged_files(root, spec(features=STORED), range(5)) == [root / "features_00002.npy"]


def test_another_encoder_and_a_cache_without_features_are_refused(tmp_path):
    bare, root = make(tmp_path / "bare"), fill(tmp_path / "cache")
    check_cached("eye:here", str(root))
    check_cached("eye:here", str(tmp_path / "nowhere"))  # which is said when it is opened
    for name, where, message in (
        ("eye:here", bare, "encoder is 'eye:here', which sees media, .*latents alone; .* encoder=eye:here"),
        ("ear:here", root, "encoder is 'ear:here', but the features of the cache .* are of eye; allowed: eye"),
    ):
        with pytest.raises(ValueError, match=message):
            check_cached(name, str(where))
        with pytest.raises(ValueError, match=message):
            cached_encoder(name, read(where), sha256)
    with pytest.raises(ValueError, match=r"have SHA-256 xyz, but the features of the cache .* with abc; allowed"):
        cached_encoder("eye:elsewhere", read(root), sha256)


def test_a_run_on_a_cache_without_features_is_refused_when_its_config_is_read(tmp_path):
    words = ["data=latents", f"data.root={make(tmp_path / 'bare')}", "tokenizer=conv_kl", "evaluation=none"]
    words += ["alignment=external", "alignment.layer=1"]
    with pytest.raises(ValueError, match=r"alignment\.encoder is 'dinov2:x', which sees media, .*latents alone"):
        TRAIN.config([*words, "alignment.encoder=dinov2:x"])
    with pytest.raises(ValueError, match=r"alignment\.encoder is 'clap:x'; allowed: dinov2:<folder>"):
        TRAIN.config([*words, "alignment.encoder=clap:x"])


def test_features_that_cannot_be_kept_name_their_sample_and_a_manifest_that_lies_is_refused(tmp_path):
    def broken(media, rows):
        return torch.where(torch.tensor(rows)[:, None, None, None] == 13, 7e4, features(media, rows))

    with pytest.raises(ValueError, match=r"\(row 13\): its features reach 70000, too large for dtype=float16"):
        fill(tmp_path / "bad", Source(SOURCE.read, SOURCE.encode, SOURCE.name, broken))
    other = Source(SOURCE.read, SOURCE.encode, SOURCE.name, lambda media, rows: features(media, rows)[..., :1])
    with pytest.raises(ValueError, match=r"number 0 gives \(2, 3, 1\) for features, not \(2, 3, 2\)"):
        fill(tmp_path / "other", other)
    root = fill(tmp_path / "cache")
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps(manifest | {"features": manifest["features"] | {"shape": [0]}}))
    with pytest.raises(ValueError, match=r"manifest\.json is damaged: .*features\.shape\[0\] is 0"):
        read(root)

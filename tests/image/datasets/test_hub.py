"""Parquet shards as the hub lays them out: the same images as in folders, and what is refused."""

import logging
import pickle
import socket
import sys

import numpy as np
import pytest
import torch

from core.draws import numpy_rng
from image.datasets.files import ParquetConfig
from tests.image.pictures import SIZE, bytes_of, encoded, folder, picture, truncated_jpeg, write


@pytest.fixture
def hub(tmp_path):
    """`hub(name, rows, labels)` writes one shard as the hub does, with ClassLabel names or (None) bare numbers."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    def shard(name, images, labels, names=("tench", "goldfish", "shark")):
        path = tmp_path / ".hub [1]" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"bytes": data, "path": f"{name}_{i}.JPEG"} for i, data in enumerate(images)]
        if names is None:
            pq.write_table(pa.table({"image": rows, "label": labels}), path)
        else:
            features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
            table = datasets.Dataset.from_dict({"image": rows, "label": labels}, datasets.Features(features))
            table.to_parquet(path)
        return path

    shard.config = lambda **options: ParquetConfig(
        root=str(tmp_path / ".hub [1]"),
        **{"size": SIZE, "flip": False, "cache_dir": str(tmp_path / ".arrow"), **options},
    )
    return shard


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_parquet_shards_of_a_split(hub, no_network):
    hub("train-00000-of-00002.parquet", [encoded(picture(seed=i)) for i in range(3)], [2, 0, 1])
    hub("train-00001-of-00002.parquet", [encoded(picture(40, 60, seed=3), "JPEG")], [2])
    hub("validation-00000-of-00001.parquet", [encoded(picture(seed=8))], [1])
    data = hub.config().build()
    assert data.class_names == ["tench", "goldfish", "shark"]
    assert data.labels.tolist() == [2, 0, 1, 2] and data.media_shape == (3, SIZE, SIZE)
    assert all(np.array_equal(bytes_of(data.pixels(index)), picture(seed=index)) for index in range(3))
    assert data.item(3, numpy_rng(0))["condition"] == 2
    assert data.name(3).endswith("train-00001-of-00002.parquet, row 0")
    assert torch.equal(pickle.loads(pickle.dumps(data)).pixels(3), data.pixels(3))
    validation = hub.config(split="validation", flip=True, channels=1).build()
    assert len(validation) == 1 and validation.pixels(0).shape == (1, SIZE, SIZE)
    assert torch.equal(validation.pixels(0, mirror=True), validation.pixels(0).flip(-1))


def test_parquet_equals_the_same_files_in_folders(hub, two_classes):
    files = sorted((two_classes / "cat").rglob("*.*")) + sorted((two_classes / "dog").glob("n02*"))
    hub("train-0.parquet", [path.read_bytes() for path in files], [0, 0, 0, 1, 1], names=["cat", "dog"])
    shards, folders = hub.config().build(), folder(two_classes)
    assert shards.labels.tolist() == folders.labels.tolist() and shards.class_names == folders.class_names
    assert all(torch.equal(shards.pixels(index), folders.pixels(index)) for index in range(5))


@pytest.mark.parametrize("labels", [[70, 3, 70], ["b", "a", "b"]])
def test_parquet_without_class_names_takes_the_distinct_labels(hub, labels):
    hub("train.parquet", [encoded(picture())] * 3, labels, names=None)
    data = hub.config().build()
    assert data.class_names == [str(label) for label in sorted(set(labels))]
    assert data.labels.tolist() == [1, 0, 1] and data.labels.dtype == torch.int64


def test_parquet_broken_rows(hub, caplog):
    good = encoded(picture())
    hub("train-0.parquet", [good, good], [0, 1], names=None)
    path = hub("train-1.parquet", [truncated_jpeg(), good, None], [0, 1, 2], names=None)
    data = hub.config().build()
    with pytest.raises(ValueError, match=r"train-1\.parquet, row 0 \(index 2\)"):
        data.item(2, numpy_rng(0))
    with pytest.raises(ValueError, match=r"row 2 \(index 4\): the row holds no bytes"):
        data.pixels(4)
    hub("train-1.parquet", [good, truncated_jpeg(), good], [0, 1, 2], names=None)
    with caplog.at_level(logging.WARNING, logger="image.data"):
        kept = hub.config(max_broken=1).build()
    assert kept.num_broken == 1 and kept.labels.tolist() == [0, 1, 0, 2]
    assert f"{path}, row 1" in caplog.text


def test_parquet_layouts_that_are_refused(hub, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = encoded(picture())
    path = hub("train.parquet", [good], [0])
    with pytest.raises(ValueError, match=r"data\.root is .* data\.split is 'val': no file val\*\.parquet"):
        hub.config(split="val").build()
    hub("hidden-labels.parquet", [good], [-1])
    with pytest.raises(ValueError, match=r"'label' holds -1 .* allowed: 0\.\.2"):
        hub.config(split="hidden").build()
    hub("empty-rows.parquet", [good, good], [1, None], names=None)
    with pytest.raises(ValueError, match="a class in every row"):
        hub.config(split="empty").build()
    pq.write_table(pa.table({"img": [good]}), path.with_name("odd.parquet"))
    with pytest.raises(ValueError, match=r"lacks the columns \['image', 'label'\]"):
        hub.config(split="odd").build()
    write(path.with_name("cut.parquet"), path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"damaged parquet file .*cut\.parquet"):
        hub.config(split="cut").build()


def test_parquet_without_the_extra_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'layersync\[hf\]'") as caught:
        ParquetConfig(root=str(tmp_path)).build()
    assert "\n" not in str(caught.value)

"""Parquet shards of other layouts than the hub's, and damaged ones: one line with the file and the column."""

import io
import json
from itertools import count

import numpy as np
import pytest
from PIL import Image

from image.datasets.files import ParquetConfig
from tests.rows import every_row

SIDE = 4
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("datasets")


def png(seed=0):
    """The bytes of a small picture."""
    buffer = io.BytesIO()
    array = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


ROWS = [{"bytes": png(0), "path": "0.png"}, {"bytes": png(1), "path": "1.png"}]
OTHER_PATH = {"bytes": None, "path": "/maker/0.png"}


@pytest.fixture
def built(tmp_path):
    """`built(table, ...)` writes each table as a shard and builds the data set over all of them."""
    numbers = count()

    def build(*tables, **options):
        root = tmp_path / str(next(numbers))
        root.mkdir()
        for number, table in enumerate(tables):
            file = root / f"train-{number}.parquet"
            file.write_bytes(table) if isinstance(table, bytes) else pq.write_table(table, file)
        return ParquetConfig(str(root), SIDE, flip=False, cache_dir=str(tmp_path / "arrow"), **options).build()

    return build


def table(labels, images=ROWS, **more):
    """A table of two columns and more."""
    return pa.table({"image": images, "label": labels, **more})


def written(content):
    """The bytes of a table's file."""
    sink = io.BytesIO()
    pq.write_table(content, sink)
    return sink.getvalue()


def damaged():
    """A shard whose footer is whole and whose pages are not."""
    data = bytearray(written(table([0, 1])))
    data[4:200] = bytes(196)
    return bytes(data)


TWICE = pa.Table.from_arrays([pa.array(ROWS), pa.array([0, 1]), pa.array([0, 1])], names=["image", "label", "label"])
LINES = [
    (table([{"a": 1}] * 2), r"train-0\.parquet: column 'label' holds struct<a: int64>; needed: .* integer or a text"),
    (table([[1], [2]]), r"train-0\.parquet: column 'label' holds list"),
    (table([0.0, 1.0]), r"train-0\.parquet: column 'label' holds double"),
    (table([b"a", b"b"]), r"train-0\.parquet: column 'label' holds binary"),
    (table(pa.nulls(2)), r"train-0\.parquet: column 'label' holds null"),
    (table([0, None]), r"train-0\.parquet, row 1: column 'label' is empty"),
    (table(["a", None]), r"train-0\.parquet, row 1: column 'label' is empty"),
    (table([0, 1], [3, 4]), r"train-0\.parquet: column 'image' holds int64; needed: bytes, or a struct"),
    (table([0, 1], ["0.png", "1.png"]), r"train-0\.parquet: column 'image' holds string"),
    (table([0, 1], [{"path": "0.png"}] * 2), r"train-0\.parquet: column 'image' holds struct<path: string>"),
    (pa.table({"image": ROWS}), r"train-0\.parquet lacks the columns \['label'\]"),
    (TWICE, r"train-0\.parquet has more than one column 'label'"),
    (damaged(), r"damaged parquet file .*train-0\.parquet: \w"),
    (b"", r"damaged parquet file .*train-0\.parquet: \w"),
    (b"PAR1-----PAR1", r"damaged parquet file .*train-0\.parquet: \w"),
    (table([0, 1]).replace_schema_metadata({"huggingface": "{"}), r"the shards .*train-0\.parquet .* cannot be read"),
]


def test_other_layouts_and_damage_are_one_line_each(built):
    for content, line in LINES:
        with pytest.raises(ValueError, match=line) as caught:
            built(content)
        assert "\n" not in str(caught.value)


@every_row(
    ("second", "line"),
    [
        (table(["a", "b"]), r"train-1\.parquet: column 'label' holds texts, that of .*train-0\.parquet numbers"),
        (table([0, 1], more=[1, 2]), r"cannot be read together: .*column names"),
        (damaged(), r"damaged parquet file .*train-1\.parquet"),
    ],
)
def test_shards_that_do_not_go_together(built, second, line):
    with pytest.raises(ValueError, match=line) as caught:
        built(table([0, 1]), second)
    assert "\n" not in str(caught.value)


def test_a_number_is_the_same_class_in_all_shards(built):
    def named(*names):
        feature = {"names": names, "_type": "ClassLabel"}
        facts = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
        return table([0, 1]).replace_schema_metadata({"huggingface": json.dumps(facts)})

    assert built(named("cat", "dog"), named("cat", "dog"), table([1, 0])).class_names == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"train-1\.parquet: class 0 is 'dog', in .*train-0\.parquet it is 'cat'"):
        built(named("cat", "dog"), named("dog", "cat"))
    with pytest.raises(ValueError, match=r"train-1\.parquet names 3 classes, .*train-0\.parquet 2"):
        built(named("cat", "dog"), named("cat", "dog", "emu"))


def test_a_shard_without_rows_is_passed_over(built):
    first, empty = table([5, 3]), table([5, 3]).slice(0, 0)
    data = built(empty, first, empty, table([3, 5]))
    assert data.labels.tolist() == [1, 0, 0, 1] and data.class_names == ["3", "5"]
    assert data.name(2).endswith("train-3.parquet, row 0")


def test_rows_without_bytes_are_broken_images(built):
    images = [ROWS[0], None, OTHER_PATH]
    with pytest.raises(ValueError, match=r"broken image .*train-0\.parquet, row 1 \(index 1\): the row holds no bytes"):
        built(table([0, 0, 0], images)).pixels(1)
    assert built(table([0, 0, 0], images), max_broken=2).num_broken == 2


def test_images_as_bare_bytes_and_labels_of_any_integers_or_texts_are_read(built):
    bare = [row["bytes"] for row in ROWS]
    expected = built(table([0, 1])).pixels(1)
    for labels, names in (
        (pa.array([9, 2], pa.int8()), ["2", "9"]),
        (pa.array(["2", "10"]), ["10", "2"]),
        (pa.array(["b", "a"]).dictionary_encode(), ["a", "b"]),
    ):
        data = built(table(labels, bare))
        assert data.class_names == names and data.labels.tolist() == [1, 0]
        assert data.pixels(1).equal(expected)

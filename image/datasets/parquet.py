"""Rows of parquet shards, as the hub stores ImageNet, read through the `datasets` library.

Letters: n rows.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.data.files import files_under
from core.extras import extra

COLUMNS = ("image", "label")


class ParquetSource:
    """Rows of parquet shards, read through the `datasets` library from its memory-mapped Arrow copy.

    Classes are the names of the ClassLabel feature. Without one they are the distinct labels, sorted, so that two
    splits agree only where both hold every label. Raises ValueError, naming the file, for shards that are missing,
    damaged or laid out otherwise, ImportError without the `hf` extra.
    """

    def __init__(self, root: Path, split: str, cache_dir: str | None = None):
        datasets = extra("datasets", "data.name=parquet", "hf")
        pattern = f"{split}*.parquet"
        paths = [path for path in files_under(root, (".parquet",)) if fnmatch.fnmatch(path.name, pattern)]
        facts = [(path, *_facts(path)) for path in paths]
        facts = [(path, rows, kind) for path, rows, kind in facts if rows]  # the library fails at a shard without rows
        if not facts:
            raise ValueError(f"data.root is {str(root)!r}, data.split is {split!r}: no file {pattern} with rows there")
        for path, _, kind in facts:
            if kind != facts[0][2]:
                raise ValueError(f"{path}: column 'label' holds {kind}, that of {facts[0][0]} {facts[0][2]}")
        _check_names([path for path, _, _ in facts])
        self._shards = [path for path, _, _ in facts]
        self._first_rows = np.cumsum([0, *(rows for _, rows, _ in facts)])
        table = _loaded(datasets, self._shards, cache_dir)
        self._images = table.select_columns("image").cast_column("image", datasets.Image(decode=False))
        feature = table.features["label"]
        names = feature.names if isinstance(feature, datasets.ClassLabel) else None
        self.class_names, self.labels = _classes(table.data.column("label"), names, self.where)

    def read(self, row: int) -> bytes:
        """The bytes in a row; ValueError for a row that holds none, or only a path on its maker's machine."""
        image = self._images[row]["image"]
        if not image or not image["bytes"]:
            raise ValueError("the row holds no bytes")
        return image["bytes"]

    def where(self, row: int) -> str:
        """The shard and the row within it, from 0."""
        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return f"{self._shards[shard]}, row {row - self._first_rows[shard]}"


def _facts(shard: Path) -> tuple[int, str]:
    """Number of rows, and what the labels are; ValueError for a shard that is damaged or laid out otherwise."""
    from pyarrow import parquet  # comes with `datasets`

    with _Damage(shard):
        metadata = parquet.read_metadata(shard)
        schema = metadata.schema.to_arrow_schema()
    missing = sorted(set(COLUMNS) - set(schema.names))
    if missing:
        raise ValueError(f"{shard} lacks the columns {missing}; needed: {' and '.join(COLUMNS)}")
    twice = [name for name in COLUMNS if schema.names.count(name) > 1]
    if twice:
        raise ValueError(f"{shard} has more than one column {twice[0]!r}")
    image, label = (schema.field(name).type for name in COLUMNS)
    if not _holds_bytes(image):
        raise ValueError(f"{shard}: column 'image' holds {image}; needed: bytes, or a struct with a field 'bytes'")
    return metadata.num_rows, _kind_of_labels(label, shard)


def _check_names(shards: Sequence[Path]) -> None:
    """Raise ValueError for shards of which one number is another class: the library takes the names of the first."""
    named = [(shard, names) for shard in shards if (names := _names(shard))]
    for shard, names in named[1:]:
        first, wanted = named[0]
        place = next((place for place, (a, b) in enumerate(zip(names, wanted, strict=False)) if a != b), None)
        if place is not None:
            found = f"class {place} is {names[place]!r}, in {first} it is {wanted[place]!r}"
            raise ValueError(f"{shard}: {found}; the shards of a split have the same classes")
        if len(names) != len(wanted):
            raise ValueError(f"{shard} names {len(names)} classes, {first} {len(wanted)}")


def _names(shard: Path) -> list[str] | None:
    """The names of the classes that the library wrote into a shard, None where there are none."""
    from pyarrow import parquet

    written = (parquet.read_schema(shard).metadata or {}).get(b"huggingface", b"{}")
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):  # damaged: told when it is loaded
        return list(json.loads(written)["info"]["features"]["label"]["names"])
    return None


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_bytes(kind.field(place).type)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _kind_of_labels(kind: Any, shard: Path) -> str:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_integer(kind) or types.is_boolean(kind):
        return "numbers"
    if types.is_string(kind) or types.is_large_string(kind):
        return "texts"
    raise ValueError(f"{shard}: column 'label' holds {kind}; needed: a class in every row, an integer or a text")


class _Damage:
    """What Arrow raises within says which shard is damaged: ValueError; the disk's own errors stay what they are."""

    def __init__(self, shard: Path):
        self.shard = shard

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from pyarrow import ArrowException

        if isinstance(error, ArrowException) or (isinstance(error, OSError) and error.errno is None):
            raise ValueError(f"damaged parquet file {self.shard}: {_line(error)}") from error


def _loaded(datasets: Any, shards: Sequence[Path], cache_dir: str | None) -> Any:
    """The shards as one table of the library; ValueError, naming the file where one can be told, for damaged ones."""
    from pyarrow import ArrowException

    names = [glob.escape(str(shard)) for shard in shards]  # the library reads its paths as patterns
    try:
        return datasets.load_dataset("parquet", data_files=names, split="train", cache_dir=cache_dir)
    except (datasets.exceptions.DatasetsError, ArrowException, LookupError, TypeError, ValueError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno is not None:
            raise cause from error
        for shard in shards:
            _read_through(shard)
        raise ValueError(f"the shards {shards[0]} ... cannot be read together: {_line(cause)}") from error


def _read_through(shard: Path) -> None:
    from pyarrow import parquet

    with _Damage(shard), parquet.ParquetFile(shard) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(group)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _classes(column: Any, names: list[str] | None, where: Callable[[int], str]) -> tuple[list[str], np.ndarray]:
    """Class names and labels (n,) int64 from an Arrow column of numbers, which may have `names`, or of strings."""
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise ValueError(f"{where(row)}: column 'label' is empty; needed: a class in every row")
    values = column.to_numpy()
    if names is None:
        distinct, labels = np.unique(values, return_inverse=True)
        return [str(name) for name in distinct], labels.astype(np.int64)
    outside = np.flatnonzero((values < 0) | (values >= len(names)))
    if len(outside):
        found = f"{where(int(outside[0]))}: column 'label' holds {values[outside[0]]}"
        raise ValueError(f"{found} (no labels published?); allowed: 0..{len(names) - 1}")
    return list(names), values.astype(np.int64)

"""Pickles that others published, of plain values and NumPy's arrays: nothing in them is executed.

What is read are numbers, texts, lists, tuples, dicts and arrays; a file that names any other object is refused. Raised
is ValueError, naming the file.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import IO, Any

import numpy as np

from core.storage.arrays import DAMAGE, HEADERS

ARRAYS = re.compile(r"numpy(\._?core)?(\.multiarray|\.numeric)?")  # modules of the names below, old and new
PLAIN, WITH_ARRAYS = frozenset(), frozenset({"_reconstruct", "ndarray", "dtype", "scalar"})


def read_pickle(path: Path) -> Any:
    """A pickle of plain values: lists and dicts of texts and numbers."""
    return _read(path, lambda file: _Unpickler(file, PLAIN).load())


def read_object_array(path: Path) -> Any:
    """The one object in an .npy that holds a Python object, as `numpy.save(path, {...})` writes: a dict, say."""
    return _read(path, _object_of)


def _read(path: Path, read: Any) -> Any:
    if not path.is_file():
        raise ValueError(f"{path} is {'no file' if path.exists() else 'not there'}")
    try:
        with path.open("rb") as file:
            return read(file)
    except _ForeignError as error:
        raise ValueError(f"{path} is refused, it holds more than plain values: {error}") from None
    except (pickle.UnpicklingError, MemoryError, OSError, *DAMAGE) as error:
        raise ValueError(f"{path} is truncated or damaged: {error or type(error).__name__}") from error


def _object_of(file: IO[bytes]) -> Any:
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"its version is {version}; read are {', '.join(map(str, HEADERS))}")
    _, _, dtype = HEADERS[version](file)
    if not dtype.hasobject:
        raise ValueError(f"it is an array of {dtype}, no Python object")
    array = _Unpickler(file, WITH_ARRAYS).load()
    if not isinstance(array, np.ndarray) or array.size != 1:
        raise ValueError("it holds no single object")
    return array.reshape(-1)[0]


class _ForeignError(Exception):
    """A pickle names an object that is not read."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows no names but the given ones of NumPy's."""

    def __init__(self, file: IO[bytes], allowed: frozenset[str]):
        super().__init__(file, encoding="latin1")  # as arrays of Python 2 need
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the file stands for."""
        if name not in self.allowed or not ARRAYS.fullmatch(module):
            raise _ForeignError(f"{module}.{name}")
        if name == "_reconstruct":
            return _empty
        return np.ndarray if name == "ndarray" else np.dtype if name == "dtype" else _scalar

    def persistent_load(self, pid: Any) -> Any:
        """References to objects elsewhere are none of plain values."""
        raise _ForeignError(f"a reference {pid!r:.40}")


def _empty(kind: type, shape: tuple, dtype: Any) -> np.ndarray:
    """What NumPy's arrays begin as; the numbers follow and are held against the file's length."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise _ForeignError(f"an array that begins as {kind!r:.40} {shape!r:.40}")
    return np.ndarray(shape, np.dtype("b"))


def _scalar(dtype: np.dtype, content: bytes = b"") -> Any:
    """A number of NumPy's."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise _ForeignError(f"a number of {dtype!r:.40}")
    return np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, dtype, 1)[0]

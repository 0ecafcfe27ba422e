"""Arrays of an .npz, without reading what is not asked for, and with one error for a file that is damaged."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NPZ_ERRORS = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)


def npz_keys(path: Path) -> Sequence[str]:
    """Names of the arrays in an .npz; ValueError for a truncated or damaged file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except NPZ_ERRORS as error:
        raise _damaged(path, error) from error


def npz_array(path: Path, key: str) -> np.ndarray:
    """An array of an .npz, memory-mapped where it is stored uncompressed; ValueError for a damaged file or no such key.

    A zip's local header has 30 bytes, then name and extra field, whose lengths stand at its bytes 26 to 30.
    """
    if key not in npz_keys(path):
        raise ValueError(f"{path} has no {key}; it holds: {', '.join(npz_keys(path)) or 'nothing'}")
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            member = archive.getinfo(f"{key}.npy")
            if member.compress_type != zipfile.ZIP_STORED:
                with np.load(path, allow_pickle=False) as arrays:
                    return arrays[key]
            file.seek(member.header_offset + 26)
            lengths = np.frombuffer(file.read(4), dtype="<u2")
            file.seek(member.header_offset + 30 + int(lengths.sum()))
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = reader(file)
            if dtype.hasobject:
                raise ValueError(f"{key} holds Python objects, which are not read")
            if not all(shape):
                return np.empty(shape, dtype)
            order = "F" if fortran else "C"
            return np.memmap(path, dtype, "r", offset=file.tell(), shape=shape, order=order)
    except NPZ_ERRORS as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is truncated or damaged: {error}")

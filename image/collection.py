"""Images that are there already, to be measured: a folder of files or an .npz, read a batch at a time.

Letters: n images, B batch, H height, W width in pixels, C channels.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from core.checkpoint import sha256_file
from core.provenance import json_sha256
from image.data import IMAGE_SUFFIXES
from image.decode import decode_image

NPZ_ERRORS = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)
MAX_THREADS = 8


class Images:
    """n uint8 images in a fixed order.

    name    what to call them in an error and in a record
    kind    "folder", "npz", ...
    labels  (n,) int64, or None where they are not known
    """

    name: str
    kind: str
    labels: Tensor | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def rows(self, first: int, last: int) -> Tensor:
        """Images first <= i < last: (B, C, H, W) uint8; ValueError for a broken one or one of another size."""
        raise NotImplementedError

    @cached_property
    def sha256(self) -> str:
        """Hex, over all that is read."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What a record says of a reference."""
        return {"name": self.name, "kind": self.kind, "sha256": self.sha256, "num_samples": len(self)}


class FolderImages(Images):
    """Image files of one size at any depth below a folder, in the order of their paths, as RGB."""

    kind = "folder"

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        self.paths = [path for path in paths if not any(part[0] == "." for part in path.relative_to(folder).parts)]
        if not self.paths:
            raise ValueError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        self.size = self._read(self.paths[0]).shape

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, first: int, last: int) -> Tensor:
        """Decoded on several threads."""
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            images = list(pool.map(self._read, self.paths[first:last]))
        for path, image in zip(self.paths[first:last], images, strict=True):
            if image.shape != self.size:
                sizes = [f"{shape[1]}x{shape[0]}" for shape in (image.shape, self.size)]
                raise ValueError(f"{path} is {sizes[0]} pixels, {self.paths[0].name} is {sizes[1]}; all must be alike")
        return rearrange(torch.from_numpy(np.stack(images)), "b h w c -> b c h w")

    def _read(self, path: Path) -> np.ndarray:
        try:
            return np.array(decode_image(path.read_bytes(), 3))
        except ValueError as error:
            raise ValueError(f"broken image {path}: {error}") from error

    @cached_property
    def sha256(self) -> str:
        """Over every path below the folder and its file's SHA-256."""
        return json_sha256({str(path.relative_to(self.folder)): sha256_file(path) for path in self.paths})


class NpzImages(Images):
    """`arr_0` uint8 (n, H, W, C) of an .npz, as ADM's evaluator takes it, and labels in `arr_1` where it has them.

    An array that is not compressed stays on the disk and is read as it is needed.
    """

    kind = "npz"

    def __init__(self, path: Path):
        self.path, self.name = path, path.name
        self.array = npz_array(path, "arr_0")
        if self.array.dtype != np.uint8 or self.array.ndim != 4 or self.array.shape[-1] not in (1, 3):
            found = f"{self.array.dtype} {self.array.shape}"
            raise ValueError(f"arr_0 of {path} is {found}; needed: uint8 (n, height, width, 1 or 3)")
        if not len(self.array):
            raise ValueError(f"arr_0 of {path} holds no image")
        if "arr_1" in npz_keys(path):
            labels = npz_array(path, "arr_1")
            if labels.shape == self.array.shape[:1] and labels.dtype.kind in "iu":
                self.labels = torch.from_numpy(labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, first: int, last: int) -> Tensor:
        """Read from the file."""
        return rearrange(torch.from_numpy(np.array(self.array[first:last])), "b h w c -> b c h w")

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return sha256_file(self.path)


class FirstImages(Images):
    """The first `count` images of others; ValueError when they are fewer."""

    def __init__(self, images: Images, count: int):
        if count > len(images):
            raise ValueError(f"num is {count}, but {images.name} holds {len(images)} images")
        self.images, self.count, self.name, self.kind = images, count, images.name, images.kind
        self.labels = None if images.labels is None else images.labels[:count]

    def __len__(self) -> int:
        return self.count

    def rows(self, first: int, last: int) -> Tensor:
        """Those of the others."""
        return self.images.rows(first, min(last, self.count))


class ArrayImages(Images):
    """Images in memory: float32 (n, C, H, W) in [-1, 1], as a data set of ours has them."""

    kind = "data set"

    def __init__(self, name: str, images: Tensor, labels: Tensor):
        self.name, self.images, self.labels = name, images, labels

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, first: int, last: int) -> Tensor:
        """(B, C, H, W) float32 in [-1, 1]."""
        return self.images[first:last]

    @cached_property
    def sha256(self) -> str:
        """Over their values."""
        return json_sha256([list(self.images.shape), self.images.numpy().tobytes().hex()])


def open_images(path: Path, key: str) -> Images:
    """The images in a folder or an .npz; ValueError naming the config key for anything else."""
    if path.is_dir():
        return FolderImages(path)
    if path.is_file() and path.suffix == ".npz":
        return NpzImages(path)
    what = "another kind of file" if path.exists() else "not there"
    raise ValueError(f"{key} is {str(path)!r}, which is {what}; allowed: a folder of images or an .npz")


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

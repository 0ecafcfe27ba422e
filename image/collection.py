"""Images that are there already, to be measured: a folder of files or an .npz, read a batch at a time.

Letters: n images, B batch, H height, W width in pixels, C channels.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from core.checkpoint import sha256_file
from core.provenance import json_sha256
from eval.collection import Media
from eval.npz import npz_array, npz_keys
from image.data import IMAGE_SUFFIXES
from image.decode import decode_image

MAX_THREADS = 8


class Images(Media):
    """n uint8 images in a fixed order; `rows` gives (B, C, H, W)."""

    unit = "image"

    def rows(self, first: int, last: int) -> Tensor:
        """Images first <= i < last: (B, C, H, W) uint8; ValueError for a broken one or one of another size."""
        raise NotImplementedError


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


def open_images(path: Path, key: str) -> Images:
    """The images in a folder or an .npz; ValueError naming the config key for anything else."""
    if path.is_dir():
        return FolderImages(path)
    if path.is_file() and path.suffix == ".npz":
        return NpzImages(path)
    what = "another kind of file" if path.exists() else "not there"
    raise ValueError(f"{key} is {str(path)!r}, which is {what}; allowed: a folder of images or an .npz")

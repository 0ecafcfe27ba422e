"""Clips to be measured: samples of a run, the frames in an .npz, clips of video files and of folders of frames.

All but those that a classifier of moving digits takes as floats are uint8 frames (B, F, H, W, C).

Letters: n clips, B batch, F frames, H height, W width in pixels, C channels.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from core.data.pixels import to_uint8
from core.draws import numpy_rng
from core.storage.arrays import npz_array, npz_keys
from core.storage.atomic import sha256_file
from core.storage.provenance import json_sha256
from eval.measure.extractor import Extractor
from eval.measure.media import ArrayMedia, FirstMedia, Media
from eval.measure.reference import MediaReference, Size
from video.datasets.digits import DigitsDataset
from video.datasets.windows import Window, WindowDataset, WindowsConfig

UNIT = "clip"
MAX_THREADS = 8
HEAD_BYTES = 2**16  # of a video file, which are hashed beside its size
LOSSLESS = (".bmp", ".png")  # of frames; what a codec of a container loses is not known
Clips = Literal["random", "middle", "first", "tiled"]


@dataclass(frozen=True)
class ClipRule:
    """Which clips of video files are measured.

    clips  "random": one of each file, which the seed draws; "middle" or "first": one of each file; "tiled": all of
           each, one after the other
    seed   of random clips, and of which are taken where there are more than `count`
    count  clips at most; None: all
    """

    clips: Clips = "random"
    seed: int = 0
    count: int | None = None


class NpzClips(Media):
    """`arr_0` uint8 (n, F, H, W, C) of an .npz, and classes in `arr_1` where it has them."""

    kind, unit = "npz", UNIT

    def __init__(self, path: Path):
        self.path, self.name = path, path.name
        self.array = npz_array(path, "arr_0")
        if self.array.dtype != np.uint8 or self.array.ndim != 5 or self.array.shape[-1] not in (1, 3):
            found = f"{self.array.dtype} {self.array.shape}"
            raise ValueError(f"arr_0 of {path} is {found}; needed: uint8 (n, frames, height, width, 1 or 3)")
        if not self.array.size:
            raise ValueError(f"arr_0 of {path} holds no clip")
        if "arr_1" in npz_keys(path):
            labels = npz_array(path, "arr_1")
            if labels.shape != (len(self.array),) or labels.dtype.kind not in "iu" or labels.min() < 0:
                found = f"{labels.dtype} {labels.shape}"
                raise ValueError(f"arr_1 of {path} is {found}; needed: classes from 0, one for each clip")
            self.labels = torch.from_numpy(labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, first: int, last: int) -> Tensor:
        """Clips first <= i < last: (B, F, H, W, C) uint8."""
        return torch.from_numpy(np.array(self.array[first:last]))

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "lossless": True}

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file."""
        return sha256_file(self.path)


class FileClips(Media):
    """Clips of a data set of video files or folders of frames, brought to one size; short files are left out.

    name    what to call them
    config  of the data set; its windows, crops, mirrors and short files are as a measurement has them
    """

    unit = UNIT

    def __init__(self, name: str, config: WindowsConfig, rule: ClipRule):
        window = "tiled" if rule.clips == "tiled" else "random"
        fixed = {"crop": "center", "flip": False, "short": "drop"}
        self.config, self.rule, self.name = replace(config, window=window, **fixed), rule, name
        self.dataset: WindowDataset = self.config.build()
        self.chosen = np.arange(len(self.dataset))
        if rule.count is not None and rule.count < len(self.chosen):
            rng = numpy_rng("measured files", rule.seed)
            self.chosen = np.sort(rng.choice(self.chosen, rule.count, replace=False))
        if self.dataset.labels is not None:
            self.labels = self.dataset.labels[torch.from_numpy(self.chosen)]

    def __len__(self) -> int:
        return len(self.chosen)

    def rows(self, first: int, last: int) -> Tensor:
        """Clips first <= i < last, decoded on several threads: (B, F, H, W, C) uint8."""
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            return torch.stack(list(pool.map(self._clip, self.chosen[first:last].tolist())))

    def _clip(self, row: int) -> Tensor:
        if self.rule.clips == "random":
            window = self.dataset.draw(row, numpy_rng("measured clips", self.rule.seed, row))
            media = self.dataset.read(row, window)
        elif self.rule.clips == "first":
            media = self.dataset.read(row, Window(0))
        else:
            media = self.dataset.clip_at(row)
        return rearrange(to_uint8(media), "c f h w -> f h w c")

    @cached_property
    def paths(self) -> list[Path]:
        """The files, and the folders of frames, of the whole data set."""
        files = self.dataset if self.config.window == "random" else replace(self.config, window="random").build()
        return [Path(files.name(row)) for row in range(len(files))]

    @property
    def kind(self) -> str:
        """Video files or folders of frames, with their endings: what may have lost something."""
        found = {path.suffix.lower() for path in self.paths if not path.is_dir()}
        frames = {each.suffix.lower() for path in self.paths if path.is_dir() for each in _frames(path)[:1]}
        parts = [f"video files ({', '.join(sorted(found))})"] * bool(found)
        parts += [f"folders of frames ({', '.join(sorted(frames))})"] * bool(frames)
        return " and ".join(parts)

    @property
    def lossless(self) -> bool:
        """Whether the frames are surely those that were stored, not what a codec left of them."""
        return all(path.is_dir() and _frames(path)[0].suffix.lower() in LOSSLESS for path in self.paths)

    def facts(self) -> dict[str, Any]:
        """Also which clips, and what was done to their frames."""
        one = {"random": "one of each file, drawn by the seed", "tiled": "all of each file, one after the other"}
        which = one.get(self.rule.clips, f"the {self.rule.clips} one of each file")
        transform = {name: value for name, value in self.config.transform.items() if name != "short"}
        split = getattr(self.config, "split", None)
        return {
            **super().facts(),
            "lossless": self.lossless,
            "clips": which,
            "split": split,
            "short_files_left_out": self.dataset.num_short,
            **transform,
            "resampled": "bicubic with antialias",
        }

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 over path, size and first 64 KiB of every file of the data set, whichever are drawn of them."""
        root = Path(self.config.root).expanduser()
        with ThreadPoolExecutor(MAX_THREADS) as pool:
            return json_sha256([[str(path.relative_to(root)), *pool.map(_head, _files(path))] for path in self.paths])


def _frames(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")


def _files(path: Path) -> list[Path]:
    return _frames(path) if path.is_dir() else [path]


def _head(path: Path) -> list[Any]:
    """The size of a file, and a hash of how it begins."""
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.sha256(file.read(HEAD_BYTES)).hexdigest()]


class StridedClips(Media):
    """The first `frames` of every `stride`-th frame of other uint8 clips; ValueError where there are not so many."""

    def __init__(self, clips: Media, frames: int, stride: int):
        self.clips, self.frames, self.stride = clips, frames, stride
        for name in ("name", "kind", "unit", "labels", "texts", "names"):
            setattr(self, name, getattr(clips, name))
        there = -(-len(clips.rows(0, 1)[0]) // stride)
        if there < frames:
            raise ValueError(
                f"clips of {clips.name} have {there} frames with stride {stride}; needed: clip.frames, {frames}"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def rows(self, first: int, last: int) -> Tensor:
        """(B, frames, H, W, C)."""
        return self.clips.rows(first, last)[:, :: self.stride][:, : self.frames]

    def facts(self) -> dict[str, Any]:
        return {**self.clips.facts(), "frames": self.frames, "stride": self.stride}

    @cached_property
    def sha256(self) -> str:
        """That of the other clips, and which of their frames."""
        return json_sha256([self.clips.sha256, self.frames, self.stride])


class FileReference(MediaReference):
    """Clips of video files to compare with; another seed is another draw of the same reference."""

    media: FileClips

    def identity(self) -> dict[str, Any]:
        return {**self.facts(), "seed": self.media.rule.seed}


class DigitsReference(MediaReference):
    """Moving digits in [-1, 1]; as uint8 frames for an extractor that takes no floats."""

    def __init__(self, split: str, dataset: DigitsDataset):
        name, media = f"moving digits, {split}", dataset.all()
        super().__init__(ArrayMedia(name, UNIT, media, dataset.labels), tuple(dataset.media_shape[1:]))
        self.as_bytes = ArrayMedia(name, UNIT, rearrange(to_uint8(media), "b c f h w -> b f h w c"), dataset.labels)

    def media_for(self, extractor: Extractor) -> Media:
        return self.media if extractor.takes_floats else self.as_bytes


def size_of(clips: Media) -> Size:
    """(F, H, W) of the first uint8 clip."""
    return tuple(clips.rows(0, 1).shape[1:4])


def source_of(clips: Media) -> Media:
    """The clips behind those that were cut or counted off."""
    while isinstance(clips, FirstMedia | StridedClips):
        clips = clips.media if isinstance(clips, FirstMedia) else clips.clips
    return clips


@contextmanager
def keys_of(folder: str) -> Iterator[None]:
    """Errors of a data set about its config name the keys of this command; folder: the key that names its root."""
    try:
        yield
    except ValueError as error:
        text = str(error).replace("; data.short=pad pads shorter ones", "").replace("data.root", folder)
        raise ValueError(re.sub(r"\bdata\.(?=clip|size|fit|frame_rate)", "", text)) from error

"""Clips of a collection of video files: which frames of which file are an item, and the data set that reads them.

A file is resampled as a whole to `clip.fps`, by its time stamps: position g is the frame that a player shows g / fps
seconds after the first; without fps, it is frame g. A clip takes every stride-th of F positions.

    random  one item a file: a clip at a place that the generator handed to `item` decides
    tiled   an item is a clip: from 0, F stride, 2 F stride, ... on, so that every file is covered

Letters: n items of a data set, f files, C channels, F frames of a clip, H height, W width in pixels, N tokens.
"""

from __future__ import annotations

import logging
import os
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.collection import Collection
from core.data.files import packed_paths
from core.data.index import index_media, refuse_lost_classes
from core.data.pixels import from_uint8
from core.schema import FREE
from video.datasets.clips import ClipConfig, FrameMasks
from video.datasets.facts import VideoFacts
from video.datasets.files import DECODED_VIDEO, VIDEO, frames_shown, map_clip, positions_of, seconds_of
from video.datasets.fit import CENTER, CROPS, FITS, Fit, sides

log = logging.getLogger(__name__)

WINDOWS, SHORT = ("random", "tiled"), ("drop", "pad")
MAX_THREADS = 64
SHOWN_FPS = 8.0  # of clips whose own rate is not known
ALIKE = 1.02  # the largest ratio of frame rates that are told as one


@dataclass(frozen=True, kw_only=True)
class WindowsConfig:
    """Clips of the video files and folders of frames of a collection.

    root        the folder that holds them
    clip        the frames of a clip
    size        of a clip: a side, or [height, width], pixels
    channels    3 for RGB, 1 for grey
    fit         "crop": the largest part of a frame that has the clip's shape; "squeeze": the whole frame, its shape
                changed
    crop        where that part is: "center", or "random" in training
    flip        mirror a clip with probability 1/2
    window      "random": a random clip of each file; "tiled": all clips of each file, one after the other
    short       files shorter than a clip, and the ends of tiled files: "drop" leaves them out, "pad" repeats the last
                frame and masks what is repeated
    max_broken  0: a broken or missing file is an error. Above 0: every file is decoded as a whole once, when it is
                indexed, and so many broken ones at most are logged and left out
    threads     that decode one file, in each worker
    cache_dir   keeps the index of the files; null: every run looks into each file
    """

    frame_rate: ClassVar[float | None] = None  # of folders of frames, where there may be some

    root: str = field(metadata=FREE)
    clip: ClipConfig = field(default_factory=ClipConfig)
    size: int | list[int] = 256
    channels: Literal[1, 3] = 3
    fit: Literal["crop", "squeeze"] = "crop"
    crop: Literal["center", "random"] = "center"
    flip: bool = False
    window: Literal["random", "tiled"] = "random"
    short: Literal["drop", "pad"] = "drop"
    max_broken: int = 0
    threads: int = field(default=1, metadata=FREE)
    cache_dir: str | None = field(default="runs/cache", metadata=FREE)

    def __post_init__(self) -> None:
        if not self.root:
            raise ValueError(f"data.root is {self.root!r}; needed: the folder that holds the videos")
        sides(self.size)
        options = {"channels": (1, 3), "fit": FITS, "crop": CROPS, "window": WINDOWS, "short": SHORT}
        for name, allowed in options.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"data.{name} is {getattr(self, name)!r}; allowed: {list(allowed)}")
        checks = {
            "max_broken": (self.max_broken >= 0, "0 (a broken file is an error) or more"),
            "threads": (1 <= self.threads <= MAX_THREADS, f"1 to {MAX_THREADS}"),
        }
        for name, (fine, allowed) in checks.items():
            if not fine:
                raise ValueError(f"data.{name} is {getattr(self, name)!r}; allowed: {allowed}")

    @property
    def media_shape(self) -> tuple[int, int, int, int]:
        """(C, F, H, W) of a clip, known without the data."""
        return self.channels, self.clip.frames, *sides(self.size)

    @property
    def fps(self) -> float:
        """Frames a second at which clips are shown where their own rate is not known before the files are opened."""
        return (self.clip.fps or self.frame_rate or SHOWN_FPS) / self.clip.stride

    @property
    def transform(self) -> dict[str, Any]:
        """What decides the clips of a given collection without chance."""
        names = ("channels", "fit", "short", "frame_rate")
        clip = {"frames": self.clip.frames, "fps": self.clip.fps, "stride": self.clip.stride}
        return {"size": list(sides(self.size)), **clip} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Window:
    """What of a file is a clip: the first position, where frames are cropped, and whether they are mirrored."""

    start: int
    place: tuple[float, float] = CENTER
    mirror: bool = False


class WindowDataset:
    """Clips of the files of a collection, decoded when they are asked for; fulfils `core.contracts.Dataset`.

    media_shape  (C, F, H, W)
    class_names  one name per label, empty without classes
    labels       (n,) int64, or None without classes
    captions     n texts, or None
    conditions   (n, ...) what `item` gives as the condition: the labels, or zeros until they are replaced
    real_frames  (n,) int64, frames of each item that are not padding
    fps          frames a second at which clips are shown: those of the clip, or of most files
    num_broken   files that were left out because they are missing or broken
    num_short    files that were left out because they are shorter than a clip
    """

    def __init__(self, collection: Collection, config: WindowsConfig, masks: FrameMasks | None):
        self._config, self._masks = config, masks
        kind = DECODED_VIDEO if config.max_broken else VIDEO
        check = partial(positions_of, fps=config.clip.fps, frame_rate=config.frame_rate)
        index = index_media(collection.root, collection.paths, kind, config.cache_dir, config.max_broken, check)
        self.num_broken = len(index.broken)
        rows = self._long_enough(collection, index.facts)
        self._keep(collection.rows(rows), [index.facts[collection.paths[row]] for row in rows])

    @property
    def _span(self) -> int:
        return (self._config.clip.frames - 1) * self._config.clip.stride + 1

    def _positions(self, facts: VideoFacts) -> int:
        return positions_of(facts, self._config.clip.fps, self._config.frame_rate)

    def _long_enough(self, collection: Collection, facts: dict[str, VideoFacts]) -> list[int]:
        """Rows of the whole files that are kept; ValueError where none is, or where a class loses its last file."""
        found = [row for row, path in enumerate(collection.paths) if path in facts]
        lengths = {row: self._positions(facts[collection.paths[row]]) for row in found}
        rows = [row for row in found if lengths[row] >= self._span or self._config.short == "pad"]
        clip, self.num_short = self._config.clip, len(found) - len(rows)
        asked = f"data.clip of {clip.frames} frames with stride {clip.stride}, fps {clip.fps or 'of the file'}"
        if self.num_short:
            log.warning("%d of %d files are left out: shorter than a %s", self.num_short, len(found), asked)
        if not rows:
            raise ValueError(
                f"data.root is {str(collection.root)!r}: no file is left; a {asked} needs {self._span} frames, the "
                f"longest file has {max(lengths.values(), default=0)}, {self.num_broken} are broken; data.short=pad "
                "pads shorter ones"
            )
        if collection.labels is not None:
            labels = collection.labels
            why = f"every file is broken or shorter than a {asked}"
            refuse_lost_classes(labels.tolist(), labels[rows].tolist(), collection.class_names, why)
        return rows

    def _keep(self, files: Collection, facts: list[VideoFacts]) -> None:
        """Lay out the items of the files that are left."""
        self._root = files.root
        # One array of bytes: a list of strings would be copied into every worker as its counts are touched.
        self._paths = np.array(packed_paths([files.root / path for path in files.paths], files.root))
        self._facts = np.array([astuple(each) for each in facts], dtype=np.int64)
        self._totals = np.array([self._positions(each) for each in facts], dtype=np.int64)
        self._files, self._starts = self._windows()
        left = self._totals[self._files] - self._starts
        self.real_frames = np.minimum(self._config.clip.frames, -(-left // self._config.clip.stride))
        self.fps = self._rate(facts) / self._config.clip.stride
        self.class_names = files.class_names
        self.labels = None if files.labels is None else torch.from_numpy(files.labels[self._files])
        self.captions = None if files.captions is None else [files.captions[file] for file in self._files]
        self.conditions = torch.zeros(len(self), dtype=torch.int64) if self.labels is None else self.labels
        self._masked = bool((self.real_frames < self._config.clip.frames).any())

    def _rate(self, facts: list[VideoFacts]) -> float:
        """Frames a second of the positions; where files differ in them, a warning tells."""
        if self._config.clip.fps is not None:
            return self._config.clip.fps
        rates = [rate for each in facts if (rate := each.rate or self._config.frame_rate)] or [SHOWN_FPS]
        if max(rates) > ALIKE * min(rates):
            log.warning(
                "the files have %.4g to %.4g frames/s, and data.clip.fps is null: clips differ in speed",
                min(rates),
                max(rates),
            )
        return float(np.median(rates))

    def _windows(self) -> tuple[np.ndarray, np.ndarray]:
        """File and first position of each item; a random window's first is the middle one's."""
        if self._config.window == "random":
            return np.arange(len(self._totals)), np.maximum(0, self._totals - self._span) // 2
        step = self._config.clip.frames * self._config.clip.stride
        whole = np.maximum(0, self._totals - self._span) // step + (self._totals >= self._span)
        counts = whole if self._config.short == "drop" else -(-self._totals // step)
        files = np.repeat(np.arange(len(counts)), counts)
        return files, np.concatenate([np.arange(count) * step for count in counts])

    @property
    def media_shape(self) -> tuple[int, int, int, int]:
        """(C, F, H, W) of a clip."""
        return self._config.media_shape

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """The file; of a tiled one also where the clip begins."""
        path, window = str(self._path(index)), Window(int(self._starts[index]))
        if self._config.window == "random":
            return path
        times = self.times(index, window)
        return f"{path} from {f'frame {window.start}' if times is None else f'{times[0]:.3f} s'}"

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """`media` (C, F, H, W) float32, `condition`, and `mask` (N,) bool if the data set has padded tokens."""
        stored = self.stored(index, rng)
        return {**stored, "media": from_uint8(stored["media"])}

    def stored(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """What `item` gives, `media` as bytes (C, F, H, W) uint8."""
        item = {"media": self._bytes(index, self.draw(index, rng)), "condition": self.conditions[index]}
        return item | {"mask": self.mask(index)} if self._masked and self._masks is not None else item

    def clip_at(self, index: int) -> Tensor:
        """Media (C, F, H, W) without chance: the tile, or the middle of a file."""
        return self.read(index, self.window_at(index))

    def window_at(self, index: int) -> Window:
        """The window that `clip_at` reads."""
        return Window(int(self._starts[index]))

    def mask(self, index: int) -> Tensor:
        """(N,) bool, True for the tokens of item `index` that hold a real frame."""
        mask = self._masks.mask(int(self.real_frames[index]))
        if mask is None:
            return torch.ones(self._masks.rows(self._masks.frames) * self._masks.tokens_per_row, dtype=torch.bool)
        return mask

    def draw(self, index: int, rng: np.random.Generator) -> Window:
        """The window of an item that a generator decides: its start, then the place of the crop, then the mirror."""
        start, spare = int(self._starts[index]), int(self._totals[self._files[index]]) - self._span
        if self._config.window == "random" and spare > 0:
            start = int(rng.integers(spare + 1))
        place = tuple(rng.random(2).tolist()) if self._config.crop == "random" else CENTER
        return Window(start, place, self._config.flip and bool(rng.random() < 0.5))

    def read(self, index: int, window: Window) -> Tensor:
        """Media (C, F, H, W) in [-1, 1] of a window of the file of an item; ValueError, naming the file, for damage."""
        return from_uint8(self._bytes(index, window))

    def _bytes(self, index: int, window: Window) -> Tensor:
        config, (height, width) = self._config, sides(self._config.size)
        fit = Fit(height, width, config.channels, config.fit == "squeeze", window.place, window.mirror)
        numbers = self._numbers(index, window)
        found = map_clip(self._path(index), self._file_facts(index), numbers.tolist(), fit, config.threads)
        return torch.from_numpy(np.stack([found[number] for number in numbers.tolist()], axis=1))

    def times(self, index: int, window: Window) -> np.ndarray | None:
        """Seconds (F,) after the first frame of the file at which the frames of a window are taken; None: not known."""
        facts, places = self._file_facts(index), self._places(index, window)
        if self._config.clip.fps is not None:
            return places / self._config.clip.fps
        return seconds_of(self._path(index), facts, places, self._config.frame_rate)

    def _path(self, index: int) -> Path:
        return self._root / os.fsdecode(self._paths[self._files[index]])

    def _file_facts(self, index: int) -> VideoFacts:
        return VideoFacts(*self._facts[self._files[index]].tolist())

    def _places(self, index: int, window: Window) -> np.ndarray:
        """Positions (F,) of a window; those past the end are the last one before it."""
        steps = np.minimum(np.arange(self._config.clip.frames), int(self.real_frames[index]) - 1)
        return window.start + steps * self._config.clip.stride

    def _numbers(self, index: int, window: Window) -> np.ndarray:
        clip = self._config.clip
        facts, places = self._file_facts(index), self._places(index, window)
        return frames_shown(self._path(index), facts, places, clip.fps, self._config.frame_rate)

"""Clips of a collection of audio files: which window of which file is an item, and the data set that reads it.

    random  one item a file: a window at a place that the generator handed to `item` decides
    tiled   an item is a window: 0, L, 2L, ... of each file, so that every file is covered

Padding is zeros at the end of a clip, exactly. A token is real if any sample of it is: a file of n samples has
ceil(n / token_samples) real tokens. Masks are given for all items, or for none where every token of every item is real.

Letters: n items of a data set, f files, C channels, L samples of a clip, N tokens of a clip, K tags.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from audio.sounds.files import AUDIO, AudioFacts, check_convertible, read_window, tell_cut_off
from audio.sounds.loudness import SHORTEST, rms_db, to_loudness
from audio.sounds.sound import MAX_SAMPLE_RATE, MAX_SECONDS, ClipFormat
from core.data.collection import SPLITS, Collection, split_rows
from core.data.files import packed_paths
from core.data.index import index_media, refuse_lost_classes
from core.schema import FREE

log = logging.getLogger(__name__)

CHANNELS, WINDOWS = (1, 2), ("random", "tiled")
SPLIT_STREAM = "audio heldout"
REDRAWS = 4  # further windows that a silent one may be replaced by


@dataclass(frozen=True, kw_only=True)
class WindowsConfig:
    """Windows of the audio files of a collection.

    root           the folder that holds them
    seconds        length of a clip; cropped to whole tokens
    sample_rate    of a clip, Hz
    channels       1 or 2
    window         "random": a random window of each file; "tiled": all windows of each file, one after the other
    min_seconds    shorter files, and shorter windows at the end of a tiled file, are left out. Files and windows
                   shorter than a clip are padded and masked; at `seconds` and above there are none
    silence_db     a random window whose RMS is below, in dB of full scale, is drawn again up to four times, then the
                   loudest of the five is taken; null: any window is taken
    loudness       LUFS (ITU-R BS.1770) that each clip is brought to, as far as its peak allows; null: as it is
    split          "train", "heldout" or "all" of the files; a hash decides, so that a new file moves no other
    heldout_share  of the files
    max_broken     0: a broken or missing file is an error. Above 0: so many at most are logged and left out. Broken is
                   also what cannot be brought to this rate and these channels
    cache_dir      keeps the index of the files; null: every run looks into each file
    """

    root: str = field(metadata=FREE)
    seconds: float = 10.0
    sample_rate: int = 44100
    channels: Literal[1, 2] = 2
    window: Literal["random", "tiled"] = "random"
    min_seconds: float = 1.0
    silence_db: float | None = -60.0
    loudness: float | None = None
    split: Literal["train", "heldout", "all"] = "all"
    heldout_share: float = 0.05
    max_broken: int = 0
    cache_dir: str | None = field(default="runs/cache", metadata=FREE)

    def __post_init__(self):
        if not self.root:
            raise ValueError(f"data.root is {self.root!r}; needed: the folder that holds the audio files")
        for name, allowed in (("channels", CHANNELS), ("window", WINDOWS), ("split", SPLITS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"data.{name} is {getattr(self, name)!r}; allowed: {list(allowed)}")
        checks = {
            "seconds": (0 < self.seconds <= MAX_SECONDS, f"above 0, {MAX_SECONDS} s at most"),
            "sample_rate": (1 <= self.sample_rate <= MAX_SAMPLE_RATE, f"1 to {MAX_SAMPLE_RATE} Hz"),
            "min_seconds": (self.min_seconds >= 0, "0 or more"),
            "silence_db": (self.silence_db is None or self.silence_db < 0, "below 0 dB of full scale, or null"),
            "loudness": (self.loudness is None or -70 <= self.loudness < 0, "-70 to below 0 LUFS, or null"),
            "heldout_share": (0 < self.heldout_share < 1, "above 0 and below 1"),
            "max_broken": (self.max_broken >= 0, "0 (a broken file is an error) or more"),
        }
        for name, (fine, allowed) in checks.items():
            if not fine:
                raise ValueError(f"data.{name} is {getattr(self, name)!r}; allowed: {allowed}")
        if self.loudness is not None and self.seconds < SHORTEST:
            raise ValueError(f"data.loudness is {self.loudness}, data.seconds {self.seconds}; needed: {SHORTEST} s")

    @property
    def transform(self) -> dict[str, Any]:
        """What decides the clips of a given collection, beside their format."""
        names = ("window", "min_seconds", "silence_db", "loudness")
        return {name: getattr(self, name) for name in names}


class WindowDataset:
    """Windows of the files of a collection, read when they are asked for; fulfils `core.contracts.Dataset`.

    media_shape  (C, L)
    class_names  one name per label, empty without classes
    labels       (n,) int64, or None without classes
    captions     n texts, or None
    tag_names    K names, and `tag_sets` (n, K) uint8 or None
    conditions   (n, ...) what `item` gives as the condition: the labels, or zeros until they are replaced
    lengths      (n,) int64, real tokens of each item
    num_broken   files that were left out because they are missing, broken, or cannot be brought to the clip's format
    num_cut      files that are cut off and count as shorter ones
    num_short    files that were left out because they are shorter than `min_seconds`
    """

    def __init__(self, collection: Collection, config: WindowsConfig, clip: ClipFormat):
        self._config, self._clip = config, clip
        collection = collection.rows(split_rows(collection, config.split, config.heldout_share, SPLIT_STREAM))
        check = partial(check_convertible, rate=clip.sample_rate, channels=clip.channels)
        index = index_media(collection.root, collection.paths, AUDIO, config.cache_dir, config.max_broken, check)
        self.num_broken, self.num_cut = len(index.broken), tell_cut_off(index.facts)
        rows = self._long_enough(collection, index.facts)
        self._keep(collection.rows(rows), [index.facts[collection.paths[row]] for row in rows])

    def _long_enough(self, collection: Collection, facts: dict[str, AudioFacts]) -> list[int]:
        """Rows of the whole files that are kept; ValueError where none is, or where a class loses its last file."""
        found = [row for row, path in enumerate(collection.paths) if path in facts]
        shortest = self._config.min_seconds
        seconds = {row: facts[collection.paths[row]].seconds for row in found}
        rows = [row for row in found if seconds[row] >= shortest]
        self.num_short = len(found) - len(rows)
        if self.num_short:
            log.warning(
                "%d of %d files are left out: shorter than data.min_seconds=%g", self.num_short, len(found), shortest
            )
        if not rows:
            longest = max(seconds.values(), default=0)
            raise ValueError(
                f"data.root is {str(collection.root)!r}: no file is left; data.min_seconds is {shortest}, the longest "
                f"file lasts {longest:.3g} s, {self.num_broken} are broken"
            )
        if max(seconds.values()) * self._clip.sample_rate < self._clip.num_samples:
            log.warning("every file is shorter than a clip of data.seconds=%g and is padded", self._config.seconds)
        if collection.labels is not None:
            why = f"every file is broken or shorter than {shortest} s"
            labels = collection.labels
            refuse_lost_classes(labels.tolist(), labels[rows].tolist(), collection.class_names, why)
        return rows

    def _keep(self, files: Collection, facts: list[AudioFacts]) -> None:
        """Lay out the items of the files that are left."""
        self._root = files.root
        # One array of bytes: a list of strings would be copied into every worker as its counts are touched.
        self._paths = np.array(packed_paths([files.root / path for path in files.paths], files.root))
        self._facts = np.array([(each.frames, each.sample_rate, each.channels) for each in facts], dtype=np.int64)
        self._totals = np.array([each.frames_at(self._clip.sample_rate) for each in facts], dtype=np.int64)
        self._files, self._starts, real = self._windows()
        self.lengths = -(-real // self._clip.token_samples)
        self.class_names, self.tag_names = files.class_names, files.tag_names
        self.labels = None if files.labels is None else torch.from_numpy(files.labels[self._files])
        self.captions = None if files.captions is None else [files.captions[file] for file in self._files]
        self.tag_sets = None if files.tag_sets is None else torch.from_numpy(files.tag_sets[self._files])
        self.conditions = torch.zeros(len(self), dtype=torch.int64) if self.labels is None else self.labels
        self._masked = bool((self.lengths < self._clip.num_tokens).any())

    def _windows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """File, first sample and real samples of each item; a random window's first is the middle one's."""
        length = self._clip.num_samples
        if self._config.window == "random":
            starts = np.maximum(0, self._totals - length) // 2
            return np.arange(len(self._totals)), starts, np.minimum(length, self._totals)
        counts = -(-self._totals // length)
        files = np.repeat(np.arange(len(counts)), counts)
        starts = np.concatenate([np.arange(count) * length for count in counts])
        real = np.minimum(length, self._totals[files] - starts)
        shortest = min(length, int(np.ceil(self._config.min_seconds * self._clip.sample_rate)))
        kept = (real >= shortest) | (starts == 0)
        return files[kept], starts[kept], real[kept]

    @property
    def media_shape(self) -> tuple[int, int]:
        """(C, L) of a clip."""
        return self._clip.shape

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """The file; of a tiled one also where the window begins."""
        path = str(self._path(index))
        return (
            path
            if self._config.window == "random"
            else f"{path} from {self._starts[index] / self._clip.sample_rate:.3f} s"
        )

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """`media` (C, L) float32, `condition`, and `mask` (N,) bool if the data set has padded tokens."""
        item = {"media": self._finish(self._drawn(index, rng)), "condition": self.conditions[index]}
        return item | {"mask": self.mask(index)} if self._masked else item

    def clip_at(self, index: int) -> Tensor:
        """Media (C, L) without chance: the tile, or the middle of a file."""
        return self._finish(self._read(index, int(self._starts[index])))

    def mask(self, index: int) -> Tensor:
        """(N,) bool, True for the tokens of item `index` that hold a real sample."""
        return torch.arange(self._clip.num_tokens) < int(self.lengths[index])

    def _path(self, index: int) -> Path:
        return self._root / os.fsdecode(self._paths[self._files[index]])

    def _read(self, index: int, start: int) -> Tensor:
        """The window (C, at most L) of the file of an item from sample `start` on, at the clip's rate."""
        facts = AudioFacts(*self._facts[self._files[index]].tolist())
        span = (start, start + self._clip.num_samples)
        return read_window(self._path(index), facts, span, self._clip.sample_rate, self._clip.channels)

    def _drawn(self, index: int, rng: np.random.Generator) -> Tensor:
        spare = int(self._totals[self._files[index]]) - self._clip.num_samples
        if self._config.window == "tiled" or spare <= 0:
            return self._read(index, int(self._starts[index]))
        loudest, level = None, -np.inf
        for _ in range(1 + REDRAWS):
            window = self._read(index, int(rng.integers(spare + 1)))
            if self._config.silence_db is None:
                return window
            own_level = rms_db(window)
            if loudest is None or own_level > level:
                loudest, level = window, own_level
            if level >= self._config.silence_db:
                break
        return loudest

    def _finish(self, window: Tensor) -> Tensor:
        """Zeros at its end up to L samples, then the loudness asked for."""
        clip = torch.nn.functional.pad(window, (0, self._clip.num_samples - window.shape[-1]))
        if self._config.loudness is not None:
            clip = to_loudness(clip, self._clip.sample_rate, self._config.loudness)
        return clip

"""HumanML3D and KIT-ML as they are published: a folder of motions, texts, statistics and lists of the splits.

    root/new_joint_vecs/000021.npy   (F, 263) of HumanML3D, (F, 251) of KIT-ML, floats
    root/texts/000021.txt            captions; see `motion.datasets.texts`
    root/Mean.npy, Std.npy           (263,) what the numbers are normalised by
    root/train.txt, val.txt, ...     names, one a line

The rules are the published ones. A motion of fewer than 40 frames (KIT-ML: 24), or of 200 and more, is left out. A
caption about some seconds of a motion makes a clip of its own, of these seconds, under the same rule; its name is the
motion's with a letter before it (A_000021). In training an item is a random window, whose length is a multiple of 4
frames: the longest, or with probability 1/3 one that is 4 frames shorter. What is behind it is padding.

Letters: n clips, F frames of a clip, C numbers of a frame, N tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.files import existing_folder
from core.latents.cache import TokenMasks
from core.schema import FREE
from motion.body.representations import REPRESENTATIONS, Representation
from motion.body.skeleton import SKELETONS
from motion.body.statistics import Statistics
from motion.datasets.clips import UNIT, ClipRules, random_window, whole_units
from motion.datasets.files import SUFFIX, MotionFacts, read_rows
from motion.datasets.folder import VECTORS, Motions, collect
from motion.datasets.numbers import LOOKED_AT, MEASURED, check_fits, of_representation, read_statistics, spread
from motion.datasets.splits import SPLITS, check_apart, compare_with_published, read_split

log = logging.getLogger(__name__)

WINDOWS = ("random", "first")
LONGEST = 200  # frames; as long and longer are left out, as published
MOST_FRAMES = (LONGEST - 1) // UNIT * UNIT
LEAST_FRAMES = {"t2m": 40, "kit": 24}
SHORTEST = 2 * UNIT  # least of data.min_frames: one that is a unit shorter is still one


@dataclass(frozen=True, kw_only=True)
class HumanML3DConfig:
    """A split of a folder in the format of HumanML3D.

    root            the folder
    split           train, val, test, all or train_val: the list of that name
    skeleton        t2m: the 22 joints of HumanML3D; kit: the 21 of KIT-ML
    representation  full: all numbers of a frame; positions: the first 67 (KIT-ML: 64); joints: absolute coordinates
    frames          of an item, at most 196; longer clips are cut to a window of so many
    window          random: a window of each clip, drawn anew, as published; first: the beginning, as a cache keeps it
    min_frames      shorter motions and parts of motions are left out; null: as published, 40 (KIT-ML: 24)
    max_broken      0: a motion or a text that is missing or broken is an error. Above 0: so many at most are logged and
                    left out. The two clips of HumanML3D that hold NaN are left out always, and told
    cache_dir       keeps the index of the files; null: every run reads each file once
    """

    root: str = field(metadata=FREE)
    split: Literal["train", "val", "test", "all", "train_val"] = "train"
    skeleton: Literal["t2m", "kit"] = "t2m"
    representation: Literal["full", "positions", "joints"] = "full"
    frames: int = MOST_FRAMES
    window: Literal["random", "first"] = "random"
    min_frames: int | None = None
    max_broken: int = 0
    cache_dir: str | None = field(default="runs/cache", metadata=FREE)

    heldout_split = "val"

    def __post_init__(self) -> None:
        if not self.root:
            raise ValueError(f"data.root is {self.root!r}; needed: a folder in the format of HumanML3D")
        choices = {"split": SPLITS, "skeleton": SKELETONS, "representation": REPRESENTATIONS, "window": WINDOWS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"data.{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if self.frames % UNIT or not SHORTEST <= self.frames <= MOST_FRAMES:
            raise ValueError(
                f"data.frames is {self.frames}; allowed: multiples of {UNIT} from {SHORTEST} to {MOST_FRAMES}, as "
                f"motions of {LONGEST} frames and more are left out"
            )
        if self.min_frames is not None and not SHORTEST <= self.min_frames < LONGEST:
            raise ValueError(f"data.min_frames is {self.min_frames}; allowed: {SHORTEST} to {LONGEST - 1}, or null")
        if self.max_broken < 0:
            raise ValueError(f"data.max_broken is {self.max_broken}; allowed: 0 (a broken file is an error) or more")

    @property
    def least_frames(self) -> int:
        """Frames of the shortest clip."""
        return LEAST_FRAMES[self.skeleton] if self.min_frames is None else self.min_frames

    def build(self, masks: TokenMasks | None = None) -> HumanML3D:
        """The data set; with `masks`, items say which of their tokens are real."""
        return HumanML3D(self, masks)


class HumanML3D:
    """The clips of a split, read when they are asked for; fulfils `core.contracts.Dataset`.

    media_shape    (C, F) of an item, padded at its end with the mean of each number
    statistics     mean and deviation (C,) of the numbers: the folder's, or, of absolute joints, measured
    lengths        (n,) int64, frames of each clip without chance (`clip_at`)
    captions       all captions of all clips
    tokens         their words, each as word/POS
    caption_rows   (n + 1,) int64: clip i has the captions caption_rows[i] to caption_rows[i + 1] - 1
    conditions     (captions, ...) or (n, ...) what `item` gives as the condition; zeros until they are replaced
    assign         gives another data set the conditions that this one was given; None until it was given some
    left_out       how many motions, and parts of motions, are not used, by the reason

    Raises ValueError, naming the config key or the file, for a folder that is no such data set.
    """

    labels = None
    assign: Callable[[HumanML3D], None] | None = None

    def __init__(
        self,
        config: HumanML3DConfig,
        masks: TokenMasks | None = None,
        statistics: Statistics | None = None,
    ):
        self.config, self._masks, self.class_names = config, masks, []
        self.skeleton, self.representation = SKELETONS[config.skeleton], REPRESENTATIONS[config.representation]
        self.root, self.fps = existing_folder(config.root), self.skeleton.fps
        self.media_shape = self.representation.size(self.skeleton), config.frames
        names = read_split(self.root, config.split)
        check_apart(self.root, config.split, names)
        rules = ClipRules(self.fps, config.least_frames, LONGEST)
        motions = collect(self.root, names, config.skeleton, rules, config.max_broken, config.cache_dir)
        self.left_out, self._listed = motions.left_out, len(names)
        self._keep(motions)
        self.statistics = self._read_statistics() if statistics is None else statistics
        self._tell()

    def _keep(self, motions: Motions) -> None:
        """Lay out the clips in arrays: lists of a hundred thousand would be copied into every worker."""
        clips = motions.clips
        self._motions = np.array([name.encode() for name in motions.names])
        self._facts = np.array([tuple(vars(facts).values()) for facts in motions.facts], dtype=np.int64)
        self._names = np.array([clip.name.encode() for clip in clips])
        self._rows = np.array([(clip.file, clip.first, clip.frames) for clip in clips], dtype=np.int64)
        self.lengths = torch.tensor([whole_units(clip.frames, self.config.frames) for clip in clips])
        descriptions = [each for clip in clips for each in clip.descriptions]
        self.captions, self.tokens = [each.caption for each in descriptions], [each.tokens for each in descriptions]
        self.caption_rows = torch.tensor([0, *(len(clip.descriptions) for clip in clips)]).cumsum(0)
        self.conditions: Any = torch.zeros(len(clips), dtype=torch.int64)

    def _read_statistics(self) -> Statistics:
        """Those of the folder, as `data.representation` has them; held against some clips."""
        found = read_statistics(self.root, self.skeleton)
        full = REPRESENTATIONS["full"]
        check_fits(found, (self.rows(row, full) for row in spread(len(self), LOOKED_AT)), self.skeleton, self.root)
        clips = (self.rows(row) for row in spread(len(self), MEASURED))
        return of_representation(found, self.representation, self.skeleton, clips)

    def _tell(self) -> None:
        """Log what there is, and what differs from the published lists."""
        left = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items()) or "nothing"
        log.info(
            "%s, %s: %d motions are listed, %d clips with %d captions are used; left out: %s",
            *(self.root, self.config.split, self._listed, len(self), len(self.captions), left),
        )
        differs = compare_with_published(self.config.skeleton, self.config.split, self._listed)
        if differs:
            log.warning("%s: %s", self.root, differs)

    def facts(self) -> dict[str, Any]:
        """What a record says of the data: the split, how many are listed and used, and what was left out."""
        counts = {"listed": self._listed, "clips": len(self), "captions": len(self.captions)}
        return {"split": self.config.split, **counts, "left_out": self.left_out}

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        """The clip's name and its file; where it is a part, its frames."""
        file, first, frames = self._rows[index].tolist()
        path, own = self._path(file), self._names[index].decode()
        return str(path) if own == path.stem else f"{own}: {path}, frames {first} to {first + frames - 1}"

    def heldout(self) -> HumanML3D | None:
        """The clips of val.txt, for the training split."""
        if self.config.split != "train" or not (self.root / f"{self.config.heldout_split}.txt").is_file():
            return None
        clips = HumanML3D(replace(self.config, split=self.config.heldout_split), self._masks, self.statistics)
        if self.assign is not None:
            self.assign(clips)
        return clips

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """`media` (C, F) of a random window, `condition` of one of its captions, and, with masks, `mask` (N,) bool."""
        first, length = 0, int(self.lengths[index])
        if self.config.window == "random":
            first, length = random_window(self.frames_of(index), self.config.frames, rng)
        caption = int(rng.integers(*self.caption_rows[index : index + 2].tolist()))
        own = len(self.conditions) == len(self.captions)
        item = {"media": self._media(index, first, length), "condition": self.conditions[caption if own else index]}
        return item if self._masks is None else item | {"mask": self._masks.mask(length)}

    def clip_at(self, index: int) -> Tensor:
        """Media (C, F) without chance: the first `lengths[index]` frames of a clip."""
        return self._media(index, 0, int(self.lengths[index]))

    def frames_of(self, index: int) -> int:
        """All frames of a clip."""
        return int(self._rows[index, 2])

    def rows(self, index: int, kind: Representation | None = None) -> Tensor:
        """All frames (frames, C) of a clip, nothing cut or padded; kind: instead of `data.representation`."""
        return self._read(index, 0, self.frames_of(index), kind or self.representation)

    def _path(self, file: int) -> Path:
        return self.root / VECTORS / f"{self._motions[file].decode()}{SUFFIX}"

    def _read(self, index: int, first: int, count: int, kind: Representation) -> Tensor:
        """Rows (count, C) of a clip from its row `first` on."""
        file, begin, _ = self._rows[index].tolist()
        facts = MotionFacts(*self._facts[file].tolist())
        rows = torch.from_numpy(read_rows(self._path(file), facts, begin + first, count))
        return rows if kind.name == "full" else REPRESENTATIONS["full"].convert(rows, kind, self.skeleton)

    def _media(self, index: int, first: int, count: int) -> Tensor:
        media = torch.empty(self.media_shape)
        media[:, :count] = self._read(index, first, count, self.representation).T
        media[:, count:] = self.statistics.mean[:, None]
        return media

"""Procedural motion of the 22-joint skeleton with captions: the motion domain's data set that needs no download.

Every clip is a function of (split, row): its action is the row modulo the number of actions; body, speed, way, side,
length and captions come from generators of its own.

Letters: n clips, F frames, C numbers of a frame, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from core.draws import numpy_rng
from motion.body.representations import representation_by_name
from motion.body.skeleton import T2M
from motion.body.statistics import Statistics, statistics
from motion.moves.actions import CLASSES, FPS, Facts, render
from motion.moves.captions import PER_CLIP, captions_of

SPLITS = ("train", "heldout", "all")
HELDOUT_PART = 10  # the held-out split has a tenth of the clips of the train split
SHORTEST, LONGEST = 40, 100  # frames in which every action can take place
LENGTH_STEP = 4  # frames, as the published data sets cut clips: tokens of two or four frames have no padding in them
AT_ONCE = 1024  # clips that are made together


class TokenMasks(Protocol):
    """Which tokens of a clip are real."""

    def mask(self, length: int) -> Tensor:
        """(N,) bool, true for the tokens that hold any of the first `length` frames."""
        ...


@dataclass(frozen=True)
class MovesConfig:
    """Walks, jumps, waves and eleven more actions, as many of each, at 20 frames a second.

    split           train, heldout (other clips, a tenth as many), or all
    num_clips       of the train split
    frames          of the longest clips; the shorter ones are padded at their end with the mean
    min_frames      of the shortest clips
    representation  full (263 numbers a frame), positions (67) or joints (66)
    seed            other clips for another seed
    """

    heldout_split: ClassVar[str] = "heldout"
    split: Literal["train", "heldout", "all"] = "train"
    num_clips: int = 4200
    frames: int = 80
    min_frames: int = 40
    representation: Literal["full", "positions", "joints"] = "full"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"data.split is {self.split!r}; allowed: {list(SPLITS)}")
        representation_by_name(self.representation)
        least = HELDOUT_PART * len(CLASSES)
        if self.num_clips < least:
            raise ValueError(
                f"data.num_clips is {self.num_clips}; allowed: {least} or more, so that both splits have every action"
            )
        if not SHORTEST <= self.frames <= LONGEST:
            raise ValueError(f"data.frames is {self.frames}; allowed: {SHORTEST} to {LONGEST}")
        if not SHORTEST <= self.min_frames <= self.frames:
            raise ValueError(f"data.min_frames is {self.min_frames}; allowed: {SHORTEST} to data.frames={self.frames}")
        if not self.steps:
            raise ValueError(
                f"there is no multiple of {LENGTH_STEP} in data.min_frames={self.min_frames} to "
                f"data.frames={self.frames}; clips have whole steps of {LENGTH_STEP} frames"
            )

    @property
    def steps(self) -> range:
        """The lengths of clips, in LENGTH_STEP frames."""
        return range(-(-self.min_frames // LENGTH_STEP), self.frames // LENGTH_STEP + 1)

    @property
    def media_shape(self) -> tuple[int, int]:
        """(C, F) of a clip, known without the data."""
        return representation_by_name(self.representation).size(T2M), self.frames

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(FPS)

    def build(self, token_masks: TokenMasks | None = None) -> MovesDataset:
        """The clips of the split; `token_masks` tells which tokens of a shorter clip are real."""
        return MovesDataset(self, token_masks)


class MovesDataset:
    """Moves of a split, all in memory; fulfils `core.contracts.Dataset`. No augmentation but the choice of a caption.

    media         (n, C, F) float32 in the representation's own units, made when the data set is built
    labels        (n,) int64, the actions
    lengths       (n,) int64 frames
    captions      all captions, those of a clip one after the other
    caption_rows  (n + 1,) where in `captions` those of each clip begin
    statistics    mean and deviation (C,) of all real frames of the train split
    conditions    (len(captions), ...) of the captions, or (n, ...) of the clips; the actions, until they are assigned
    assign        gives another data set of moves the conditions that this one was given; None until it was given some
    """

    assign: Callable[[MovesDataset], None] | None = None

    skeleton, num_broken = T2M, 0

    def __init__(self, config: MovesConfig, token_masks: TokenMasks | None = None, measured: Statistics | None = None):
        self.config, self.media_shape, self.token_masks = config, config.media_shape, token_masks
        self.representation, self.fps = representation_by_name(config.representation), config.fps
        self.class_names = list(CLASSES)
        self._rows = list(_rows(config))
        self.labels = torch.tensor([row % len(CLASSES) for _, row in self._rows])
        self.conditions: Any = self.labels
        self.lengths = torch.tensor([draw_length(split, row, config) for split, row in self._rows])
        self.media, self.facts = self._make()
        self.captions = [text for i, facts in enumerate(self.facts) for text in captions_of(facts, *self._seeds(i))]
        self.caption_rows = torch.arange(len(self._rows) + 1) * PER_CLIP
        self.statistics = measured or statistics(self._clips(), self.representation, T2M)
        self._pad()

    def __len__(self) -> int:
        return len(self._rows)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """`media` (C, F), `condition` of one of its captions, which `rng` draws, or of the clip, and `mask` (N,)."""
        item = {"media": self.clip_at(index), "condition": self.conditions[self._condition_row(index, rng)]}
        return item if self.token_masks is None else item | {"mask": self.mask(index)}

    def clip_at(self, index: int) -> Tensor:
        """Clip `index`, a (C, F) copy."""
        return self.media[index].clone()

    def mask(self, index: int) -> Tensor:
        """(N,) bool, true where a token is real."""
        return self.token_masks.mask(int(self.lengths[index]))

    def captions_at(self, index: int) -> list[str]:
        """The captions of a clip."""
        return self.captions[self.caption_rows[index] : self.caption_rows[index + 1]]

    def heldout(self) -> MovesDataset | None:
        """The clips that the split "train" leaves out, with the statistics and the kind of conditions of this one."""
        if self.config.split != "train":
            return None
        clips = MovesDataset(replace(self.config, split="heldout"), self.token_masks, self.statistics)
        if self.assign is not None:
            self.assign(clips)
        return clips

    def name(self, index: int) -> str:
        """The row of its split and its first caption: "clip 17 of train: a person walks backwards"."""
        split, row = self._rows[index]
        return f"clip {row} of {split}: {self.captions_at(index)[0]}"

    def _condition_row(self, index: int, rng: np.random.Generator) -> int:
        if len(self.conditions) == len(self):
            return index
        return int(self.caption_rows[index]) + int(rng.integers(PER_CLIP))

    def _seeds(self, index: int) -> tuple[str, int]:
        split, row = self._rows[index]
        return f"{split} {self.config.seed}", row

    def _make(self) -> tuple[Tensor, list[Facts]]:
        """Clips (n, C, F), the frames after their ends of no meaning, and what they show."""
        media, facts = torch.empty(len(self), *self.media_shape), []
        for indices in _batches(len(self)):
            joints, made = self._joints(indices)
            rows = self.representation.from_joints(torch.from_numpy(joints), T2M)
            media[indices.start : indices.stop] = rows.mT
            facts += made
        return media, facts

    def _joints(self, indices: range) -> tuple[np.ndarray, list[Facts]]:
        """Joints (B, F + 1, J, 3) of clips of one split or two, and what they show."""
        joints, facts = [], []
        for split in dict.fromkeys(self._seeds(i)[0] for i in indices):
            chosen = [i for i in indices if self._seeds(i)[0] == split]
            rows, lengths = [self._rows[i][1] for i in chosen], self.lengths[chosen].numpy()
            made = render(split, rows, self.config.frames + 1, lengths)
            joints.append(made[0])
            facts += made[1]
        return np.concatenate(joints), facts

    def _real(self) -> Tensor:
        """(n, F) bool, true for the frames before a clip's end."""
        return torch.arange(self.config.frames) < self.lengths[:, None]

    def _clips(self) -> Iterator[Tensor]:
        """The real frames (length, C) of each clip."""
        return (clip[:, :length].mT for clip, length in zip(self.media, self.lengths.tolist(), strict=True))

    def _pad(self) -> None:
        self.media = torch.where(self._real()[:, None], self.media, self.statistics.mean[:, None])


def draw_length(split: str, row: int, config: MovesConfig) -> int:
    """Frames of row `row` of the split "train" or "heldout", whole steps of LENGTH_STEP."""
    rng = numpy_rng("moves lengths", f"{split} {config.seed}", row)
    return LENGTH_STEP * int(rng.integers(config.steps.start, config.steps.stop))


def _rows(config: MovesConfig) -> Iterator[tuple[str, int]]:
    counts = {"train": config.num_clips, "heldout": config.num_clips // HELDOUT_PART}
    for split, count in counts.items():
        if config.split in (split, "all"):
            yield from ((split, row) for row in range(count))


def _batches(count: int) -> Iterable[range]:
    return (range(first, min(first + AT_ONCE, count)) for first in range(0, count, AT_ONCE))

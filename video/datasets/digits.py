"""scikit-learn's handwritten digits that move and bounce: clips that need no download, each a function of (split, row).

A digit crosses the canvas in its direction, is reflected at the wall, comes back, and after all frames is where it
began; beside that it drifts a little to the side. So all frames together do not tell the direction, their order does.

Letters: n clips of a split, B of them, K digits of a clip, C channels, F frames, H height, W width in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.digits import SIDE, HandwrittenDigits, check_split, read_digits
from core.draws import numpy_rng
from video.datasets.clips import ClipConfig, FrameMasks

DIRECTIONS = {"right": (0, 1), "left": (0, -1), "up": (-1, 0), "down": (1, 0)}  # along rows, along columns
NUM_DIGITS = 10
CLASSES = [f"{digit} {direction}" for digit in range(NUM_DIGITS) for direction in DIRECTIONS]
HELDOUT_PART = 20  # the held-out split has so many times fewer clips than the train split
WIDEST_DRIFT = 0.25  # of the speed
SMALLEST, LARGEST = 10, 256  # pixels of the canvas
AT_ONCE = 256  # clips that are rendered together
FPS = 8.0  # at which such clips are shown


@dataclass(frozen=True)
class DigitsConfig:
    """scikit-learn's digits, moving and bouncing in a small square canvas; 40 classes, digit and direction.

    split      train, heldout (other drawings, a twentieth as many clips), or all
    num_clips  of the train split
    digits     in a clip: one, or two of the same class
    size       side of the canvas, pixels
    clip       its frames; a digit crosses the canvas and comes back in them
    """

    split: Literal["train", "heldout", "all"] = "train"
    num_clips: int = 8000
    digits: Literal[1, 2] = 1
    size: int = 12
    clip: ClipConfig = field(default_factory=ClipConfig)

    def __post_init__(self) -> None:
        check_split(self.split)
        if self.num_clips < HELDOUT_PART:
            raise ValueError(f"data.num_clips is {self.num_clips}; it must be at least {HELDOUT_PART}")
        if self.digits not in (1, 2):
            raise ValueError(f"data.digits is {self.digits!r}; allowed: 1 or 2 in a clip")
        if not SMALLEST <= self.size <= LARGEST:
            raise ValueError(f"data.size is {self.size}; allowed: {SMALLEST} to {LARGEST} pixels")
        if self.clip.fps is not None or self.clip.stride != 1:
            raise ValueError(
                f"data.clip.fps is {self.clip.fps} and data.clip.stride {self.clip.stride}; moving digits are made "
                "frame by frame: allowed are null and 1"
            )

    @property
    def media_shape(self) -> tuple[int, int, int, int]:
        """(C, F, H, W) of a clip, known without the data."""
        return 1, self.clip.frames, self.size, self.size

    @property
    def fps(self) -> float:
        """Frames a second at which clips are shown."""
        return FPS

    @property
    def transform(self) -> dict[str, Any]:
        """What decides the pixels of a given row."""
        return {"size": self.size, "frames": self.clip.frames, "digits": self.digits, "channels": 1}

    def build(self, frame_masks: FrameMasks | None = None) -> DigitsDataset:
        """The clips of the split; a clip has all its frames, so that there is nothing to mask."""
        return DigitsDataset(self)


@dataclass(frozen=True)
class MovingDigits:
    """What a clip shows.

    split, row   of the clip
    label        its class
    drawings     (K,) numbers within the digits of that class in the split
    starts       (K, 2) rows and columns of the upper left corners in the first frame, pixels
    velocities   (K, 2) pixels a frame
    """

    split: str
    row: int
    label: int
    drawings: np.ndarray
    starts: np.ndarray
    velocities: np.ndarray

    @property
    def digit(self) -> int:
        """0 to 9."""
        return self.label // len(DIRECTIONS)

    @property
    def direction(self) -> str:
        """One of DIRECTIONS."""
        return list(DIRECTIONS)[self.label % len(DIRECTIONS)]

    def positions(self, frames: int, room: float) -> np.ndarray:
        """Upper left corners (K, F, 2) in pixels from 0 to `room`, reflected at both walls."""
        free = self.starts[:, None] + self.velocities[:, None] * np.arange(frames)[None, :, None]
        return room - np.abs(room - free % (2 * room))


def draw_clip(split: str, row: int, counts: Sequence[int], config: DigitsConfig) -> MovingDigits:
    """Row `row` of the split "train" or "heldout"; counts: how many drawings of each of the ten digits there are."""
    rng = numpy_rng("moving digits", split, row)
    label = row % len(CLASSES)
    digit, direction = divmod(label, len(DIRECTIONS))
    towards = np.array(list(DIRECTIONS.values())[direction])
    along = int(np.abs(towards).argmax())
    room = config.size - SIDE
    speed = 2 * room / config.clip.frames
    drawings = rng.choice(counts[digit], config.digits, replace=False)
    starts, velocities = np.empty((config.digits, 2)), np.empty((config.digits, 2))
    behind = rng.uniform(0, room / 4, config.digits)  # of the wall that it comes from
    starts[:, along] = behind if towards[along] > 0 else room - behind
    starts[:, 1 - along] = rng.uniform(0, room, config.digits)
    velocities[:, along] = speed * towards[along]
    velocities[:, 1 - along] = speed * rng.uniform(-WIDEST_DRIFT, WIDEST_DRIFT, config.digits)
    return MovingDigits(split, row, label, drawings, starts, velocities)


def render(images: Tensor, positions: Tensor, size: int) -> Tensor:
    """Drawings (B, K, 8, 8) in [0, 1] at corners (B, K, F, 2) in pixels as clips (B, F, H, W) in [0, 1].

    Where two lie over each other, the brighter is seen. Between pixels a drawing is a cubic spline, so that it moves
    smoothly.
    """
    offsets = torch.arange(size)[:, None] - torch.arange(SIDE)
    rows, columns = (spline(offsets - positions[..., axis, None, None]) for axis in (0, 1))
    clips = rows @ images[:, :, None] @ columns.mT  # (B, K, F, H, W)
    return clips.amax(1).clamp(0, 1)


def spline(x: Tensor) -> Tensor:
    """Mitchell and Netravali's cubic kernel (B = C = 1/3), for distances in pixels; it sums to 1 over whole steps."""
    x = x.abs()
    near = (7 * x**3 - 12 * x**2 + 16 / 3) / 6
    far = (-7 / 3 * x**3 + 12 * x**2 - 20 * x + 32 / 3) / 6
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


class DigitsDataset:
    """Moving digits of a split, rendered when they are asked for; fulfils `core.contracts.Dataset`. No augmentation.

    labels       (n,) int64, digit and direction; also `conditions`
    media_shape  (C, F, H, W)
    """

    captions = None
    num_broken = 0

    def __init__(self, config: DigitsConfig):
        self.config, self.media_shape, self.fps = config, config.media_shape, FPS
        self.class_names = list(CLASSES)
        self._rows = list(_rows(config))
        self.labels = torch.tensor([row % len(CLASSES) for _, row in self._rows])
        self.conditions = self.labels
        self._digits = {split: _by_digit(read_digits(split)) for split in dict.fromkeys(each for each, _ in self._rows)}

    def __len__(self) -> int:
        return len(self._rows)

    def describe(self, index: int) -> MovingDigits:
        """What clip `index` shows."""
        split, row = self._rows[index]
        return draw_clip(split, row, [len(images) for images in self._digits[split]], self.config)

    def clips_at(self, indices: Iterable[int]) -> Tensor:
        """Clips (B, C, F, H, W) float32 in [-1, 1]."""
        config, shown = self.config, [self.describe(index) for index in indices]
        images = [self._digits[each.split][each.digit][each.drawings] for each in shown]
        positions = [each.positions(config.clip.frames, config.size - SIDE) for each in shown]
        clips = render(torch.stack(images), torch.from_numpy(np.stack(positions)).float(), config.size)
        return 2 * clips[:, None] - 1

    def clip_at(self, index: int) -> Tensor:
        """Clip `index`, (C, F, H, W) float32 in [-1, 1]."""
        return self.clips_at([index])[0]

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """`media` (C, F, H, W) float32 in [-1, 1] and `condition`; `rng` is not used."""
        return {"media": self.clip_at(index), "condition": self.conditions[index]}

    def items(self, indices: np.ndarray, rngs: Iterable[np.random.Generator]) -> dict[str, Tensor]:
        """`media` (B, C, F, H, W) and `condition` (B,); nothing is drawn."""
        return {"media": self.clips_at(indices.tolist()), "condition": self.conditions[torch.from_numpy(indices)]}

    def all(self) -> Tensor:
        """All clips (n, C, F, H, W)."""
        rows = range(len(self))
        return torch.cat([self.clips_at(rows[first : first + AT_ONCE]) for first in rows[::AT_ONCE]])

    def heldout(self) -> DigitsDataset | None:
        """The clips that the split "train" leaves out."""
        return replace(self.config, split="heldout").build() if self.config.split == "train" else None

    def name(self, index: int) -> str:
        """The row of its split and what is shown: "clip 17 of train: 4 left"."""
        split, row = self._rows[index]
        return f"clip {row} of {split}: {CLASSES[row % len(CLASSES)]}"


def _rows(config: DigitsConfig) -> Iterator[tuple[str, int]]:
    counts = {"train": config.num_clips, "heldout": config.num_clips // HELDOUT_PART}
    for split, count in counts.items():
        if config.split in (split, "all"):
            yield from ((split, row) for row in range(count))


def _by_digit(digits: HandwrittenDigits) -> list[Tensor]:
    """The drawings (n, 8, 8) in [0, 1] of each digit."""
    return [(digits.images[digits.labels == digit] + 1) / 2 for digit in range(NUM_DIGITS)]

"""Synthesised instrument notes: the audio domain's data set that needs no download.

Every note is a function of (split, row): its timbre is the row modulo the number of timbres; pitch, velocity, place
between the loudspeakers, phases and noise come from a generator of its own.

Letters: n notes, C channels (1 or 2), L samples in time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from audio.sounds.sound import MAX_SAMPLE_RATE, MAX_SECONDS, ClipFormat
from audio.sounds.synthesis import TIMBRES, Note, place, render
from core.draws import numpy_rng

SPLITS = ("train", "heldout", "all")
HELDOUT_PART = 5  # the held-out split has a fifth of the notes of the train split
LOWEST, HIGHEST = 48, 76  # MIDI keys, C3 to E5
SOFTEST = 0.3  # velocity
WIDEST = 0.8  # pan
MIN_SAMPLE_RATE = 8000  # Hz; less leaves nothing of a hi-hat
MIN_SECONDS = 0.1
KEYS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


@dataclass(frozen=True)
class NotesConfig:
    """Notes of twelve synthesised instruments, as many of each.

    split        "train", "heldout" (other notes, a fifth as many) or "all"
    num_notes    notes of the train split
    sample_rate  samples a second, Hz
    seconds      length of a clip; a note is played to fit
    channels     2 for stereo, each note at its own place, or 1
    """

    split: Literal["train", "heldout", "all"] = "train"
    num_notes: int = 2400
    sample_rate: int = 16000
    seconds: float = 1.024
    channels: Literal[1, 2] = 2

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"data.split is {self.split!r}; allowed: {list(SPLITS)}")
        if self.num_notes < HELDOUT_PART:
            raise ValueError(f"data.num_notes is {self.num_notes!r}; allowed: {HELDOUT_PART} notes or more")
        if not MIN_SAMPLE_RATE <= self.sample_rate <= MAX_SAMPLE_RATE:
            allowed = f"{MIN_SAMPLE_RATE} Hz or more, {MAX_SAMPLE_RATE} at most"
            raise ValueError(f"data.sample_rate is {self.sample_rate!r}; allowed: {allowed}")
        if not MIN_SECONDS <= self.seconds <= MAX_SECONDS:
            raise ValueError(
                f"data.seconds is {self.seconds!r}; allowed: {MIN_SECONDS} s or more, {MAX_SECONDS} at most"
            )
        if self.channels not in (1, 2):
            raise ValueError(f"data.channels is {self.channels!r}; allowed: 1 (mono) or 2 (stereo)")

    def build(self, clip: ClipFormat, patch_size: int) -> NotesDataset:
        """The data set of clips of that format, whatever the backbone's patch is."""
        return NotesDataset(self, clip)


@dataclass(frozen=True)
class NoteFacts:
    """What row `row` of a split holds: the timbre's name, its MIDI key, velocity in [0, 1], pan in [-1, 1]."""

    split: str
    row: int
    timbre: str
    key: int
    velocity: float
    pan: float

    @property
    def f0(self) -> float:
        """The key's pitch, Hz, in equal temperament with A4 = 440 Hz."""
        return 440 * 2 ** ((self.key - 69) / 12)

    @property
    def pitch_name(self) -> str:
        """The key in words: 69 is A4."""
        return f"{KEYS[self.key % 12]}{self.key // 12 - 1}"


def draw_note(split: str, row: int) -> tuple[NoteFacts, np.random.Generator]:
    """Row `row` of the split "train" or "heldout", and the generator that goes on to its phases and noise."""
    rng = numpy_rng("notes", split, row)
    timbre = list(TIMBRES)[row % len(TIMBRES)]
    key = int(rng.integers(LOWEST, HIGHEST + 1))
    return NoteFacts(split, row, timbre, key, rng.uniform(SOFTEST, 1), rng.uniform(-WIDEST, WIDEST)), rng


def play(split: str, row: int, clip: ClipFormat) -> np.ndarray:
    """Row `row` of the split "train" or "heldout" as samples (C, L) in (-1, 1); mono is before it is placed."""
    facts, rng = draw_note(split, row)
    samples = render(facts.timbre, Note(facts.f0, facts.velocity, clip.num_samples, clip.sample_rate), rng)
    return place(samples, facts.pan) if clip.channels == 2 else samples[None]


class NotesDataset:
    """Notes of a split, all in memory; fulfils `core.contracts.Dataset`. No augmentation.

    media        (n, C, L) float32 in (-1, 1), rendered when the data set is built, at about 2 ms a second of sound
    labels       (n,) int64, the timbres; also `conditions`
    media_shape  (C, L)

    Raises ValueError for a clip of another rate or number of channels than the config's.
    """

    def __init__(self, config: NotesConfig, clip: ClipFormat):
        for key in ("sample_rate", "channels"):
            if getattr(config, key) != getattr(clip, key):
                raise ValueError(
                    f"data.{key} is {getattr(config, key)}, but clips of {getattr(clip, key)} are asked for"
                )
        self.config, self.clip, self.media_shape = config, clip, clip.shape
        self.class_names: list[str] = list(TIMBRES)
        self.tag_names: list[str] = []
        self.tag_sets = None
        self.captions = None
        self.lengths = None
        self._rows = list(_rows(config))
        self.labels = torch.tensor([row % len(TIMBRES) for _, row in self._rows])
        self.conditions = self.labels
        self.media = torch.empty(len(self._rows), *clip.shape)
        for index, (split, row) in enumerate(self._rows):
            self.media[index] = torch.from_numpy(play(split, row, clip))

    def __len__(self) -> int:
        return len(self._rows)

    def clip_at(self, index: int) -> Tensor:
        """Note `index`, a (C, L) copy."""
        return self.media[index].clone()

    def mask(self, index: int) -> Tensor:
        """(N,) bool, True: a note fills its clip."""
        return torch.ones(self.clip.num_tokens, dtype=torch.bool)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """`media` (C, L) float32 in (-1, 1) and `condition`; `rng` is not used."""
        return {"media": self.clip_at(index), "condition": self.conditions[index]}

    def heldout(self) -> NotesDataset | None:
        """The notes that the split "train" leaves out."""
        if self.config.split != "train":
            return None
        return NotesDataset(dataclasses.replace(self.config, split="heldout"), self.clip)

    def describe(self, index: int) -> NoteFacts:
        """What note `index` is."""
        return draw_note(*self._rows[index])[0]

    def name(self, index: int) -> str:
        """The row of its split and what is played: "note 17 of train: piano, A3, velocity 0.6"."""
        facts = self.describe(index)
        played = f"{facts.timbre}, {facts.pitch_name}, velocity {facts.velocity:.1f}"
        return f"note {facts.row} of {facts.split}: {played}"


def _rows(config: NotesConfig) -> Iterator[tuple[str, int]]:
    counts = {"train": config.num_notes, "heldout": config.num_notes // HELDOUT_PART}
    for split, count in counts.items():
        if config.split in (split, "all"):
            yield from ((split, row) for row in range(count))

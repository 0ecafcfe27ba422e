"""Clips to be measured: files of a folder, notes in memory, samples of a run; each gives its clips as sounds.

A folder that `python -m audio.sample` wrote says beside its files what each was asked to be, in conditions.json.

Letters: n clips, B batch, C channels, L samples in time.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from audio.datasets.notes import NotesDataset
from audio.sounds.files import AUDIO, AUDIO_SUFFIXES, AudioFacts, probe, read, tell_cut_off
from audio.sounds.sound import ClipFormat, Sound
from audio.sounds.synthesis import TIMBRES
from core.data.captions import composed, in_any_form
from core.data.files import files_under
from core.storage.arrays import npz_keys
from core.storage.atomic import sha256_file
from core.storage.json_files import read_json
from core.storage.provenance import json_sha256
from eval.measure.generated import ChunkMedia, Chunks
from eval.measure.media import Media
from eval.measure.reference import FACTS, MediaReference, Reference, Size, StatisticsReference

UNIT = "clip"
SHORTEST_SECONDS = 0.1  # less has no pitch and no rhythm to be measured
MAX_THREADS = 8
MARGIN_SECONDS = 0.25  # read on each side of a window, for the filter that resamples it
PERIODS_OF = 16_000  # Hz: a cut falls on a whole period of the filters to 16, 32 and 48 kHz
SAMPLED, CONDITIONS = "wav", "conditions.json"  # of what `python -m audio.sample` writes
NO_CONDITION = re.compile(r"no class|no tag|sample \d+")  # titles that say nothing of a clip


class FolderSounds(Media):
    """Audio files at any depth below a folder, in the order of their paths; lengths, rates and channels may differ.

    window  seconds of a longer file that are read, its central part; a little more on both sides is read, and what
            is beyond is not decoded. null: whole files

    Raises ValueError, naming the file, for one that is broken or shorter than 0.1 s.
    """

    kind, unit = "folder", UNIT

    def __init__(self, folder: Path, window: float | None = None):
        self.folder, self.window, self.name = folder, window, folder.name
        self.paths = files_under(folder, AUDIO.suffixes, AUDIO.others)
        if not self.paths:
            raise ValueError(f"{folder} holds no audio file ({', '.join(AUDIO_SUFFIXES)})")
        self.names = [composed(str(path.relative_to(folder).with_suffix(""))) for path in self.paths]
        if len(set(self.names)) < len(self.names):
            self.names = None  # two files of one name are no pair of anything
        with ThreadPoolExecutor(MAX_THREADS) as pool:
            self.facts_of_files = list(pool.map(probe, self.paths))
        tell_cut_off(
            {str(path.relative_to(folder)): facts for path, facts in zip(self.paths, self.facts_of_files, strict=True)}
        )
        for path, facts in zip(self.paths, self.facts_of_files, strict=True):
            if facts.seconds < SHORTEST_SECONDS:
                raise ValueError(f"{path} lasts {facts.seconds:.3g} s; needed: {SHORTEST_SECONDS} s at least")

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, first: int, last: int) -> list[Sound]:
        """Decoded on several threads."""
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            return list(pool.map(self._read, self.paths[first:last], self.facts_of_files[first:last]))

    def _read(self, path: Path, facts: AudioFacts) -> Sound:
        return read(path, *central_span(facts, self.window))

    def check_format(self, clip: ClipFormat) -> None:
        """Raises ValueError, naming the first file of another format than `clip`, for features that take no other."""
        needed = (clip.channels, clip.num_samples, clip.sample_rate)
        for path, facts in zip(self.paths, self.facts_of_files, strict=True):
            found = (facts.channels, facts.frames, facts.sample_rate)
            if found != needed:
                raise ValueError(
                    f"{path} is a clip of {found} (channels, samples, Hz); features=notes takes those of {needed}, "
                    "samples of a run with data=notes; features=clap_music, say, takes any"
                )

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 over every path below the folder and its file's SHA-256."""
        return json_sha256({str(path.relative_to(self.folder)): sha256_file(path) for path in self.paths})

    def read_conditions(self) -> None:
        """Take over what conditions.json says, where it lies beside the files: file's path -> a class or a text.

        Raises ValueError for one that is damaged or passes over a file.
        """
        file = self.folder / CONDITIONS
        if not file.is_file():
            return
        content = read_json(file)
        paths = [str(path.relative_to(self.folder)) for path in self.paths]
        titles_by_path = in_any_form(content if isinstance(content, dict) else {}, paths)
        lacking = [path for path in paths if not isinstance(titles_by_path.get(path), str)]
        if lacking:
            raise ValueError(f"{file} does not say what {len(lacking)} of {len(paths)} files are, such as {lacking[0]}")
        titles = [titles_by_path[path] for path in paths]
        self.texts = None if any(NO_CONDITION.fullmatch(title) for title in titles) else titles
        self.labels = labels_of(titles)


def central_span(facts: AudioFacts, window: float | None) -> tuple[int, int]:
    """First sample and number of samples of a file that are read for its central `window` seconds.

    As many are left out on both sides, and whole periods of the resampling filter, so that the central part of what is
    read is, sample for sample, that of the whole file at 16, 32 or 48 kHz.
    """
    if window is None:
        return 0, facts.frames
    wanted = int((window + 2 * MARGIN_SECONDS) * facts.sample_rate)
    period = facts.sample_rate // math.gcd(facts.sample_rate, PERIODS_OF)
    left_out = max(0, (facts.frames - wanted) // 2) // period * period
    return left_out, facts.frames - 2 * left_out


def labels_of(titles: Sequence[str]) -> Tensor | None:
    """The timbres (n,) int64 of notes that go by these names; None where any is none."""
    timbres = list(TIMBRES)
    if not set(titles) <= set(timbres):
        return None
    return torch.tensor([timbres.index(title) for title in titles])


class NotesSounds(Media):
    """Notes of a split, in memory."""

    kind, unit = "data set", UNIT

    def __init__(self, name: str, notes: NotesDataset):
        self.name, self.notes, self.labels = name, notes, notes.labels

    def __len__(self) -> int:
        return len(self.notes)

    def rows(self, first: int, last: int) -> list[Sound]:
        """(C, L) each."""
        return [Sound(samples, self.notes.clip.sample_rate) for samples in self.notes.media[first:last]]

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 over their shape, rate and samples."""
        content = hashlib.sha256(self.notes.media.numpy().tobytes()).hexdigest()
        return json_sha256([list(self.notes.media.shape), self.notes.clip.sample_rate, content])


class ChunkSounds(ChunkMedia):
    """Samples of a run in chunks that are all there.

    texts     n, the text that each sample was made of, or None
    labelled  whether their conditions are classes
    """

    def __init__(self, chunks: Chunks, name: str, sample_rate: int, texts: list[str] | None, labelled: bool):
        super().__init__(chunks, name, UNIT)
        self.sample_rate, self.texts = sample_rate, texts
        self.labels = chunks.conditions if labelled else None

    def rows(self, first: int, last: int) -> list[Sound]:
        """(C, L) each, as the form gives them back."""
        return [Sound(samples, self.sample_rate) for samples in super().rows(first, last)]


def open_sounds(path: Path, key: str, window: float | None = None) -> FolderSounds:
    """The clips in a folder of files, or in one that `python -m audio.sample` wrote.

    Raises ValueError naming the config key for anything else, and as `FolderSounds` does.
    """
    if path.is_dir():
        written = (path / "protocol.yaml").is_file() and (path / SAMPLED).is_dir()
        return FolderSounds(path / SAMPLED if written else path, window)
    what = "a file" if path.exists() else "not there"
    raise ValueError(f"{key} is {str(path)!r}, which is {what}; allowed: a folder of audio files")


def in_turn(texts: Sequence[str], count: int) -> list[str]:
    """The texts of `count` samples, which cycle through `texts`."""
    return [texts[place % len(texts)] for place in range(count)]


KEY = "real"
NOTES = {"notes": "train", "notes_heldout": "heldout"}  # real=NAME -> the split


def size_of(clips: Media) -> Size:
    """Samples and sample rate of the first clip."""
    first = clips.rows(0, 1)[0]
    return first.samples.shape[-1], first.sample_rate


def open_reference(value: str, window: float | None) -> Reference:
    """Open what the config key `real` names, notes apart; ValueError for what is none, and for a damaged file.

    window: seconds of a longer file that are read; None: all of it.
    """
    path = Path(value).expanduser()
    if path.is_file() and path.suffix == ".npz":
        if FACTS not in npz_keys(path):
            raise ValueError(
                f"{KEY} is {value!r}, which does not say which features it was measured in; allowed: what "
                "save_reference wrote, or the clips themselves"
            )
        return StatisticsReference(path, UNIT, KEY)
    try:
        return of_clips(open_sounds(path, KEY, window))
    except ValueError as error:
        if path.exists():
            raise
        raise ValueError(f"{error}, statistics (.npz), or {', '.join(NOTES)}") from None


def of_clips(clips: Media) -> MediaReference:
    """Clips to compare with."""
    return MediaReference(clips, size_of(clips))

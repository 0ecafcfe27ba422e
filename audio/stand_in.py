"""What the default run measures: the Fréchet distance and class accuracy of notes, by a small classifier of timbres.

A stand-in for FAD with CLAP on sounds that need no download; its numbers compare runs on notes and nothing else.

Letters: B batch, C channels, L samples, M mel bands, F frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from audio.data import clip_format
from audio.datasets.notes import HELDOUT_PART, NotesConfig, NotesDataset
from audio.sounds.fourier import power_of
from audio.sounds.sound import ClipFormat, Sound
from audio.sounds.synthesis import TIMBRES
from core.draws import StepRandom
from core.schema import plain
from core.storage.provenance import json_sha256
from eval.measure.stand_in import (
    Classifier,
    ClassifierOptions,
    NoEvaluationConfig,
    StandInEvaluator,
    StandInExtractor,
)

FEATURES = 64
BANDS, WINDOW_SECONDS, HOP_SECONDS = 48, 0.064, 0.016
FLOOR_DB = -60.0  # of mel power, under a sine of full scale
GAIN_DB = 6.0  # the classifier is trained on notes this much louder or softer,
NOISE_DB = (-80.0, -40.0)  # under noise of a level between these, so that it tells timbres and not a noise floor
WIDTHS = (24, 48, FEATURES)


@dataclass(frozen=True)
class NotesEvaluationConfig(ClassifierOptions):
    """The default's evaluation, with as many steps as its classifier needs."""

    classifier_steps: int = 300

    def build(self, cache: Path, device: torch.device, data: NotesConfig, notes: NotesDataset) -> StandInEvaluator:
        """The evaluator for clips as those of `notes`, with its classifier from the cache or trained now (seconds)."""
        return StandInEvaluator(NotesFeatures(NotesSource(self, data, notes.clip, cache), device))


EVALUATIONS = {"notes": NotesEvaluationConfig, "none": NoEvaluationConfig}


class TimbreClassifier(Classifier):
    """Three convolutions over the log-mel spectrogram of the channels' mean power, and their means over the picture."""

    def __init__(self, sample_rate: int, num_classes: int):
        super().__init__()
        n_fft = 1 << (round(WINDOW_SECONDS * sample_rate) - 1).bit_length()
        hop = round(HOP_SECONDS * sample_rate)
        self.mel = MelSpectrogram(sample_rate, n_fft, hop_length=hop, n_mels=BANDS, power=None)
        self.full_scale = (n_fft / 4) ** 2  # power of a sine of amplitude 1 under a Hann window
        layers, before = [], 1
        for width in WIDTHS:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(4, width), nn.GELU()]
            before = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, num_classes)

    def features(self, media: Tensor) -> Tensor:
        """Clips (B, C, L) in [-1, 1] -> (B, 64)."""
        power = power_of(self.mel.spectrogram(media)).mean(1) / self.full_scale
        power = self.mel.mel_scale(power)  # (B, M, F)
        picture = rearrange(power.clamp_min(10 ** (FLOOR_DB / 10)).log10() * (-20 / FLOOR_DB) + 1, "b m f -> b 1 m f")
        return self.layers(picture).mean((2, 3))


@dataclass(frozen=True)
class NotesSource:
    """The notes of one format, the options of their classifier, and where it is cached."""

    options: NotesEvaluationConfig
    data: NotesConfig
    clip: ClipFormat
    cache: Path

    @classmethod
    def default(cls, cache: Path) -> NotesSource:
        """The notes of `data=notes` and `evaluation=notes` as they stand; clips of all samples, whatever tokenizer."""
        data = NotesConfig()
        return cls(NotesEvaluationConfig(), data, clip_format(data, hop=1, patch_size=1), cache)

    def config(self, split: str) -> NotesConfig:
        """The notes of the split "train" or "heldout"."""
        return NotesConfig(split, self.data.num_notes, self.data.sample_rate, self.data.seconds, self.data.channels)

    def dataset(self, split: str) -> NotesDataset:
        """The notes of the split, played."""
        return NotesDataset(self.config(split), self.clip)

    @property
    def num_samples(self) -> int:
        """The number of samples that the training measures."""
        return self.options.num_samples or self.data.num_notes // HELDOUT_PART


class NotesFeatures(StandInExtractor):
    """The classifier of timbres: hidden (B, 64), and logits (B, K) for class accuracy."""

    name, title, plural = "notes", "timbre classifier", "clips"
    preprocessing = "log-mels of the channels' mean power, as evaluation=notes has them"
    fit_rows = 64

    def __init__(self, source: NotesSource, device: torch.device):
        self.source, self.shape = source, source.clip.shape
        super().__init__(source.options, source.cache, device)

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """Notes (n, C, L) and their timbres."""
        notes = self.source.dataset(name)
        return notes.media, notes.labels

    def network(self) -> TimbreClassifier:
        """An untrained classifier."""
        return TimbreClassifier(self.source.clip.sample_rate, len(TIMBRES))

    def variant(self) -> str:
        """A hash of the notes and of the length of their clips."""
        identity = json_sha256([plain(self.source.config("train")), self.source.clip.num_samples])
        return f"-{identity[:12]}"

    def augment(self, media: Tensor, random: StepRandom) -> Tensor:
        """Notes (B, C, L) at another level and under a little noise, each its own."""
        rows = (len(media), 1, 1)
        gain_db = GAIN_DB * (2 * random.uniform("gain", rows) - 1)
        noise_db = NOISE_DB[0] + (NOISE_DB[1] - NOISE_DB[0]) * random.uniform("noise level", rows)
        noise = random.normal("noise", tuple(media.shape))
        return media * 10 ** (gain_db / 20) + noise * 10 ** (noise_db / 20)

    def prepare(self, rows: list[Sound]) -> Tensor:
        """Clips (B, C, L); ValueError for one of another format than the notes'."""
        clip = self.source.clip
        for sound in rows:
            found, needed = ((*sound.samples.shape, sound.sample_rate), (*clip.shape, clip.sample_rate))
            if found != needed:
                raise ValueError(
                    f"features=notes takes clips of {needed} (channels, samples, Hz), got {found}; they are for "
                    "samples of a run with data=notes"
                )
        return torch.stack([sound.samples for sound in rows])

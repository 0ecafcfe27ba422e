"""What the default run measures: the Fréchet distance and class accuracy of notes, in the eyes of a small classifier.

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
from audio.datasets.notes import NotesConfig, NotesDataset
from audio.sounds.fourier import power_of
from audio.sounds.sound import ClipFormat
from core.draws import StepRandom
from core.schema import plain
from core.storage.provenance import json_sha256
from eval.measure.stand_in import (
    Classifier,
    ClassifierEvaluator,
    ClassifierOptions,
    Fit,
    NoEvaluationConfig,
    StandIn,
    fit_classifier,
)

FEATURES = 64
BANDS, WINDOW_SECONDS, HOP_SECONDS = 48, 0.064, 0.016
FLOOR_DB = -60.0  # of mel power, under a sine of full scale
GAIN_DB = 6.0  # the classifier is trained on notes this much louder or softer,
NOISE_DB = (-80.0, -40.0)  # under noise of a level between these, so that it hears timbres and not a noise floor
WIDTHS = (24, 48, FEATURES)


@dataclass(frozen=True)
class NotesEvaluationConfig(ClassifierOptions):
    """The default's evaluation, with as many steps as its classifier needs."""

    classifier_steps: int = 300


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


def played_elsewhere(notes: Tensor, random: StepRandom) -> Tensor:
    """Notes (B, C, L) at another level and under a little noise, each its own."""
    rows = (len(notes), 1, 1)
    gain_db = GAIN_DB * (2 * random.uniform("gain", rows) - 1)
    noise_db = NOISE_DB[0] + (NOISE_DB[1] - NOISE_DB[0]) * random.uniform("noise level", rows)
    noise = random.normal("noise", tuple(notes.shape))
    return notes * 10 ** (gain_db / 20) + noise * 10 ** (noise_db / 20)


def train_timbres(notes: NotesDataset, media: Tensor, labels: Tensor, fit: Fit) -> nn.Module:
    """The classifier of a format's notes, trained on media (n, C, L); the same for the same `fit`."""
    sizes = (notes.clip.sample_rate, len(notes.class_names))
    return fit_classifier(lambda: TimbreClassifier(*sizes), media, labels, fit, played_elsewhere)


def build_evaluator(
    config: NotesEvaluationConfig, data: NotesConfig, clip: ClipFormat, cache: Path, device: torch.device
) -> ClassifierEvaluator:
    """The evaluator for notes of one format, with its classifier from the cache or trained now (seconds)."""
    splits = {split: NotesDataset(notes_of(data, split), clip) for split in ("train", "heldout")}
    train, heldout = splits.values()
    fit = Fit("timbre classifier", config.classifier_steps, config.classifier_seed, batch=64)
    identity = json_sha256([plain(notes_of(data, "train")), clip.num_samples])[:12]
    about = StandIn(
        name="notes",
        media="clips",
        title="timbre classifier",
        train=(train.media, train.labels),
        heldout=(heldout.media, heldout.labels),
        make=lambda: TimbreClassifier(clip.sample_rate, len(train.class_names)),
        fit=lambda media, labels: train_timbres(train, media, labels, fit),
        file=cache / f"timbre_classifier-{identity}-steps{fit.steps}-seed{fit.seed}.safetensors",
    )
    return ClassifierEvaluator(about, config.num_samples, device)


def notes_of(data: NotesConfig, split: str) -> NotesConfig:
    """The same notes, of another split."""
    return NotesConfig(split, data.num_notes, data.sample_rate, data.seconds, data.channels)


def notes_clip(data: NotesConfig) -> ClipFormat:
    """Clips of all samples of the notes, whatever tokenizer has them."""
    return clip_format(data, hop=1, patch_size=1)

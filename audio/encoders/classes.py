"""Any audio classifier of transformers as an extractor: the logits of its classes, for KL divergences.

AST on AudioSet is such a one: a directory with config.json, preprocessor_config.json and model.safetensors.

Letters: B clips, L samples in time, K classes.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio.encoders.clap import CONFIG, PREPROCESSOR
from audio.encoders.protocols import ONE_WINDOW, WindowProtocol
from audio.sounds.sound import Sound
from core.extras import import_transformers
from core.storage.atomic import sha256_file
from core.storage.json_files import read_mapping
from core.storage.pretrained import LOCAL, check_directory, read_pretrained
from core.storage.provenance import json_sha256
from eval.measure.extractor import Extractor

NAME = "classifier"
LENGTHS = ("nb_max_samples", "n_samples")  # how front ends call the samples that they take
FRAME_SECONDS = 0.01  # of AST's front end, which counts its length in frames


class ClassifierFeatures(Extractor):
    """Logits (B, K) of the central window of each clip; the window is as long as the network's front end takes."""

    name, main = NAME, "logits"

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        """Raises ValueError for a directory that is none, ImportError without the extra `eval`."""
        self.device = torch.device(device)
        self.front = read_front(folder)
        files = [folder / CONFIG, folder / PREPROCESSOR, *sorted(folder.glob("*.safetensors"))]
        kind = import_transformers(NAME, "eval").AutoModelForAudioClassification
        self.network = read_pretrained(kind, folder, NAME).float().eval().requires_grad_(False).to(self.device)
        self.weights_sha256 = json_sha256({file.name: sha256_file(file) for file in files})
        self.protocol = WindowProtocol(seconds=window_seconds(self.front), resampling=ONE_WINDOW.resampling)

    @property
    def preprocessing(self) -> str:
        """The protocol, and which front end follows."""
        front = f"{type(self.front).__name__} at {self.front.sampling_rate} Hz"
        return f"{self.protocol.text}; {self.protocol.windows_text}; {front}; logits of {type(self.network).__name__}"

    @torch.no_grad()
    def __call__(self, rows: list[Sound]) -> dict[str, Tensor]:
        """Clips of any length and rate -> logits (B, K) float32 on the CPU.

        Clips of one length go through the network together, so that none is filled up for its neighbours' sake. Raises
        ValueError, naming the clip, for NaN, no sample, or a rate that cannot be resampled.
        """
        if not rows:
            raise ValueError(f"{NAME} was given no clip")
        windows = [self._window(sound, f"clip {place} of {len(rows)}") for place, sound in enumerate(rows)]
        return {"logits": torch.cat([self._logits(list(group)) for _, group in groupby(windows, len)])}

    def _window(self, sound: Sound, name: str) -> Tensor:
        rate = self.front.sampling_rate
        (window,) = self.protocol.windows(self.protocol.waveform(sound, rate, name), rate)
        return window

    def _logits(self, windows: list[Tensor]) -> Tensor:
        shown = [window.numpy() for window in windows]
        inputs = self.front(shown, sampling_rate=self.front.sampling_rate, return_tensors="pt")
        return self.network(**{name: value.to(self.device) for name, value in inputs.items()}).logits.float().cpu()


def read_front(folder: Path) -> Any:
    """The front end of a directory's network; ValueError for files that are missing or damaged."""
    missing = [name for name in (CONFIG, PREPROCESSOR) if not (folder / name).is_file()]
    if missing or not list(folder.glob("*.safetensors")):
        lacking = ", ".join([*missing, *["weights (.safetensors)"] * (not list(folder.glob("*.safetensors")))])
        raise ValueError(f"{NAME} is {str(folder)!r}, which lacks {lacking}; needed: a directory of transformers")
    transformers = import_transformers(NAME, "eval")
    check_directory(folder, NAME)
    read_mapping(folder / PREPROCESSOR)
    try:
        return transformers.AutoFeatureExtractor.from_pretrained(str(folder), **LOCAL)
    except Exception as error:  # a damaged file fails in ways that transformers does not name
        raise ValueError(f"{NAME}: {folder / PREPROCESSOR} cannot be read: {error}") from error


def window_seconds(front: Any) -> float:
    """How much of a clip a front end takes: what it says itself, or 10 s where it takes any length."""
    for name in LENGTHS:
        if getattr(front, name, None):
            return getattr(front, name) / front.sampling_rate
    if type(front).__name__.startswith("AST"):
        return front.max_length * FRAME_SECONDS
    return ONE_WINDOW.seconds

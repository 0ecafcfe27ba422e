"""How clips sound to a network: CLAP, VGGish, an audio classifier, and the default's classifier of notes.

Every extractor takes a list of sounds and gives float32 features by name on the CPU. A record of an evaluation holds
its `facts`: numbers of different networks, weights or protocols are never compared.

Letters: B clips, C channels, L samples in time, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from audio.datasets.notes import HELDOUT_PART, NotesConfig, NotesDataset
from audio.encoders.clap import ClapFeatures, ClapSource
from audio.encoders.classes import ClassifierFeatures, read_front, window_seconds
from audio.encoders.protocols import ONE_WINDOW, WindowProtocol
from audio.encoders.vggish import VggishFeatures
from audio.sounds.sound import ClipFormat, Sound
from audio.stand_in import NotesEvaluationConfig, build_evaluator, notes_clip, notes_of
from eval.measure.extractor import Extractor

CLAPS = {"clap_music": "clap-music", "clap_audio": "clap-audio", "clap": "clap"}  # features=NAME -> CLAP's name
EXTRACTORS = (*CLAPS, "vggish", "classifier", "notes")


@dataclass(frozen=True)
class NotesSource:
    """Which notes, and how their classifier is made and where it is cached."""

    evaluation: NotesEvaluationConfig
    data: NotesConfig
    clip: ClipFormat
    cache: Path

    @classmethod
    def default(cls, cache: Path) -> NotesSource:
        """Those of `data=notes` and `evaluation=notes` as they stand."""
        return cls(NotesEvaluationConfig(), NotesConfig(), notes_clip(NotesConfig()), cache)

    def split(self, name: str) -> NotesDataset:
        """The notes of the split "train" or "heldout"."""
        return NotesDataset(notes_of(self.data, name), self.clip)

    @property
    def num_samples(self) -> int:
        """How many samples the training measures."""
        return self.evaluation.num_samples or self.data.num_notes // HELDOUT_PART


@dataclass(frozen=True)
class ExtractorSource:
    """Where extractors find their weights, see `eval.weights`, and how they are shown clips.

    root        the weights folder; null: its default
    clap        a file or directory to take instead of the registry's
    tokenizer   a folder with CLAP's tokenizer
    vggish      a file to take instead of the registry's
    classifier  the directory of an audio classifier
    protocol    how clips are cut and resampled for CLAP and VGGish
    notes       the notes; called only where their classifier is asked for
    """

    root: Path | None = None
    clap: Path | None = None
    tokenizer: Path | None = None
    vggish: Path | None = None
    classifier: Path | None = None
    protocol: WindowProtocol = ONE_WINDOW
    notes: Callable[[], NotesSource] = lambda: NotesSource.default(Path("runs/cache"))

    def check(self, features: str) -> None:
        """Raises ValueError, naming the config key, where an extractor cannot be made of this."""
        for name in ("clap", "classifier"):
            if features == name and getattr(self, name) is None:
                raise ValueError(f"features is {features!r} and {name} is null; needed: the network's path, {name}=...")
        windowless = features in ("classifier", "notes")
        if windowless and self.protocol != ONE_WINDOW:
            raise ValueError(
                f"protocol is {self.protocol.name!r} but features is {features!r}; allowed with it: {ONE_WINDOW.name}"
            )

    def window(self, features: str) -> float | None:
        """Seconds of a longer clip that an extractor looks at, its central part; None where it takes all of a clip."""
        if features == "classifier":
            return window_seconds(read_front(self.classifier))
        one = features in CLAPS and self.protocol.hop_seconds is None
        return self.protocol.seconds if one else None


class NotesFeatures(Extractor):
    """The classifier of `audio.stand_in`: hidden (B, 64), and logits (B, K) for class accuracy."""

    name, main, takes_floats = "notes", "hidden", True
    preprocessing = "log-mels of the channels' mean power, as evaluation=notes has them"

    def __init__(self, source: NotesSource, device: torch.device):
        self.device, self.clip = device, source.clip
        self.evaluator = build_evaluator(source.evaluation, source.data, source.clip, source.cache, device)
        self.weights_sha256 = self.evaluator.weights_sha256

    @torch.no_grad()
    def __call__(self, rows: list[Sound]) -> dict[str, Tensor]:
        """Clips -> hidden and logits on the CPU; ValueError for a clip of another format than the notes'."""
        for sound in rows:
            found, needed = ((*sound.samples.shape, sound.sample_rate), (*self.clip.shape, self.clip.sample_rate))
            if found != needed:
                raise ValueError(
                    f"features=notes hears clips of {needed} (channels, samples, Hz), got {found}; they are for "
                    "samples of a run with data=notes"
                )
        media, network = torch.stack([sound.samples for sound in rows]).to(self.device), self.evaluator.classifier
        hidden = network.features(media)
        return {"hidden": hidden.cpu(), "logits": network.head(hidden).cpu()}


def build_extractor(name: str, source: ExtractorSource, device: torch.device) -> Extractor:
    """The extractor of that name on `device`; ValueError where its weights are absent, ImportError for an extra."""
    source.check(name)
    if name in CLAPS:
        place = ClapSource(CLAPS[name], source.clap, source.tokenizer, source.root)
        return ClapFeatures(place, source.protocol, device)
    if name == "vggish":
        return VggishFeatures(source.vggish, source.protocol, device, source.root)
    if name == "classifier":
        return ClassifierFeatures(source.classifier, device)
    if name == "notes":
        return NotesFeatures(source.notes(), device)
    raise ValueError(f"features is {name!r}; allowed: {', '.join(EXTRACTORS)}")

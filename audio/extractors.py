"""Published extractors of sound: CLAP, VGGish and audio classifiers, and where their weights are.

Every extractor takes a list of sounds and gives float32 features by name on the CPU. A record of an evaluation holds
its `facts`: numbers of different networks, weights or protocols are never compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from audio.encoders.clap import ClapFeatures, ClapSource
from audio.encoders.classes import ClassifierFeatures, read_front, window_seconds
from audio.encoders.ms_clap import NAME as MS_CLAP
from audio.encoders.ms_clap import SECONDS as MS_CLAP_SECONDS
from audio.encoders.ms_clap import MsClapFeatures
from audio.encoders.protocols import ONE_WINDOW, WindowProtocol
from audio.encoders.vggish import VggishFeatures
from eval.measure.extractor import Extractor

CLAPS = {"clap_music": "clap-music", "clap_audio": "clap-audio", "clap": "clap"}  # features=NAME -> CLAP's name


@dataclass(frozen=True)
class ExtractorSource:
    """The places of the extractors' weights, see `eval.weights`, and how clips are cut for them.

    root        the weights folder; null: its default
    clap        a file or directory to take instead of the registry's
    claps       the same of several, by the extractors' names
    ms_clap     a file of Microsoft's CLAP, to take instead of the registry's
    tokenizer   a folder with CLAP's tokenizer
    vggish      a file to take instead of the registry's
    classifier  the directory of an audio classifier
    protocol    how clips are cut and resampled for CLAP and VGGish
    """

    root: Path | None = None
    clap: Path | None = None
    claps: Mapping[str, Path] = field(default_factory=dict)
    ms_clap: Path | None = None
    tokenizer: Path | None = None
    vggish: Path | None = None
    classifier: Path | None = None
    protocol: WindowProtocol = ONE_WINDOW

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
        """The seconds of a longer clip that an extractor takes, its central part; None where it takes all of a clip."""
        if features == "classifier":
            return window_seconds(read_front(self.classifier))
        if self.protocol.hop_seconds is not None:
            return None
        return {**dict.fromkeys(CLAPS, self.protocol.seconds), MS_CLAP: MS_CLAP_SECONDS}.get(features)

    def extractor(self, name: str, device: torch.device) -> Extractor:
        """The extractor of that name on `device`; ValueError where its weights are absent, ImportError for an extra."""
        if name in CLAPS:
            place = ClapSource(CLAPS[name], self.claps.get(name, self.clap), self.tokenizer, self.root)
            return ClapFeatures(place, self.protocol, device)
        if name == MS_CLAP:
            return MsClapFeatures(self.ms_clap, self.protocol, device, self.root)
        if name == "vggish":
            return VggishFeatures(self.vggish, self.protocol, device, self.root)
        return ClassifierFeatures(self.classifier, device)

"""The audio data sets: synthesised notes that need no download, folders, MTG-Jamendo, and cached latents.

Every data set gives clips of one format: (C, L) float32 in [-1, 1], and a mask of real tokens where the ends of some
clips are padding. How long a clip is depends on the tokenizer too: `clip_format`.

Letters: C channels, L samples, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from audio.datasets.folder import FolderConfig, FolderDataset
from audio.datasets.jamendo import JamendoConfig, JamendoDataset
from audio.datasets.notes import NotesConfig, NotesDataset
from audio.sounds.sound import MAX_SAMPLE_RATE, MAX_SECONDS, ClipFormat
from core.latents.cache import LastAxisMasks, LatentShards
from core.schema import FREE

CACHE_KIND = "audio"
CACHE_COMMAND = "python -m audio.cache"


@dataclass(frozen=True)
class LatentsConfig:
    """A latent cache, written by `python -m audio.cache`.

    root         the folder of the cache
    seconds      of the clips that were encoded
    sample_rate  of these clips, Hz
    channels     of these clips
    """

    root: str = field(metadata=FREE)
    seconds: float = 10.0
    sample_rate: int = 44100
    channels: Literal[1, 2] = 2

    def __post_init__(self):
        if not self.root:
            raise ValueError(f"data.root is {self.root!r}; needed: the folder of a latent cache")
        if not 0 < self.seconds <= MAX_SECONDS:
            raise ValueError(f"data.seconds is {self.seconds!r}; allowed: above 0, {MAX_SECONDS} s at most")
        if not 1 <= self.sample_rate <= MAX_SAMPLE_RATE:
            raise ValueError(f"data.sample_rate is {self.sample_rate!r}; allowed: 1 to {MAX_SAMPLE_RATE} Hz")
        if self.channels not in (1, 2):
            raise ValueError(f"data.channels is {self.channels!r}; allowed: 1 (mono) or 2 (stereo)")

    def build(self, clip: ClipFormat, patch_size: int) -> LatentShards:
        """The cache; ValueError, naming the config key, for a root that holds none, or one of other clips."""
        cache = LatentShards(self.root, kind=CACHE_KIND, make_command=CACHE_COMMAND)
        made, given = (*cache.media_shape, cache.spec.transform["sample_rate"]), (*clip.shape, clip.sample_rate)
        if made != given:
            raise ValueError(
                f"data.channels, seconds and sample_rate give clips of {given} (channels, samples, Hz), but the cache "
                f"{self.root} was made of clips of {made}"
            )
        cache.mask_tokens(LastAxisMasks(cache.spec.latent_shape[-1], patch_size))
        return cache


SOUND_DATASETS: dict[str, type] = {"notes": NotesConfig, "folder": FolderConfig, "jamendo": JamendoConfig}
DATASETS: dict[str, type] = {**SOUND_DATASETS, "latents": LatentsConfig}
SoundConfig = NotesConfig | FolderConfig | JamendoConfig
SoundDataset = NotesDataset | FolderDataset | JamendoDataset


def clip_format(data: SoundConfig | LatentsConfig, hop: int, patch_size: int) -> ClipFormat:
    """The clips of a run, known without the data: whole tokens of `patch_size` latent frames of `hop` samples."""
    return ClipFormat.of(data.sample_rate, data.channels, data.seconds, hop * patch_size)

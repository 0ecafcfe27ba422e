"""`python -m audio.cache`: encode a data set once, so that a run with `data=latents` needs no encoder and no files."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from audio.codecs.scaling import measured_latents
from audio.conditioning import (
    CONDITIONINGS,
    LabelConfig,
    NoneConfig,
    TagsConfig,
    TextConfig,
)
from audio.data import CACHE_KIND, SOUND_DATASETS, NotesConfig, SoundConfig, clip_format
from audio.datasets.windows import WindowsConfig
from audio.encoder import ENCODERS, encoder_sha256, make_encoder
from audio.tokenizer import TOKENIZERS, SpectralTokenizerConfig, TokenizerConfig
from core.commands.cache import CacheOptions, Caching, reader_words, run_cache
from core.commands.entry import Entry
from core.commands.overrides import override
from core.conditioning.contract import assign_conditions
from core.latents.scaling import Scaling
from core.schema import choice
from core.storage.run_folder import RunDirectory

FRAME = 1  # latent frames are counted, not tokens: a run chooses its patch


@dataclass(frozen=True, kw_only=True)
class AudioCacheConfig(CacheOptions):
    """What `python -m audio.cache` takes; the keys are explained in conf/cache.yaml."""

    encoders: ClassVar[tuple[str, ...]] = ENCODERS
    data: SoundConfig = choice(SOUND_DATASETS, default_factory=NotesConfig)
    tokenizer: TokenizerConfig = choice(TOKENIZERS, default_factory=SpectralTokenizerConfig)
    conditioning: LabelConfig | TagsConfig | TextConfig | NoneConfig = choice(CONDITIONINGS)
    runs_dir: str = "runs"


def main(config: AudioCacheConfig) -> None:
    """Encode a data set once into a latent cache, for runs with data=latents.

    Files are cut into consecutive windows, whatever data.window says, and the moments of each window's posterior are
    kept with its condition; a run draws from them anew in each step. The same command again continues a cache that was
    interrupted. torchrun --nproc-per-node=N -m audio.cache ... divides the work. verify=true reads a cache again.
    """
    run_cache(config, AudioCaching, print)


class AudioCaching(Caching):
    """Windows of sound with their conditions, and how many of their latent frames are real."""

    kind, unit = CACHE_KIND, "clip"
    config: AudioCacheConfig

    def __init__(self, config: AudioCacheConfig, device: torch.device):
        data = replace(config.data, window="tiled") if isinstance(config.data, WindowsConfig) else config.data
        tokenizer, known = config.tokenizer.build(data.sample_rate, data.channels, device)
        clip = clip_format(data, tokenizer.hop, FRAME)
        dataset = data.build(clip, FRAME)
        assign_conditions(dataset, config.conditioning, CONDITIONINGS, device)
        found = measured_latents(config.tokenizer, tokenizer, dataset, Path(config.runs_dir) / "cache")
        own = {"sample_rate": clip.sample_rate, "channels": clip.channels, "samples": clip.num_samples}
        own |= getattr(data, "transform", {})
        scaled = tokenizer.scaled(known or Scaling.of(found.mean, found.std))
        super().__init__(config, dataset, scaled, dataset.conditions.numpy(), own)
        self.lengths = dataset.lengths
        make = partial(make_encoder, device=device, clip=dataset.media_shape, sample_rate=clip.sample_rate)
        self.set_encoder(make, encoder_sha256)
        self.notes |= {"tokenizer_path": tokenizer.constants()["path"], "data_root": getattr(data, "root", None)}

    def read(self, row: int) -> Tensor:
        """A window (C, L) in [-1, 1]."""
        return self.dataset.clip_at(row)

    def use_command(self, root: Path) -> str:
        """The command that trains on the cache; experiment, backbone and evaluation are the reader's choice."""
        config = self.config
        values = {"root": RunDirectory(root).shown()}
        values |= {key: getattr(config.data, key) for key in ("seconds", "sample_rate", "channels")}
        words = [override(f"data.{key}", value) for key, value in values.items()]
        words += reader_words(config)
        return f"python -m audio.train data=latents {' '.join(map(shlex.quote, words))} evaluation=none"


ENTRY = Entry(main, "audio.conf", "cache", AudioCacheConfig)

if __name__ == "__main__":
    ENTRY.run()

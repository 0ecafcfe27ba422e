"""`python -m audio.cache`: encode a data set once, so that a run with `data=latents` needs no encoder and no files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from audio.conditioning import (
    CONDITIONINGS,
    LabelConfig,
    NoneConfig,
    TagsConfig,
    TextConfig,
    condition_dataset,
)
from audio.data import CACHE_KIND, SOUND_DATASETS, NotesConfig, SoundConfig, build_dataset, clip_format
from audio.normal import measured, scaling_for
from audio.tokenizer import TOKENIZERS, SpectralTokenizerConfig, TokenizerConfig, build_tokenizer
from audio.windows import WindowsConfig
from core.caching import CacheJob, CacheOptions, run_cache
from core.config import Entry, override
from core.rundir import RunDirectory
from core.schema import choice, plain

FRAME = 1  # latent frames are counted, not tokens: a run chooses its patch


@dataclass(frozen=True, kw_only=True)
class CacheConfig(CacheOptions):
    """What `python -m audio.cache` takes; the keys are explained in conf/cache.yaml."""

    data: SoundConfig = choice(SOUND_DATASETS, default_factory=NotesConfig)
    tokenizer: TokenizerConfig = choice(TOKENIZERS, default_factory=SpectralTokenizerConfig)
    conditioning: LabelConfig | TagsConfig | TextConfig | NoneConfig = choice(CONDITIONINGS)
    runs_dir: str = "runs"


def main(config: CacheConfig) -> None:
    """Encode a data set once into a latent cache, for runs with data=latents.

    Files are cut into consecutive windows, whatever data.window says, and the moments of each window's posterior are
    kept with its condition; a run draws from them anew in each step. The same command again continues a cache that was
    interrupted. torchrun --nproc-per-node=N -m audio.cache ... divides the work. verify=true reads a cache again.
    """
    run_cache(config, lambda device: cache_job(config, device), print)


def cache_job(config: CacheConfig, device: torch.device) -> CacheJob:
    """Windows of sound with their conditions, and how many of their latent frames are real."""
    data = replace(config.data, window="tiled") if isinstance(config.data, WindowsConfig) else config.data
    tokenizer, known = build_tokenizer(config.tokenizer, data.sample_rate, data.channels, device)
    clip = clip_format(data, tokenizer.hop, FRAME)
    dataset = build_dataset(data, clip, FRAME)
    condition_dataset(dataset, config.conditioning, device)
    found = measured(tokenizer, dataset, Path(config.runs_dir) / "cache")
    found.check(config.tokenizer)
    own = {"sample_rate": clip.sample_rate, "channels": clip.channels, "samples": clip.num_samples}
    return CacheJob(
        kind=CACHE_KIND,
        unit="clip",
        dataset=dataset,
        conditions=dataset.conditions.numpy(),
        tokenizer=tokenizer.scaled(scaling_for(known, found)),
        read=dataset.clip_at,
        transform={**own, **getattr(data, "transform", {})},
        use=lambda root: use_command(config, root),
        lengths=dataset.lengths,
        notes={"tokenizer_path": tokenizer.constants()["path"], "data_root": getattr(data, "root", None)},
    )


def use_command(config: CacheConfig, root: Path) -> str:
    """The command that trains on the cache; experiment, backbone and evaluation are the reader's choice."""
    data = config.data
    values = {"root": RunDirectory(root).shown(), "seconds": data.seconds, "sample_rate": data.sample_rate}
    words = [override(f"data.{key}", value) for key, value in (values | {"channels": data.channels}).items()]
    tokenizer = plain(config)["tokenizer"]
    words.append(f"tokenizer={tokenizer['name']}")
    words += [override(f"tokenizer.{key}", tokenizer[key]) for key in ("path", "subfolder") if tokenizer.get(key)]
    kind = plain(config)["conditioning"]["name"]
    return f"python -m audio.train data=latents {' '.join(words)} conditioning={kind} evaluation=none"


ENTRY = Entry(main, "audio.conf", "cache", CacheConfig)

if __name__ == "__main__":
    ENTRY.run()

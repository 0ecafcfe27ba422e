"""`python -m motion.cache`: encode a data set once, so that a run with `data=latents` needs no encoder and no files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.commands.cache import CacheOptions, Caching, reader_words, run_cache
from core.commands.entry import Entry
from core.commands.overrides import override
from core.conditioning.contract import assign_conditions
from core.latents.cache import LastAxisMasks
from core.schema import choice
from core.storage.run_folder import RunDirectory
from motion.codecs.trained import check_tokenizer
from motion.conditioning import CONDITIONINGS, ConditioningConfig, TextConfig, first_captions
from motion.data import CACHE_KIND, CLIP_DATASETS, UNIT, heldout, motion_format
from motion.datasets.latents import by_clip
from motion.datasets.moves import MovesConfig
from motion.encoder import ENCODERS, encoder_sha256, make_encoder
from motion.tokenizer import TOKENIZERS, FeaturesConfig
from motion.train import statistics_scaling

NUM_PROMPTS = 8  # held-out captions that the printed command asks for


@dataclass(frozen=True, kw_only=True)
class MotionCacheConfig(CacheOptions):
    """What `python -m motion.cache` takes; the keys are explained in conf/cache.yaml."""

    encoders: ClassVar[tuple[str, ...]] = ENCODERS
    data: object = choice(CLIP_DATASETS, default_factory=MovesConfig)
    tokenizer: object = choice(TOKENIZERS, default_factory=FeaturesConfig)
    conditioning: ConditioningConfig = choice(CONDITIONINGS)
    runs_dir: str = "runs"


def main(config: MotionCacheConfig) -> None:
    """Encode a data set once into a latent cache, for runs with data=latents.

    The moments of each clip's posterior are kept, of its first frames, with the embeddings of all its captions; a run
    draws from both anew in each step. The same command again continues a cache that was interrupted.
    torchrun --nproc-per-node=N -m motion.cache ... divides the work. verify=true reads a cache again.
    """
    run_cache(config, MotionCaching, print)


class MotionCaching(Caching):
    """Clips with their conditions, and how many of their latent frames are real."""

    kind, unit = CACHE_KIND, UNIT
    config: MotionCacheConfig

    def __init__(self, config: MotionCacheConfig, device: torch.device):
        data = config.data
        tokenizer, known = config.tokenizer.build(device)
        dataset = data.build(LastAxisMasks(data.frames, tokenizer.frame_stride))
        assign_conditions(dataset, config.conditioning, CONDITIONINGS, device)
        check_tokenizer(config.tokenizer, tokenizer, dataset, Path(config.runs_dir) / "cache")
        conditions = dataset.conditions
        if isinstance(config.conditioning, TextConfig):
            conditions = by_clip(conditions, dataset.caption_rows)
        own = {**self.format_keys(data), **getattr(data, "transform", {})}
        scaled = tokenizer.scaled(known or statistics_scaling(dataset))
        super().__init__(config, dataset, scaled, conditions.numpy(), own)
        self.lengths = -(-torch.as_tensor(dataset.lengths).long() // tokenizer.frame_stride).numpy()
        clips = motion_format(data)
        self.set_encoder(partial(make_encoder, device=device, clips=clips), partial(encoder_sha256, clips=clips))
        self.notes |= {"tokenizer_path": tokenizer.constants()["path"], "data_root": getattr(data, "root", None)}

    @staticmethod
    def format_keys(data: Any) -> dict[str, Any]:
        """What `motion.data.LatentsConfig` has to be told."""
        clips = motion_format(data)
        return {"skeleton": clips.skeleton.name, "representation": clips.representation, "frames": clips.frames}

    def read(self, row: int) -> Tensor:
        """A clip (C, F)."""
        return self.dataset.clip_at(row)

    def real(self, rows: Sequence[int]) -> Tensor:
        """Which latent frames are real, (B, T) bool."""
        lengths = torch.from_numpy(self.lengths)[list(rows)]
        return torch.arange(self.tokenizer.latent_shape(self.dataset.media_shape)[-1]) < lengths[:, None]

    def use_command(self, root: Path) -> str:
        """The command that trains on the cache; experiment, backbone and evaluation are the reader's choice."""
        config = self.config
        values = {"root": RunDirectory(root).shown(), **self.format_keys(config.data)}
        words = [override(f"data.{key}", value) for key, value in values.items()]
        words += reader_words(config)
        if self.tokenizer.frame_stride > 1:
            words.append("backbone.patch_size=1")  # a latent frame is several already
        if isinstance(config.conditioning, TextConfig) and config.conditioning.prompts is None:
            prompts = list(dict.fromkeys(first_captions(heldout(config.data).build())))[:NUM_PROMPTS]
            words.append(override("conditioning.prompts", prompts))
        return f"python -m motion.train data=latents {' '.join(map(shlex.quote, words))} evaluation=none"


ENTRY = Entry(main, "motion.conf", "cache", MotionCacheConfig)

if __name__ == "__main__":
    ENTRY.run()

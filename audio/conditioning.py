"""What a clip is asked to be: a class, a set of tags, a text, or nothing; the texts by CLAP, T5 or MiniLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from audio.encoders.text_encoders import embed_texts
from core.conditioning import texts
from core.conditioning.labels import LabelConfig
from core.conditioning.none import NoneConfig
from core.conditioning.tags import TagsConfig


@dataclass(frozen=True)
class TextConfig(texts.TextConfig):
    """Captions through a frozen text encoder; the other keys: `core.conditioning.texts.TextConfig`.

    encoder  clap: the text branch of a CLAP model; t5, minilm: the mean over the tokens of the encoder
    path     directory of the encoder, as transformers saves it; null: minilm's package
    """

    encoder: Literal["clap", "t5", "minilm"]

    def embed(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Embeddings (n, E) of n texts, from the cache where they are known."""
        return embed_texts(self.encoder, self.path, list(texts), Path(self.cache_dir), device)


CONDITIONINGS: dict[str, type] = {"labels": LabelConfig, "tags": TagsConfig, "text": TextConfig, "none": NoneConfig}
ConditioningConfig = LabelConfig | TagsConfig | TextConfig | NoneConfig

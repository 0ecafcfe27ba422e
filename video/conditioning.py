"""What a clip is asked to be: a class, a text, or nothing; the texts by T5, UMT5, CLIP or MiniLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from core.conditioning import texts
from core.conditioning.encoders import (
    ClipTextEncoder,
    MiniLMEncoder,
    T5Encoder,
    UMT5Encoder,
    embed_texts,
    encoder_named,
    of_names,
)
from core.conditioning.labels import LabelConfig
from core.conditioning.none import NoneConfig

ENCODERS = of_names(T5Encoder(), UMT5Encoder(), ClipTextEncoder(), MiniLMEncoder())


@dataclass(frozen=True)
class TextConfig(texts.TextConfig):
    """Captions through a frozen text encoder; the other keys: `core.conditioning.texts.TextConfig`.

    encoder  t5, umt5, minilm: the mean over the tokens of the encoder; clip: the text branch of a CLIP
    path     directory of the encoder, as transformers saves it; null: minilm's package
    """

    encoder: Literal["t5", "umt5", "clip", "minilm"]

    def embed(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Embeddings (n, E) of n texts, from the cache where they are known."""
        return embed_texts(encoder_named(self.encoder, ENCODERS), self.path, texts, Path(self.cache_dir), device)


CONDITIONINGS: dict[str, type] = {"labels": LabelConfig, "text": TextConfig, "none": NoneConfig}
ConditioningConfig = LabelConfig | TextConfig | NoneConfig

"""What a motion is asked to be: a text, an action, or nothing; and how long it is to be.

Letters: B batch, n texts, N tokens of a clip, E numbers of a text's embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from core.conditioning import texts
from core.conditioning.encoders import (
    ClipTextEncoder,
    MiniLMEncoder,
    ShortClipTextEncoder,
    T5Encoder,
    embed_texts,
    encoder_named,
    of_names,
)
from core.conditioning.labels import LabelConfig
from core.conditioning.none import NoneConfig
from core.contracts import Requests
from core.latents.cache import LastAxisMasks
from core.schema import FREE
from motion.data import heldout, token_masks

ENCODERS = of_names(MiniLMEncoder(), ClipTextEncoder(), ShortClipTextEncoder(), T5Encoder())


@dataclass(frozen=True)
class Captions:
    """Texts that samples are asked for in turn.

    texts  n
    mask   (n, N) bool, the tokens that a sample of each is to have; None: all
    """

    texts: list[str]
    mask: Tensor | None = None


@dataclass(frozen=True)
class TextConfig(texts.TextConfig):
    """Captions through a frozen text encoder; the other keys: `core.conditioning.texts.TextConfig`.

    encoder  minilm: sentences, from its package; clip, clip22: CLIP's text branch, on 77 tokens or on 22, as MDM has
             it; t5: the mean over the tokens of a T5 encoder
    path     directory of the encoder, as transformers saves it; null: minilm's package
    prompts  texts that previews and evaluations are asked for, in turn, as long as a clip can be; null: the first
             caption of each held-out clip, in order, each as long as that clip is
    """

    encoder: Literal["minilm", "clip", "clip22", "t5"] = "minilm"
    path: str | None = field(default=None, metadata=FREE)
    prompts: list[str] | None = None

    def embed(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Embeddings (n, E) of n texts, from the cache where they are known."""
        return embed_texts(encoder_named(self.encoder, ENCODERS), self.path, texts, Path(self.cache_dir), device)

    def assign(self, dataset: Any, device: torch.device) -> None:
        """The conditions of a data set are the embeddings (n, E) of all its captions; it keeps its actions."""
        dataset.conditions = self.embed(dataset.captions, device)

    def asking(self, captions: Captions, device: torch.device) -> CaptionConditioning:
        """The conditioning whose previews and evaluations are asked for these captions."""
        return CaptionConditioning(self, captions, device)


class CaptionConditioning(texts.TextConditioning):
    """Embeddings of captions; conditions (B, E) float32."""

    def __init__(self, config: TextConfig, captions: Captions, device: torch.device):
        super().__init__(replace(config, prompts=captions.texts), lambda texts: config.embed(texts, device))
        self.mask = captions.mask

    def embedder(self, width: int, null: bool) -> nn.Module:
        """A small network on the embedding, whose numbers are brought to a mean square of 1."""
        return SentenceEmbedder(self._prompts.shape[1], width)

    def requests(self, num: int, seed: int) -> Tensor | Requests:
        """Embeddings (num, E) of the captions, in turn, and the masks (num, N) of their lengths."""
        condition = super().requests(num, seed)
        return condition if self.mask is None else Requests(condition, self.mask[torch.arange(num) % len(self.mask)])


class SentenceEmbedder(texts.VectorEmbedder):
    """`core.conditioning.texts.VectorEmbedder` on embeddings of any length, which of length 1 would hardly be heard.

    As a vector of E numbers of about 1, a sentence moves the first layer as much as the code of a time does.
    """

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, E) -> (B, D)."""
        return super().forward(normalize(embeddings, dim=1) * embeddings.shape[1] ** 0.5)


CONDITIONINGS: dict[str, type] = {"text": TextConfig, "labels": LabelConfig, "none": NoneConfig}
ConditioningConfig = TextConfig | LabelConfig | NoneConfig


def build_conditioning(
    config: ConditioningConfig, data: Any, names: Sequence[str], masks: LastAxisMasks, device: torch.device
) -> Any:
    """The conditioning over actions called `names`, or of texts: the config's, else the held-out captions of `data`.

    masks: of clips of a length. The held-out clips are looked at only where their captions are asked for.
    """
    if not isinstance(config, TextConfig):
        return config.build(names, device)
    return config.asking(heldout_captions(data, masks) if config.prompts is None else Captions(config.prompts), device)


def heldout_captions(data: Any, masks: LastAxisMasks) -> Captions:
    """The first caption of each held-out clip, and its length."""
    clips = heldout(data).build(masks)
    return Captions(first_captions(clips), token_masks(masks, [int(length) for length in clips.lengths]))


def first_captions(clips: Any) -> list[str]:
    """The first of the captions of each clip of a data set."""
    return [clips.captions[int(first)] for first in clips.caption_rows[:-1]]

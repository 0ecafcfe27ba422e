"""No tokenizer at all: the backbone sees the pixels. B batch; *media stands for a domain's own axes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from core.draws import Random
from core.latents.tokenizer import TokenizerConstants

PIXELS = "pixels"


@dataclass(frozen=True)
class PixelsConfig:
    """No tokenizer: the backbone sees pixels."""

    def build(self, device: torch.device | str) -> Pixels:
        """The identity."""
        return Pixels()


class Pixels:
    """The identity on [-1, 1]."""

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(*media), as it came."""
        return tuple(media_shape)

    def encode(self, media: Tensor, random: Random) -> Tensor:
        """(B, *media), as it came; nothing is drawn."""
        return media

    def decode(self, latents: Tensor) -> Tensor:
        """(B, *media), clamped to [-1, 1]: what a backbone generates may lie outside."""
        return latents.clamp(-1, 1)

    def constants(self) -> dict[str, Any]:
        """`core.latents.tokenizer.TokenizerConstants` as a dict."""
        return asdict(TokenizerConstants(PIXELS, path=None, scale=1.0, shift=0.0, downsample=1, sha256=None))

    def to(self, device: torch.device | str) -> Pixels:
        """Itself: it holds no tensor."""
        return self

"""Clips to the latents a backbone sees, and back: none, the pixels themselves.

Letters: C channels, F frames, H height, W width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.latents import pixels
from core.latents.pixels import PIXELS


@dataclass(frozen=True)
class PixelsConfig(pixels.PixelsConfig):
    """No tokenizer: the backbone sees clips (C, F, H, W).

    frame_stride  frames of a latent frame, but for the first, which has `first`
    """

    kind: ClassVar[str] = PIXELS
    frame_stride: ClassVar[int] = 1
    first: ClassVar[int] = 1


TOKENIZERS: dict[str, type] = {PIXELS: PixelsConfig}
TokenizerConfig = PixelsConfig

"""Clips to the latents a backbone sees, and back: the numbers of a frame, each brought to mean 0 and deviation 1.

Here is which network a config means, and how its latents are normalised, number by number: with the numbers in the
config, else those of the cache or the checkpoint at hand, else with the statistics of the data.

Letters: B batch, C numbers of a frame, F frames, Z latent channels, T latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.latents.scaling import Normalisation, Scaling
from core.latents.tokenizer import CodingOptions, KLTokenizer, TokenizerConstants

FEATURES = "features"


class MotionTokenizer(KLTokenizer):
    """A network that codes clips, with its constants.

    frame_stride  frames of a latent frame
    """

    bounded = False

    def __init__(self, network: nn.Module, constants: TokenizerConstants, options: CodingOptions):
        super().__init__(network, constants, options)
        self.frame_stride = constants.downsample


class FrameNumbers(nn.Module):
    """The identity; fulfils `core.latents.tokenizer.KLNetwork`, with a posterior that is a point."""

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, F), as it came."""
        return tuple(media_shape)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Clips (B, C, F) as they are, and zeros."""
        return media, torch.zeros_like(media)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, F), as it came."""
        return latents


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(Normalisation):
    """No network: the backbone sees the numbers of each frame, normalised."""

    kind: ClassVar[str] = FEATURES

    def build(self, device: torch.device | str) -> tuple[MotionTokenizer, Scaling | None]:
        """The tokenizer, not normalised, and the scaling that the config knows."""
        constants = TokenizerConstants(self.kind, path=None, scale=1.0, shift=0.0, downsample=1, sha256=None)
        return MotionTokenizer(FrameNumbers(), constants, CodingOptions(posterior="mean")).to(device), self.given


TOKENIZERS: dict[str, type] = {FEATURES: FeaturesConfig}

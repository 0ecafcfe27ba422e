"""Backbones of motion: SiT over time, `core.nets.sit` on a grid of one axis, the latent frames of a clip.

Letters: B batch, Z latent channels, T latent frames, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.conditioning.contract import EmbeddedConditioning
from core.nets import sit


@dataclass(frozen=True)
class SiTConfig(sit.SiTConfig):
    """The options of `core.nets.sit.SiTConfig`; a token is one latent frame, or patch_size of them."""

    patch_size: int = 1

    def build(self, latent_shape: tuple[int, ...], conditioning: EmbeddedConditioning) -> sit.SiT:
        """The network for latents (Z, T) under a `core.conditioning.contract.EmbeddedConditioning`.

        It takes shorter clips too, and clips whose last frames are padding, by a mask (B, N).
        """
        return sit.SiT(latent_shape, self.recipe, lambda width: conditioning.embedder(width, self.null_label))


BACKBONES = {"sit": SiTConfig}

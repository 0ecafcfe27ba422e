"""SiT over video: `core.nets.sit` on a grid of frames, rows and columns.

Letters: Z latent channels, T latent frames, Y X latent rows and columns.
"""

from __future__ import annotations

from core.conditioning.contract import EmbeddedConditioning
from core.nets import sit


class SiTConfig(sit.SiTConfig):
    """The options of `core.nets.sit.SiTConfig`: attention over all tokens, positions of three axes."""

    def build(self, latent_shape: tuple[int, ...], conditioning: EmbeddedConditioning) -> sit.SiT:
        """The network for latents (Z, T, Y, X) under a `core.conditioning.contract.EmbeddedConditioning`."""
        return sit.SiT(latent_shape, self.recipe, lambda width: conditioning.embedder(width, self.null_label))


BACKBONES = {"sit": SiTConfig}
BackboneConfig = SiTConfig

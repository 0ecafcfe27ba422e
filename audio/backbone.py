"""SiT over time: `core.nets.sit` on a grid of one axis, the latent frames of a clip; the paper's patch is one frame.

Letters: B batch, Z latent channels, T latent frames, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.nets import sit


@dataclass(frozen=True)
class SiTConfig(sit.SiTConfig):
    """The options of `core.nets.sit.SiTConfig`, with the paper's patch of one latent frame."""

    patch_size: int = 1


BACKBONES = {"sit": SiTConfig}

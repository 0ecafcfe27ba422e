"""Backbones of video: SiT with attention over all tokens, and Latte, whose blocks alternate between space and time.

Letters: Z latent channels, T Y X latent frames, rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from core.conditioning.contract import EmbeddedConditioning
from core.nets import sit
from core.nets.sit import Recipe
from core.storage.checkpoint import CheckpointStore
from core.storage.run_folder import RunDirectory
from video.nets.inflation import inflate_from
from video.nets.latte import Latte, frame_patch


@dataclass(frozen=True)
class SiTConfig(sit.SiTConfig):
    """The options of `core.nets.sit.SiTConfig`, and image weights to begin with.

    patch_size    a number for frames, rows and columns, or the three: [1, 2, 2]
    inflate_from  weights of an image SiT: a checkpoint of a run, or a file; see `video.nets.inflation`. The code of
                  frames is then trained, and begins at zero
    """

    rope_of_frames: ClassVar[bool] = False  # whether the angles inside a frame are those of an image model
    inflate_from: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.patch) != 3:
            raise ValueError(f"backbone.patch_size is {self.patch_size}; needed: a number, or [frames, rows, columns]")
        if self.inflate_from is not None and self.rope and not self.rope_of_frames:
            raise ValueError(
                "backbone.rope is true, but its angles over three axes are not those of the image model that "
                "backbone.inflate_from names; allowed with it: false, or backbone=latte"
            )

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a token."""
        return (self.patch_size,) * 3 if isinstance(self.patch_size, int) else tuple(self.patch_size)

    @property
    def recipe(self) -> Recipe:
        """What a network is built from."""
        return replace(super().recipe, patch_size=self.patch, learned_frames=self.inflate_from is not None)

    def begin(self, backbone: sit.SiT, run: RunDirectory) -> None:
        """Give a new run's backbone the weights of `inflate_from`; a run that has a checkpoint does not read them."""
        if self.inflate_from is not None and CheckpointStore(run.checkpoints).latest() is None:
            inflate_from(backbone, self.inflate_from)


@dataclass(frozen=True)
class LatteConfig(SiTConfig):
    """The options of SiT for a Latte; patch_size is a number for rows and columns, or [1, rows, columns].

    inflate_from: the weights are those of its space blocks, every other block, so that depth is twice that of the image
    model.
    """

    rope_of_frames: ClassVar[bool] = True
    token_routing: ClassVar[bool] = False  # a block's tokens are a whole grid

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a token."""
        return frame_patch(self.patch_size)

    def build(self, latent_shape: tuple[int, ...], conditioning: EmbeddedConditioning) -> Latte:
        """The network for latents (Z, T, Y, X); see `SiTConfig.build`."""
        return Latte(latent_shape, self.recipe, lambda width: conditioning.embedder(width, self.null_label))


BACKBONES = {"sit": SiTConfig, "latte": LatteConfig}
BackboneConfig = SiTConfig | LatteConfig

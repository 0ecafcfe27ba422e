"""Backbones of motion: SiT over the latent frames of a clip, and MDM, an encoder behind a token of time and condition.

Letters: B batch, Z latent channels, T latent frames, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from core.conditioning.contract import EmbeddedConditioning
from core.conditioning.labels import LabelConditioning
from core.conditioning.texts import TextConditioning
from core.nets import sit
from motion.nets.mdm import MDM, Recipe


@dataclass(frozen=True)
class SiTConfig(sit.SiTConfig):
    """The options of `core.nets.sit.SiTConfig`; a token is one latent frame, or patch_size of them."""

    patch_size: int = 1


@dataclass(frozen=True)
class MDMConfig:
    """The published MDM, whose sizes are the defaults; every frame is a token.

    patch_size   1: every frame is a token
    feedforward  width inside a block's feed-forward part
    dropout      share of activations dropped in training, a function of (seed, step, row)
    mask_frames  padded frames are hidden from the others. The published default shows them; its 50-step recipe does not
    """

    null_label: ClassVar[bool] = True
    token_times: ClassVar[bool] = False
    patch_size: int = 1
    depth: int = 8
    hidden_size: int = 512
    num_heads: int = 4
    feedforward: int = 1024
    dropout: float = 0.1
    mask_frames: bool = False

    def __post_init__(self) -> None:
        if self.patch_size != 1:
            raise ValueError(f"backbone.patch_size is {self.patch_size}; allowed with backbone=mdm: 1, a frame a token")
        for name in ("depth", "hidden_size", "num_heads", "feedforward"):
            if getattr(self, name) < 1:
                raise ValueError(f"backbone.{name} is {getattr(self, name)}; it must be at least 1")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"backbone.hidden_size {self.hidden_size} does not divide by backbone.num_heads {self.num_heads}"
            )
        if self.hidden_size % 2:
            raise ValueError(f"backbone.hidden_size is {self.hidden_size}; it must be even, for sines and cosines")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"backbone.dropout is {self.dropout}; it must lie in [0, 1)")

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Depth, width and number of heads."""
        return self.depth, self.hidden_size, self.num_heads

    @property
    def num_blocks(self) -> int:
        """Blocks that an alignment can name, from 1."""
        return self.depth

    @property
    def recipe(self) -> Recipe:
        """What a network is built from."""
        return Recipe(
            self.depth, self.hidden_size, self.num_heads, self.feedforward, self.dropout, mask_frames=self.mask_frames
        )

    def build(self, latent_shape: tuple[int, ...], conditioning: EmbeddedConditioning) -> MDM:
        """The network for latents (Z, T) under texts, classes or nothing; it takes shorter motions too."""
        sizes: dict[str, Any] = {}
        if isinstance(conditioning, TextConditioning):
            sizes["texts"] = conditioning.size
        elif isinstance(conditioning, LabelConditioning):
            sizes["actions"] = conditioning.num_classes
        return MDM(latent_shape, self.recipe, **sizes)

    def num_classes_in(self, state: dict[str, Tensor], source: str) -> int:
        """Number of classes of saved weights, from their vectors; ValueError where there are none."""
        table = state.get("embed_action.action_embedding")
        if table is None:
            raise ValueError(f"{source} is of another architecture than the configured backbone: it knows no actions")
        return len(table)


BACKBONES = {"sit": SiTConfig, "mdm": MDMConfig}

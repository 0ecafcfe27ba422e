"""SiT for images: `core.nets.sit` on a grid of rows and columns, under class labels, as its published checkpoints are.

Letters: B batch, C channels, Y X latent rows and columns.
"""

from __future__ import annotations

from torch import Tensor

from core.nets import sit
from core.nets.layers import BlockOptions, LabelEmbedder
from core.nets.sit import SIZES, Recipe

__all__ = ["BACKBONES", "SIZES", "SiT", "SiTConfig"]


class SiTConfig(sit.SiTConfig):
    """The options of `core.nets.sit.SiTConfig` for images; patch_size: a number, or [rows, columns]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.patch_size, list) and len(self.patch_size) != 2:
            raise ValueError(f"backbone.patch_size is {self.patch_size}; needed: a number, or [rows, columns]")

    def num_classes_in(self, state: dict[str, Tensor], source: str) -> int:
        """Number of classes of saved weights, from their label table; ValueError where there is none."""
        table = state.get("y_embedder.embedding_table.weight")
        if table is None:
            raise ValueError(f"{source} is of another architecture than the configured backbone: it has no label table")
        return len(table) - self.null_label

    def build(self, latent_shape: tuple[int, ...], num_classes: int) -> sit.SiT:
        """The network for latents (C, Y, X)."""
        return sit.SiT(latent_shape, self.recipe, lambda width: LabelEmbedder(num_classes, width, self.null_label))


BACKBONES = {"sit": SiTConfig}


class SiT(sit.SiT):
    """The published model by its own options.

    input_size            latent rows and columns (Y, X), or one number for a square
    class_dropout_prob    above 0 adds the null row of the label table; labels are dropped by the conditioning, not here
    learn_sigma           2 C output channels of which the first C are returned (published checkpoints)
    """

    def __init__(  # noqa: PLR0913, the published model's own options
        self,
        *,
        input_size: int | tuple[int, int] = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        class_dropout_prob: float = 0.1,
        learn_sigma: bool = True,
        qk_norm: bool = False,
        swiglu: bool = False,
        rope: bool = False,
    ):
        size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
        block = BlockOptions(hidden_size, num_heads, mlp_ratio, qk_norm, swiglu)
        super().__init__(
            (in_channels, *size),
            Recipe(depth, patch_size, block, learn_sigma, rope),
            lambda width: LabelEmbedder(num_classes, width, null_row=class_dropout_prob > 0),
        )

"""SiT for images: `core.nets.sit` on a grid of rows and columns, under class labels, as its published checkpoints are.

Letters: B batch, C channels, Y X latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from core.nets import sit
from core.nets.layers import BlockOptions, LabelEmbedder
from core.nets.sit import SIZES, Recipe

__all__ = ["BACKBONES", "SIZES", "SelfFlowConfig", "SiT", "SiTConfig"]


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


class SelfFlowConfig(SiTConfig):
    """The options of `SiTConfig`, for the published weights of Self-Flow (arXiv 2603.06507): see `SelfFlowSiT`."""

    def build(self, latent_shape: tuple[int, ...], num_classes: int) -> SelfFlowSiT:
        """The network for latents (C, Y, X)."""
        return SelfFlowSiT(latent_shape, self.recipe, lambda width: LabelEmbedder(num_classes, width, self.null_label))


class SelfFlowSiT(sit.SiT):
    """A SiT that reads `selfflow_imagenet256.pt` too, beside its own checkpoints.

    There the patches are cut before the network, channel slowest, so that the convolution is a linear map; the last
    layer has its channels fastest, as SiT. Its program turns time around and negates what comes out, so that inside t
    and velocity are ours. The label table has 1001 rows, of which the last is the null label, and the head of the
    alignment stands beside the network. `learn_sigma` is on.
    """

    def fitted_state(self, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
        """The weights without the head, the linear map of patches (D, C P P) as a convolution (D, C, P, P)."""
        own, name = self.x_embedder.proj.weight, "x_embedder.proj.weight"
        fitted = {key: value for key, value in state.items() if not key.startswith("projector.")}
        if name in fitted and fitted[name].shape == (len(own), own[0].numel()):
            fitted[name] = fitted[name].reshape(own.shape)
        return super().fitted_state(fitted, source)


BACKBONES = {"sit": SiTConfig, "self_flow": SelfFlowConfig}


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

"""Clips to the latents a backbone sees, and back: the numbers of a frame, each brought to mean 0 and deviation 1.

Here is which network a config means, and how its latents are normalised, number by number: with the numbers in the
config, else those of the cache or the checkpoint at hand, else with the statistics of the data.

Letters: B batch, C numbers of a frame, F frames, Z latent channels, T latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.data.files import existing_folder
from core.latents.scaling import Normalisation, Scaling
from core.latents.tokenizer import CodingOptions, KLTokenizer, TokenizerConstants
from core.schema import FREE
from core.storage.arrays import read_array
from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import SKELETONS, T2M
from motion.datasets.numbers import MEAN_FILE, read_statistics

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
    """No network: the backbone sees the numbers of each frame, normalised.

    statistics  folder with the Mean.npy and Std.npy that published weights, which do not hold them, were trained with;
                null: the numbers of the config, of the checkpoint or of the data
    """

    kind: ClassVar[str] = FEATURES
    statistics: str | None = field(default=None, metadata=FREE)

    @property
    def given(self) -> Scaling | None:
        """The scaling that the config knows."""
        return super().given if self.statistics is None else published_scaling(self.statistics)

    def build(self, device: torch.device | str) -> tuple[MotionTokenizer, Scaling | None]:
        """The tokenizer, not normalised, and the scaling that the config knows."""
        constants = TokenizerConstants(self.kind, path=None, scale=1.0, shift=0.0, downsample=1, sha256=None)
        return MotionTokenizer(FrameNumbers(), constants, CodingOptions(posterior="mean")).to(device), self.given


def published_scaling(folder: str) -> Scaling:
    """The scaling by Mean.npy and Std.npy of a folder; ValueError, naming the key or the file, for others."""
    root = existing_folder(folder, "tokenizer.statistics")
    count = len(read_array(root / MEAN_FILE).reshape(-1))
    skeleton = next((each for each in SKELETONS.values() if REPRESENTATIONS["full"].size(each) == count), T2M)
    found = read_statistics(root, skeleton)
    return Scaling.of(found.mean.tolist(), found.std.tolist())


TOKENIZERS: dict[str, type] = {FEATURES: FeaturesConfig}

"""Clips to the latents a backbone sees, and back: the numbers of a frame, normalised, or our small VAE of motion.

Here is which network a config means, and how its latents are normalised, number by number: with the numbers in the
config, else those of the cache or the checkpoint at hand, else with the statistics of the data.

Letters: B batch, C numbers of a frame, F frames, Z latent channels, T latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.data.files import existing_folder
from core.latents.scaling import Normalisation, Scaling
from core.latents.tokenizer import CodingOptions, KLOptions, KLTokenizer, TokenizerConstants, weights_sha256
from core.schema import FREE
from core.storage.arrays import read_array
from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import SKELETONS, T2M
from motion.codecs.autoencoder import KIND as CONV_VAE
from motion.codecs.autoencoder import MAKE_COMMAND, load_autoencoder
from motion.datasets.numbers import MEAN_FILE, read_statistics

FEATURES = "features"


class MotionTokenizer(KLTokenizer):
    """A network that codes clips, with its constants.

    frame_stride  frames of a latent frame
    origin        skeleton and representation of the clips that the network was made for, where it was
    """

    bounded = False

    def __init__(self, network: nn.Module, constants: TokenizerConstants, options: CodingOptions):
        super().__init__(network, constants, options)
        self.frame_stride, self.origin = constants.downsample, getattr(network, "origin", None)


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


@dataclass(frozen=True, kw_only=True)
class ConvVAEConfig(KLOptions):
    """Our small VAE, made by `python -m motion.train_tokenizer`; its files hold the statistics of clips and latents.

    Other keys: `core.latents.tokenizer.KLOptions`.

    path             directory with `config.json` and `model.safetensors`
    allow_untrained  take a VAE that does not reproduce the training clips: for tests with random weights
    """

    kind: ClassVar[str] = CONV_VAE
    path: str = field(default="runs/tokenizer/moves", metadata=FREE)
    encode_batch: int = field(default=256, metadata=FREE)
    decode_batch: int = field(default=256, metadata=FREE)
    allow_untrained: bool = False

    def build(self, device: torch.device | str) -> tuple[MotionTokenizer, Scaling]:
        """The tokenizer, not normalised, and the scaling that came with the weights.

        Raises ValueError, naming the config key, for files that are missing, damaged or of another model.
        """
        directory = Path(self.path).expanduser()
        if not directory.is_dir():
            raise ValueError(f"tokenizer.path is '{self.path}', which is no directory; `{MAKE_COMMAND}` makes one")
        network, saved = load_autoencoder(directory)
        own = directory.resolve().name, 1.0, 0.0, network.downsample, weights_sha256(network)
        tokenizer = MotionTokenizer(network, TokenizerConstants(self.kind, *own), self)
        return tokenizer.to(device), Scaling.of(saved.latent_mean, saved.latent_std)


TOKENIZERS: dict[str, type] = {each.kind: each for each in (FeaturesConfig, ConvVAEConfig)}
TokenizerConfig = FeaturesConfig | ConvVAEConfig

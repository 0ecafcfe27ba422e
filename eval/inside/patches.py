"""Features of encoders of images for the media of a training batch, as a target of `alignment=external`.

Letters: B batch, C channels, F frames of a clip, Y X pixels, E features, P places of a side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from core.contracts import Batch
from core.storage.pretrained import files_sha256
from eval.inside.encoder import DINO, DINO_SIZE, brought_to, load_dino, prepare
from eval.measure.efficientnet import DEVIATION, MEAN, SHA256, SIDE, WIDTH, read_efficientnet
from eval.measure.efficientnet import NAME as EFFICIENTNET


class ImagePlaces(ABC):
    """A frozen encoder in float32 that sees images, and a clip's frames one by one; grey ones three times over.

    width   E of a place
    images  of a sample, the frames of a clip
    """

    width: int

    def __init__(self, device: torch.device, images: int):
        self.device, self.images = device, images

    @abstractmethod
    def places(self, images: Tensor) -> Tensor:
        """Images (B, 1 or 3, Y, X) float32 in [-1, 1] -> (B, E, P, P)."""

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Images (B, C, Y, X) in [-1, 1] -> (B, E, P, P); clips (B, C, F, Y, X) -> (B, E, F, P, P)."""
        media = batch.media
        images = media if media.ndim == 4 else rearrange(media, "b c f y x -> (b f) c y x")
        with torch.autocast(images.device.type, enabled=False):
            features = self.places(images.float())
        return features if media.ndim == 4 else rearrange(features, "(b f) e y x -> b e f y x", b=len(media))

    @cached_property
    def flops(self) -> int:
        """FLOPs of one sample's pass, of all its images."""
        from torch.utils.flop_counter import FlopCounterMode  # brings Triton, which only a run needs

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.places(torch.zeros(1, 3, DINO_SIZE, DINO_SIZE, device=self.device))
        return self.images * counter.get_total_flops()


class DinoPatches(ImagePlaces):
    """The encoder `dinov2:<folder>`: tokens of the last layer behind its norm.

    An image is brought to 224 x 224, which gives 16 x 16 patches of 14.
    """

    def __init__(self, name: str, device: torch.device, images: int = 1):
        super().__init__(device, images)
        self.network = load_dino(name.removeprefix(DINO)).to(device).float().eval().requires_grad_(False)
        self.width = self.network.config.hidden_size
        self.first = 1 + getattr(self.network.config, "num_register_tokens", 0)  # behind the class token and registers
        self.side = DINO_SIZE // self.network.config.patch_size

    def places(self, images: Tensor) -> Tensor:
        """The patches' tokens."""
        tokens = self.network(pixel_values=prepare(images)).last_hidden_state[:, self.first :]
        return rearrange(tokens, "b (y x) e -> b e y x", y=self.side)


class EfficientNetPlaces(ImagePlaces):
    """The encoder `efficientnet_lite0`, whose weights are a package's: its last map.

    An image is brought to 224 x 224, which gives 7 x 7 places of 32 pixels.
    """

    width = WIDTH

    def __init__(self, name: str, device: torch.device, images: int = 1):
        super().__init__(device, images)
        self.network = read_efficientnet(None, f"encoder={name}")[0].to(device)

    def places(self, images: Tensor) -> Tensor:
        """The map of 1280 numbers a place."""
        return self.network.places((255 * brought_to(images, SIDE) - MEAN) / DEVIATION)


def image_encoder(name: str, device: torch.device, images: int = 1) -> ImagePlaces:
    """The encoder of that name; ValueError for a wrong folder or damaged weights, ImportError without its package."""
    return (EfficientNetPlaces if name == EFFICIENTNET else DinoPatches)(name, device, images)


def image_encoder_sha256(name: str) -> str:
    """Hex SHA-256 of the weights that the name of such an encoder means; ValueError for a folder that has none."""
    if name == EFFICIENTNET:
        return SHA256  # `read_efficientnet` takes no others of the package
    return files_sha256(Path(name.removeprefix(DINO)).expanduser(), f"encoder is {name!r}")

"""Patch tokens of DINOv2 for the media of a training batch, as a target of `alignment=external`.

Letters: B batch, C channels, F frames of a clip, Y X pixels, E features, P patches of a side.
"""

from __future__ import annotations

from functools import cached_property

import torch
from einops import rearrange
from torch import Tensor

from core.contracts import Batch
from eval.inside.encoder import DINO, DINO_SIZE, load_dino, prepare


class DinoPatches:
    """The encoder `dinov2:<folder>`, frozen, in float32: tokens of the last layer behind its norm, image by image.

    An image is brought to 224 x 224, which gives 16 x 16 patches of 14; grey ones stand three times over.
    images: of a sample, the frames of a clip.
    """

    def __init__(self, name: str, device: torch.device, images: int = 1):
        self.network = load_dino(name.removeprefix(DINO)).to(device).float().eval().requires_grad_(False)
        self.width = self.network.config.hidden_size
        self.first = 1 + getattr(self.network.config, "num_register_tokens", 0)  # behind the class token and registers
        self.side = DINO_SIZE // self.network.config.patch_size
        self.device, self.images = device, images

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Images (B, C, Y, X) in [-1, 1] -> (B, E, P, P); clips (B, C, F, Y, X) -> (B, E, F, P, P)."""
        media = batch.media
        images = media if media.ndim == 4 else rearrange(media, "b c f y x -> (b f) c y x")
        features = rearrange(self._tokens(images), "b (y x) e -> b e y x", y=self.side)
        return features if media.ndim == 4 else rearrange(features, "(b f) e y x -> b e f y x", b=len(media))

    def _tokens(self, images: Tensor) -> Tensor:
        """Images (B, C, Y, X) in [-1, 1] -> (B, P * P, E)."""
        with torch.autocast(images.device.type, enabled=False):
            return self.network(pixel_values=prepare(images.float())).last_hidden_state[:, self.first :]

    @cached_property
    def flops(self) -> int:
        """FLOPs of one sample's pass, of all its images."""
        from torch.utils.flop_counter import FlopCounterMode  # brings Triton, which only a run needs

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self._tokens(torch.zeros(1, 3, DINO_SIZE, DINO_SIZE, device=self.device))
        return self.images * counter.get_total_flops()

"""Inception-v3 as an extractor of images, by two protocols; video takes single frames through it.

Letters: B batch, C channels (1 or 3), H height, W width, D features.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from PIL import Image
from torch import Tensor, nn

from core.extras import extra
from core.storage.weights import check_finite_weights, load_weights
from eval.measure.extractor import Extractor
from eval.statistics.arrays import flatten_spatial
from eval.statistics.neighbours import Blocks
from eval.weights import locate_file

SPATIAL_CHANNELS = 7  # ADM takes the first 7 of 192 channels of 17 x 17
SPATIAL_TAP = "Mixed_6d.branch1x1"  # mixed_6/conv of TensorFlow's graph, after batch norm and ReLU
ADM = "inception_adm"
TORCH_FIDELITY = "inception_torch_fidelity"


class InceptionFeatures(Extractor):
    """Inception-v3 of 2015-12-05, as torch-fidelity rebuilt it from TensorFlow's graph.

    pool (B, 2048); logits (B, 1008), without the bias, as the graph's MatMul gives them and both protocols take them;
    and, by the ADM protocol, spatial (B, 2023): the first 7 channels of mixed_6/conv in the order H, W, C.
    """

    main = "pool"
    preprocessing = "TensorFlow 1 bilinear to 299 without antialiasing, (x - 128) / 128"

    def __init__(self, protocol: str, path: Path | None, root: Path | None, device: torch.device):
        """path: a file to take instead of the registry's under `root`. ValueError where there is none, or another."""
        self.name, self.device = protocol, device
        module = extra("torch_fidelity.feature_extractor_inceptionv3", f"features={protocol}", "eval")
        file, self.weights_sha256 = locate_file("inception", path, root, key="inception")
        checked = io.BytesIO()  # torch-fidelity executes what it opens: it is given the tensors, never the file
        torch.save(load_weights(file, prefer=None), checked)
        checked.seek(0)
        try:
            network = module.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], checked)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{file} is not the Inception-v3 of torch-fidelity: {reason:.300}") from error
        check_finite_weights(network, str(file))
        self.network: nn.Module = network.to(device)
        self._maps: Tensor | None = None
        if protocol == ADM:
            self.network.get_submodule(SPATIAL_TAP).register_forward_hook(self._keep)

    def distance_blocks(self, device: torch.device) -> Blocks:
        """Distances of ADM's protocol are taken in float16 and blocks of 10,000."""
        return Blocks("adm_float16", 10_000, str(device)) if self.name == ADM else super().distance_blocks(device)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._maps = output

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        pool, logits = self.network(as_rgb(images).to(self.device))
        found = {"pool": pool.cpu(), "logits": logits.cpu()}
        if self._maps is not None:
            found["spatial"] = torch.from_numpy(flatten_spatial(self._maps, SPATIAL_CHANNELS))
        return found


def as_channels_first(images: Tensor) -> Tensor:
    """uint8 (B, C, H, W) or (B, H, W, C) -> (B, C, H, W); ValueError where it is not clear which axis is C."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; needed: uint8 with 4 axes")
    first, last = (images.shape[axis] in (1, 3) for axis in (1, 3))
    if first == last:
        raise ValueError(f"images have shape {tuple(images.shape)}; needed: 1 or 3 channels, second or last, not both")
    return images if first else rearrange(images, "b h w c -> b c h w")


def as_rgb(images: Tensor) -> Tensor:
    """uint8 images -> (B, 3, H, W), a grey one three times over."""
    images = as_channels_first(images)
    return repeat(images, "b 1 h w -> b c h w", c=3) if images.shape[1] == 1 else images


def pillow_resized(images: Tensor, side: int) -> Tensor:
    """uint8 images (B, 3, H, W) -> float32 (B, 3, side, side) in 0 to 255, by Pillow's bicubic, rounded to uint8."""
    rows = rearrange(images, "b c h w -> b h w c").cpu().numpy()
    resized = [np.asarray(Image.fromarray(row).resize((side, side), Image.Resampling.BICUBIC)) for row in rows]
    return rearrange(torch.from_numpy(np.stack(resized)), "b h w c -> b c h w").float()

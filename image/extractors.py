"""Published extractors of images: Inception-v3 by two protocols, and DINOv2.

Every extractor takes uint8 images (B, C, H, W) or (B, H, W, C) and gives float32 features by name, (B, D) each, on the
CPU. A record of an evaluation holds its `facts`: numbers of different networks, weights or preprocessing are never
compared.

Letters: B batch, C channels (1 or 3), H height, W width, D features.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from PIL import Image
from torch import Tensor, nn

from core.extras import extra
from core.storage.atomic import sha256_file
from core.storage.pretrained import read_pretrained
from core.storage.provenance import json_sha256
from core.storage.weights import check_finite_weights, load_weights
from eval.measure.extractor import Extractor
from eval.statistics.arrays import flatten_spatial
from eval.statistics.neighbours import Blocks
from eval.weights import locate, verified

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPATIAL_CHANNELS = 7  # ADM takes the first 7 of 192 channels of 17 x 17
SPATIAL_TAP = "Mixed_6d.branch1x1"  # mixed_6/conv of TensorFlow's graph, after batch norm and ReLU
DINO_SIDE = 224
ADM = "inception_adm"


@dataclass(frozen=True)
class WeightsSource:
    """The places of the extractors' weights; see `eval.weights`.

    root       the weights folder; null: its default
    inception  a file to take instead of the registry's
    dinov2     a folder to take instead of the registry's
    """

    root: Path | None = None
    inception: Path | None = None
    dinov2: Path | None = None


class InceptionFeatures(Extractor):
    """Inception-v3 of 2015-12-05, as torch-fidelity rebuilt it from TensorFlow's graph.

    pool (B, 2048); logits (B, 1008), without the bias, as the graph's MatMul gives them and both protocols take them;
    and, by the ADM protocol, spatial (B, 2023): the first 7 channels of mixed_6/conv in the order H, W, C.
    """

    main = "pool"
    preprocessing = "TensorFlow 1 bilinear to 299 without antialiasing, (x - 128) / 128"

    def __init__(self, protocol: str, source: WeightsSource, device: torch.device):
        self.name, self.device = protocol, device
        module = extra("torch_fidelity.feature_extractor_inceptionv3", f"features={protocol}", "eval")
        file = source.inception if source.inception is not None else locate("inception", source.root)
        own = source.inception is not None
        self.weights_sha256 = _file_sha256(file, "inception") if own else _only(verified("inception", source.root))
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


class DinoFeatures(Extractor):
    """The class token of DINOv2 after the last norm, cls (B, D); ViT-L/14 (D = 1024) for the published FD-DINOv2.

    As dgm-eval (Stein et al. 2023) has it: Pillow's bicubic to 224 x 224, ImageNet's mean and deviation; position
    embeddings are resampled with DINOv2's own offset of 0.1, which transformers leaves out.
    """

    name, main = "dinov2", "cls"
    preprocessing = "Pillow bicubic to 224 on uint8, ImageNet mean and deviation; positions resampled with offset 0.1"

    def __init__(self, source: WeightsSource, device: torch.device):
        self.device = device
        transformers = extra("transformers", f"features={self.name}", "eval")
        folder = source.dinov2 if source.dinov2 is not None else locate("dinov2-large", source.root)
        if source.dinov2 is not None:
            files = {name: _file_sha256(folder / name, self.name) for name in ("config.json", "model.safetensors")}
        else:
            files = verified("dinov2-large", source.root)
        self.weights_sha256 = json_sha256(files)
        transformers.utils.logging.disable_progress_bar()
        network = read_pretrained(transformers.Dinov2Model, folder, self.name)
        resample_positions(network)
        self.network = network.float().eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        rows = rearrange(as_rgb(images), "b c h w -> b h w c").cpu().numpy()
        resized = [np.asarray(Image.fromarray(row).resize((DINO_SIDE,) * 2, Image.Resampling.BICUBIC)) for row in rows]
        x = rearrange(torch.from_numpy(np.stack(resized)), "b h w c -> b c h w").to(self.device).float() / 255
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        return {"cls": self.network((x - mean) / std).last_hidden_state[:, 0].float().cpu()}


def resample_positions(network: nn.Module) -> None:
    """Give a Dinov2Model the position embeddings of 224 x 224 images once and for all, as facebookresearch/dinov2 does.

    Its bicubic scale is (16 + 0.1) / 37 for patches of 14; the tenth moves every sampling point a little.
    """
    embeddings = network.embeddings
    table = embeddings.position_embeddings.detach().float()
    side = round((table.shape[1] - 1) ** 0.5)  # DINOv2 is pretrained on squares; the config has the pixels only
    count = DINO_SIDE // embeddings.patch_embeddings.patch_size[0]
    if side * side != table.shape[1] - 1:
        raise ValueError(f"dinov2 has {table.shape[1] - 1} position embeddings; a square number is needed")
    if side != count:
        grid = rearrange(table[:, 1:], "1 (y x) d -> 1 d y x", y=side)
        grid = nn.functional.interpolate(grid, scale_factor=((count + 0.1) / side,) * 2, mode="bicubic")
        table = torch.cat([table[:, :1], rearrange(grid, "1 d y x -> 1 (y x) d")], dim=1)
    embeddings.position_embeddings = nn.Parameter(table)


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


def _file_sha256(path: Path, key: str) -> str:
    if not path.is_file():
        raise ValueError(f"config key '{key}': there is no file {path}")
    return sha256_file(path)


def _only(hashes: dict[str, str]) -> str:
    (sha256,) = hashes.values()
    return sha256

"""Published extractors of images: where their weights are, and DINOv2.

Inception-v3 is `eval.measure.inception`, EfficientNet-Lite0 `eval.measure.efficientnet`.

Every extractor takes uint8 images (B, C, H, W) or (B, H, W, C) and gives float32 features by name, (B, D) each, on the
CPU. A record of an evaluation holds its `facts`: numbers of different networks, weights or preprocessing are never
compared.

Letters: B batch, C channels (1 or 3), H height, W width, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from core.extras import extra
from core.storage.atomic import sha256_file
from core.storage.pretrained import read_pretrained
from core.storage.provenance import json_sha256
from eval.measure.efficientnet import NAME as EFFICIENTNET
from eval.measure.efficientnet import EfficientNetFeatures
from eval.measure.extractor import Extractor
from eval.measure.inception import InceptionFeatures, as_rgb, pillow_resized
from eval.weights import locate, verified

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINO_SIDE = 224


@dataclass(frozen=True)
class WeightsSource:
    """The places of the extractors' weights; see `eval.weights`.

    root       the weights folder; null: its default
    inception  a file to take instead of the registry's
    dinov2     a folder to take instead of the registry's
    efficientnet_lite0  a file to take instead of the package's
    """

    root: Path | None = None
    inception: Path | None = None
    dinov2: Path | None = None
    efficientnet_lite0: Path | None = None


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
            files = {name: _file_sha256(folder / name) for name in ("config.json", "model.safetensors")}
        else:
            files = verified("dinov2-large", source.root)
        self.weights_sha256 = json_sha256(files)
        transformers.utils.logging.disable_progress_bar()
        network = read_pretrained(transformers.Dinov2Model, folder, self.name)
        resample_positions(network)
        self.network = network.float().eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        x = pillow_resized(as_rgb(images), DINO_SIDE).to(self.device) / 255
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        return {"cls": self.network((x - mean) / std).last_hidden_state[:, 0].float().cpu()}


def published_extractor(name: str, source: WeightsSource, device: torch.device) -> Extractor:
    """The extractor of that name; ValueError where its weights are absent or another's, ImportError for an extra."""
    if name == "dinov2":
        return DinoFeatures(source, device)
    if name == EFFICIENTNET:
        return EfficientNetFeatures(source.efficientnet_lite0, device)
    return InceptionFeatures(name, source.inception, source.root, device)


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


def _file_sha256(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"config key 'dinov2': there is no file {path}")
    return sha256_file(path)

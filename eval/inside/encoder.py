"""Features of an external encoder for rows of the run's data: from a file, or from DINOv2 on a local disk.

Letters: n rows, D features, B batch, C channels, F frames of a clip, Y X pixels, N patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from einops import rearrange, reduce
from torch import Tensor, nn

from core.extras import extra
from core.storage.arrays import map_array, npz_array, npz_keys
from core.storage.json_files import read_mapping
from core.storage.pretrained import read_pretrained
from eval.inside.masks import pixels
from eval.inside.model import ForwardOptions, TrainedModel

DINO = "dinov2:"
DINO_SIZE = 224  # pixels of the side that an image is brought to
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of DINOv2's training


def encoder_features(model: TrainedModel, rows: Sequence[int], source: str, forward: ForwardOptions) -> Tensor:
    """Features (n, D) float32 of rows.

    source  a .npy file (all rows of the data set, D), or a .npz with one such array (or several, one named `features`);
            or dinov2:<folder>, a model as transformers saves it: mean of the patch tokens of the clean image

    Raises ValueError for what does not fit, ImportError without transformers.
    """
    if source.startswith(DINO):
        return dino_features(model, rows, source.removeprefix(DINO), forward)
    features = _load(Path(source).expanduser(), source)
    total = len(model.domain.dataset)
    if features.ndim != 2 or len(features) != total or features.dtype.kind not in "fiu":
        raise ValueError(
            f"encoder is {source!r}, an array {features.dtype} {features.shape}; needed: ({total}, D), numbers, "
            "a row for each of the data set"
        )
    chosen = torch.from_numpy(np.ascontiguousarray(features[np.asarray(rows)], dtype=np.float32))
    if not torch.isfinite(chosen).all():
        raise ValueError(f"encoder is {source!r}, which holds NaN or infinite values")
    return chosen


def _load(path: Path, source: str) -> np.ndarray:
    if path.suffix not in (".npy", ".npz") or not path.is_file():
        raise ValueError(f"encoder is {source!r}; allowed: an existing .npy or .npz file, {DINO}<folder>, or null")
    try:
        if path.suffix == ".npy":
            return map_array(path)
        names = npz_keys(path)
        name = names[0] if len(names) == 1 else "features"
        if name not in names:
            raise ValueError(f"it holds {names}, none named 'features'")
        return npz_array(path, name)
    except ValueError as error:
        raise ValueError(f"encoder is {source!r}, which cannot be read: {error}") from error


@torch.no_grad()
def dino_features(model: TrainedModel, rows: Sequence[int], folder: str, forward: ForwardOptions) -> Tensor:
    """Mean patch token (n, D) of the last layer, the whole image at 224 x 224; grey images three times over.

    Of a clip, the mean over its frames.
    """
    network = load_dino(folder).to(model.device).eval()
    parts = []
    for shown in pixels(model, rows, forward):
        images = shown if shown.ndim == 4 else rearrange(shown, "b c f y x -> (b f) c y x")
        tokens = network(pixel_values=prepare(images.to(model.device))).last_hidden_state
        first = 1 + getattr(network.config, "num_register_tokens", 0)  # the class token and registers are no patches
        parts.append(reduce(tokens[:, first:].float(), "(b f) n d -> b d", "mean", b=len(shown)).cpu())
    features = torch.cat(parts)
    if not features.isfinite().all():
        raise ValueError(f"encoder is '{DINO}{folder}', which gives NaN or infinity")
    return features


def prepare(images: Tensor) -> Tensor:
    """Images (B, C, Y, X) in [-1, 1] as DINOv2 takes them, (B, 3, 224, 224)."""
    images = brought_to(images, DINO_SIZE)
    mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def brought_to(images: Tensor, side: int) -> Tensor:
    """Images (B, 1 or 3, Y, X) in [-1, 1] -> (B, 3, side, side) in [0, 1], bicubic with antialiasing."""
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    options = {"size": (side, side), "mode": "bicubic", "antialias": True, "align_corners": False}
    return F.interpolate((images + 1) / 2, **options).clamp(0, 1)


def load_dino(folder: str) -> nn.Module:
    """The DINOv2 in a folder as transformers saves it; ValueError for another one, ImportError without transformers."""
    transformers = extra("transformers", "encoder=dinov2:...", "eval")
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise ValueError(f"encoder is '{DINO}{folder}', which holds no config.json; needed: a folder of DINOv2")
    kind = read_mapping(path / "config.json").get("model_type")
    if not str(kind).startswith("dinov2"):
        raise ValueError(f"encoder is '{DINO}{folder}', a network of the kind {kind!r}; needed: DINOv2")
    return read_pretrained(transformers.AutoModel, path, f"encoder is '{DINO}{folder}'")

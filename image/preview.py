"""Pictures a person looks at: a grid of images as one PNG. B batch, C channels, Y X pixels."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from einops import rearrange, repeat
from PIL import Image
from torch import Tensor

from core.data.pixels import to_uint8
from core.storage.atomic import write_atomic

MIN_TILE = 48  # pixels: smaller images are enlarged by a whole factor, so that they can be seen


def to_images(media: Tensor) -> list[Image.Image]:
    """Media (B, C, Y, X) in [-1, 1], C 1 or 3, as PIL images."""
    rows = rearrange(to_uint8(media), "b c y x -> b y x c").numpy()
    return [Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row) for row in rows]


def grid(media: Tensor, columns: int) -> Image.Image:
    """Media (B, C, Y, X) in [-1, 1] as one picture, row by row; missing tiles of the last row stay white."""
    missing = -len(media) % columns
    media = torch.cat([media, media.new_ones((missing, *media.shape[1:]))])
    factor = max(1, -(-MIN_TILE // media.shape[-1]))
    gap = max(1, factor // 2)
    tiles = repeat(media, "b c y x -> b c (y f) (x g)", f=factor, g=factor)
    tiles = torch.nn.functional.pad(tiles, (gap, gap, gap, gap), value=1.0)
    sheet = rearrange(tiles, "(r k) c y x -> 1 c (r y) (k x)", k=columns)
    return to_images(sheet)[0]


class ImagePreview:
    """A PNG grid; with balanced labels and up to 20 classes, a column shows one class."""

    def save(self, media: Tensor, condition: Tensor, path: Path) -> Path:
        """Media (B, C, Y, X) in [-1, 1] with labels (B,) as `path`.png."""
        distinct = len(condition.unique())
        columns = distinct if 1 < distinct <= 20 else max(1, round(len(media) ** 0.5))
        content = io.BytesIO()
        grid(media, columns).save(content, format="PNG")
        return write_atomic(path.with_name(path.name + ".png"), content.getvalue())

"""What a person sees of samples: a contact sheet as PNG, a row of frames for each clip, and an MP4 beside it.

Letters: B batch, C channels, F frames, H height, W width in pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, repeat
from PIL import Image
from torch import Tensor

from core.data.pixels import to_uint8
from core.storage.atomic import write_atomic

MIN_TILE = 48  # pixels: smaller frames are enlarged by a whole factor, so that they can be seen
MAX_FRAMES = 16  # of a contact sheet
MAX_COLUMNS = 8  # of the grid that plays


class VideoPreview:
    """A contact sheet and a grid that plays.

    class_names  of labels
    fps          at which clips are shown
    """

    def __init__(self, class_names: Sequence[str], fps: float):
        self.class_names, self.fps = list(class_names), fps

    def save(self, media: Tensor, condition: Tensor | None, path: Path) -> Path:
        """Media (B, C, F, H, W) in [-1, 1] as `path`.png, which is returned, and `path`.mp4."""
        frames = rearrange(to_uint8(media), "b c f h w -> b f h w c")
        frames = repeat(frames, "b f h w c -> b f h w (c k)", k=3 // frames.shape[-1])
        factor = max(1, -(-MIN_TILE // frames.shape[2]))
        tiles = repeat(frames, "b f h w c -> b f (h p) (w q) c", p=factor, q=factor)
        tiles = torch.nn.functional.pad(tiles, (0, 0, 1, 1, 1, 1), value=255)
        write_atomic(path.with_name(path.name + ".mp4"), mp4(playing(tiles), self.fps))
        chosen = np.linspace(0, tiles.shape[1] - 1, min(MAX_FRAMES, tiles.shape[1])).round().astype(int)
        sheet = rearrange(tiles[:, chosen], "b f h w c -> (b h) (f w) c")
        content = io.BytesIO()
        Image.fromarray(sheet.numpy()).save(content, format="PNG")
        return write_atomic(path.with_name(path.name + ".png"), content.getvalue())


def playing(tiles: Tensor) -> np.ndarray:
    """Clips (B, F, H, W, 3) uint8 side by side, (F, rows H, columns W, 3)."""
    columns = min(MAX_COLUMNS, len(tiles))
    missing = -len(tiles) % columns
    tiles = torch.cat([tiles, tiles.new_full((missing, *tiles.shape[1:]), 255)])
    return rearrange(tiles, "(r k) f h w c -> f (r h) (k w) c", k=columns).numpy()


def mp4(frames: np.ndarray, fps: float) -> bytes:
    """Frames (F, H, W, 3) uint8 as an MP4 of H.264; odd sides lose a row or a column."""
    import av

    height, width = (side - side % 2 for side in frames.shape[1:3])
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # whose number would change the bytes
        for frame in frames:
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return content.getvalue()

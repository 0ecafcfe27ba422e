"""What every published extractor asks of the clips that it is given, before its own preprocessing.

Letters: B clips, F frames, H W pixels, C channels (1 or 3).
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn


def as_rgb_clips(clips: Tensor) -> Tensor:
    """uint8 clips (B, F, H, W, C) -> (B, F, H, W, 3), a grey one three times over; ValueError for anything else."""
    if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] not in (1, 3):
        found = f"{clips.dtype} {tuple(clips.shape)}"
        raise ValueError(f"clips are {found}; needed: uint8 (clips, frames, height, width, 1 or 3)")
    return repeat(clips, "b f h w 1 -> b f h w c", c=3) if clips.shape[-1] == 1 else clips


def check_frames(frames: int, extractor: str, least: int, most: int | None = None) -> None:
    """Raises ValueError for clips with fewer frames than an extractor needs, or more than it takes."""
    if frames < least or (most is not None and frames > most):
        needed = f"{least} at least" if most is None else str(least) if least == most else f"{least} to {most}"
        raise ValueError(f"the clips have {frames} frames; features={extractor} needs {needed} (clip.frames)")


def resized(clips: Tensor, side: int) -> Tensor:
    """uint8 clips (B, F, H, W, 3) -> float32 (B, 3, F, side, side) in 0..255.

    Each frame by itself, bilinear, without antialiasing, corners not aligned, whatever its proportions are.
    """
    frames = rearrange(clips, "b f h w c -> (b f) c h w").float()
    frames = nn.functional.interpolate(frames, size=(side, side), mode="bilinear", align_corners=False)
    return rearrange(frames, "(b f) c h w -> b c f h w", b=len(clips))

"""What all autoencoders of clips share: which clips fit, and the pixels that they take.

Letters: B batch, C channels, F frames, H height, W width in pixels, Z latent channels, (T, Y, X) latent frames, rows,
columns, s frames of a latent frame.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from core.latents.autoencoder_kl import latent_grid
from core.latents.tokenizer import MediaError

FIRST_FRAMES = 1  # of the first latent frame: a clip begins with a frame coded by itself
SLACK = 1e-3  # beyond [-1, 1], which a resampled frame may reach by rounding


class ClipSizes(Protocol):
    """What an autoencoder of clips says of its grid.

    in_channels      C
    latent_channels  Z
    downsample       f, of rows and columns
    frame_stride     s: the first latent frame is one frame, each other one s
    """

    in_channels: int
    latent_channels: int
    downsample: int
    frame_stride: int


def clip_grid(media_shape: tuple[int, ...], sizes: ClipSizes) -> tuple[int, int, int, int]:
    """(C, F, H, W) -> (Z, T, Y, X); ValueError, naming the config key, for clips that do not fit."""
    if len(media_shape) != 4:
        raise ValueError(f"clips of shape {tuple(media_shape)}; the tokenizer takes (channels, frames, height, width)")
    channels, frames, height, width = media_shape
    depth, rows, columns = latent_grid(
        (channels, height, width), sizes.in_channels, sizes.latent_channels, sizes.downsample, "clips (data.size)"
    )
    return depth, latent_frames(frames, sizes.frame_stride), rows, columns


def latent_frames(frames: int, stride: int) -> int:
    """F -> T = 1 + (F - 1) / s; ValueError, naming data.clip.frames and its neighbours that fit, for a rest."""
    groups, rest = divmod(frames - FIRST_FRAMES, stride)
    if frames < FIRST_FRAMES or rest:
        below = FIRST_FRAMES + max(groups, 0) * stride
        near = f"{below} or {below + stride}" if frames > below else f"{below}"
        raise ValueError(
            f"data.clip.frames is {frames}; the tokenizer takes {FIRST_FRAMES} frame and then groups of {stride} "
            f"({stride}n+1), so {near}"
        )
    return groups + 1


def check_range(media: Tensor) -> Tensor:
    """Media (B, ...) as they came; MediaError with the row of one that is not finite or leaves [-1, 1].

    Clips are in [-1, 1] by construction. A network that is fed bytes gives latents too, and a cache would keep them.
    """
    if not media.numel():
        return media
    low, high = torch.stack(media.detach().flatten(1).aminmax(dim=1)).float().cpu()  # one wait for the device
    bad = ~((low >= -1 - SLACK) & (high <= 1 + SLACK))  # true for NaN too
    if bad.any():
        row = int(bad.nonzero()[0])
        raise MediaError(
            f"its pixels lie in [{low[row]:g}, {high[row]:g}]; needed: finite numbers in [-1, 1] (black is -1)",
            row,
        )
    return media


def checked_clip(dataset: Any, index: int) -> Tensor:
    """Clip `index` (C, F, H, W) of a data set, without chance; ValueError with its name for pixels outside [-1, 1]."""
    clip = dataset.clip_at(index)
    try:
        check_range(clip[None])
    except MediaError as error:
        raise ValueError(f"{dataset.name(index)} (row {index}): {error}") from error
    return clip

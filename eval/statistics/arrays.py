"""What every statistic asks of its features before it computes.

Letters: n samples, D features, C H W channels, rows and columns of a spatial feature map.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

Features = np.ndarray | Tensor


def as_array(features: Features) -> np.ndarray:
    """A tensor of any device, or an array, as an array of its own dtype; bfloat16 becomes float32."""
    if isinstance(features, Tensor):
        features = features.detach().cpu()
        return (features.float() if features.dtype is torch.bfloat16 else features).numpy()
    return np.asarray(features)


def checked(features: Features, metric: str, at_least: int = 2, name: str = "features") -> np.ndarray:
    """Features (n, D) as an array; raises ValueError that names the metric and what is wrong.

    Refused: another number of axes, no column, fewer than `at_least` samples, NaN or infinity, and samples that are all
    equal, which come from a collapsed generator or a broken extractor and make most statistics meaningless.
    """
    array = as_array(features)
    if array.ndim != 2 or array.shape[1] == 0 or len(array) < at_least:
        raise ValueError(f"{metric} needs {name} (n, D) of at least {at_least} samples, got {array.shape}")
    check_finite(array, name)
    if len(array) > 1 and (array[1:] == array[0]).all():
        raise ValueError(f"{metric}: all {len(array)} samples have equal {name}; are the media all the same?")
    return array


def check_finite(array: np.ndarray, name: str = "features", first_row: int = 0) -> None:
    """Raise ValueError if rows of `array` (n, D), after `first_row` others, are not finite: how many, and the first."""
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(f"{name} of {len(bad)} samples are NaN or infinite, first at row {first_row + bad[0]}")


def check_width(a: np.ndarray, b: np.ndarray) -> None:
    """Raise ValueError unless the last axes of both have the same length."""
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"features of width {a.shape[-1]} and {b.shape[-1]} cannot be compared")


def flatten_spatial(maps: Features, channels: int = 7) -> np.ndarray:
    """Feature maps (n, C, H, W) -> (n, H W channels) of the first `channels`, the channel running fastest.

    sFID (Nash et al. 2021) is the Fréchet distance of these. ADM's reference statistics are stored in this order,
    H, W, C (7 channels of 17 x 17 make 2023); flattening C, H, W gives a wrong distance against them and no error.
    """
    array = as_array(maps)
    if array.ndim != 4 or not 1 <= channels <= array.shape[1]:
        raise ValueError(f"maps have shape {array.shape}; needed: (n, C, H, W) with C of at least {channels} channels")
    return rearrange(array[:, :channels], "n c h w -> n (h w c)")

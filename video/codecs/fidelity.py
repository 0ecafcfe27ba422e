"""Numbers to look by: how near decoded clips are to what was encoded.

Letters: B batch, C channels, F frames, H height, W width in pixels; clips in [-1, 1].
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import avg_pool2d

DATA_RANGE = 2.0  # of media in [-1, 1]
SMALLEST_ERROR = 1e-10  # mean square that counts as none: 106 dB
SMALLEST_VARIANCE = 1e-3  # of a clip's pixels: one of a single colour has nothing to explain
SSIM_WINDOW = 7  # pixels, as scikit-image's default
SSIM_K1, SSIM_K2 = 0.01, 0.03  # of Wang et al. 2004


def psnr_db(media: Tensor, decoded: Tensor) -> Tensor:
    """10 log10(range^2 / mean square error) over a clip's numbers: two (B, C, F, H, W) -> (B,) in dB."""
    error = (media.double() - decoded.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(DATA_RANGE**2 / error.clamp_min(SMALLEST_ERROR))


def ssim(media: Tensor, decoded: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of frames: two (B, C, F, H, W) -> means (B,), 1 for equal clips.

    In flat windows of 7 pixels that lie within a frame, or the largest odd number of pixels that do, channel by channel
    and with variances of samples, as scikit-image's `structural_similarity` computes it by default.
    """
    x, y = (rearrange(each.double(), "b c f h w -> (b f) c h w") for each in (media, decoded))
    side = min(SSIM_WINDOW, *x.shape[2:])
    side -= 1 - side % 2
    spread = side**2 / max(side**2 - 1, 1)  # variance of a sample

    def mean(values: Tensor) -> Tensor:
        return avg_pool2d(values, side, stride=1)

    a, b = mean(x), mean(y)
    variances = spread * (mean(x * x) - a * a), spread * (mean(y * y) - b * b)
    covariance = spread * (mean(x * y) - a * b)
    c1, c2 = (SSIM_K1 * DATA_RANGE) ** 2, (SSIM_K2 * DATA_RANGE) ** 2
    found = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (sum(variances) + c2))
    return rearrange(found.flatten(1).mean(1), "(b f) -> b f", b=len(media)).mean(1)


def explained_variance(media: Tensor, decoded: Tensor) -> Tensor:
    """1 - |error|^2 / |pixels - their mean|^2, at least -1: two (B, C, F, H, W) -> (B,).

    1 for equal clips, 0 for one of the mean colour: the mean is of a channel over the clip.
    """
    x, y = (rearrange(each.double(), "b c f h w -> b c (f h w)") for each in (media, decoded))
    around = (x - x.mean(2, keepdim=True)).square().mean((1, 2)).clamp_min(SMALLEST_VARIANCE)
    return (1 - (x - y).square().mean((1, 2)) / around).clamp_min(-1)

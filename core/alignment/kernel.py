"""Kernels of the samples of a batch, and how alike two of them are. n samples."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_DEBIASED = 4  # samples: the estimate divides by n - 3


def centred(kernel: Tensor, *, debiased: bool) -> Tensor:
    """A kernel (n, n) with rows and columns of mean zero; debiased: its diagonal left out (U-centred).

    The mean product of two such matrices is HSIC up to a factor that CKA does not see. Raises ValueError for fewer than
    4 samples when debiased.
    """
    n = len(kernel)
    if not debiased:
        return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
    if n < MIN_DEBIASED:
        raise ValueError(f"a debiased CKA needs at least {MIN_DEBIASED} samples, got {n}")
    kernel = kernel - torch.diag(kernel.diagonal())
    rows = kernel.sum(0) / (n - 2)
    out = kernel - rows - rows[:, None] + kernel.sum() / ((n - 1) * (n - 2))
    return out - torch.diag(out.diagonal())

"""The one rule from numbers in [-1, 1] to bytes."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(media: Tensor) -> Tensor:
    """Media in [-1, 1] as uint8: clamp(127.5 x + 128, 0, 255), truncated: the rule of published SiT and ADM numbers."""
    return (127.5 * media.float() + 128.0).clamp(0, 255).to(torch.uint8)

"""The precision that a backbone runs in: fp32, or autocast to bf16 or fp16, whose weights stay fp32."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which the backbone runs."""
    lower = precision != "fp32"
    return torch.autocast(device.type, DTYPES[precision] if lower else None, enabled=lower)


def allow_tf32(allowed: bool) -> None:
    """Whether fp32 matrix products and convolutions on a GPU may round their factors to TF32, from now on."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed

"""The arithmetic of a SiT, counted from its layers, and the rate at which a device multiplies matrices at best.

A multiplication and an addition are two FLOPs; papers on DiT and SiT count them as one and so report half of it.
Letters: N tokens, D width.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from image.backbone import SiT

PER_SAMPLE = ("t_embedder", "adaLN_modulation")  # linear maps that see one vector of a sample, not its tokens
TRAINING_FACTOR = 3  # the backward pass multiplies twice for each multiplication of the forward pass
LONG_ENOUGH = 0.02  # seconds that one matrix product should take
LARGEST_SIDE = {"cpu": 4096, "cuda": 16384}


def forward_flops(model: SiT) -> int:
    """FLOPs of all matrix products for one sample: patches, attention, MLPs, conditioning; nothing element by element.

    A linear map costs 2 in out for each vector, attention 4 N^2 D for its two products.
    """
    total, width = 0, model.pos_embed.shape[-1]
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            vectors = 1 if any(part in PER_SAMPLE for part in name.split(".")) else model.num_tokens
            total += 2 * vectors * module.weight.numel()
    return total + len(model.blocks) * 4 * model.num_tokens**2 * width


def training_flops(model: SiT) -> int:
    """FLOPs of one sample's forward and backward pass, three times the forward."""
    return TRAINING_FACTOR * forward_flops(model)


@torch.no_grad()
def matmul_peak(device: torch.device, dtype: torch.dtype, repeats: int = 10) -> float:
    """The best FLOP/s of a square matrix product, its side doubled until a product takes 20 ms or memory is a concern.

    The yardstick of MFU: measured on the same device in the same precision as what is judged by it.
    """
    side, best, limit = 256, 0.0, LARGEST_SIDE.get(device.type, 4096)
    while True:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        _product_seconds(a, b)
        seconds = min(_product_seconds(a, b) for _ in range(repeats))
        best = max(best, 2 * side**3 / seconds)
        if seconds > LONG_ENOUGH or side >= limit:
            return best
        side *= 2


def _product_seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    on_gpu = a.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(a.device)
    started = time.perf_counter()
    torch.mm(a, b)
    if on_gpu:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - started

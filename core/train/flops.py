"""The arithmetic of a network, counted as it runs, and the rate at which a device multiplies matrices at best.

MFU is the one over the other. A multiplication and an addition are two FLOPs; papers on DiT and SiT count them as one
and so report half of it. Letters: B batch.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.contracts import Condition
from core.nets.layers import TRAINING_FACTOR
from core.nets.routing import Routing

LONG_ENOUGH = 0.02  # seconds that one matrix product should take
LARGEST_SIDE = {"cpu": 4096, "cuda": 8192}


@torch.no_grad()
def forward_flops(
    network: nn.Module,
    latent_shape: tuple[int, ...],
    condition: Condition,
    token_times: bool = False,
    routing: Routing | None = None,
) -> int:
    """FLOPs of all matrix products and convolutions of one sample's forward pass; nothing element by element.

    network: a `core.contracts.Backbone` as it was built, before compile and wrapping, with its hooks paused; on the
    meta device nothing is computed. latent_shape: without the batch axis. condition (B, ...): one row of it is used.
    token_times: each token has a time of its own, and with it shifts, scales and gates. routing: of the tokens of a
    network that is `routed`.

    The network runs once, on its own device. Its weights, buffers, gradients, training flag and the generators of
    random numbers stay as they are.
    """
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton, which only a run needs

    first = next(network.parameters())
    x = torch.zeros((1, *latent_shape), device=first.device, dtype=first.dtype)
    t = torch.full((1, network.num_tokens) if token_times else (1,), 0.5, device=first.device)
    kept = () if routing is None else (None, torch.arange(routing.kept(network.num_tokens), device=first.device)[None])
    buffers = {name: each.clone() for name, each in network.named_buffers()}
    # Attention as two plain products: the counter does not know every fused kernel, that of CPUs for one.
    with _random_kept(first.device), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        functional_call(network, buffers, (x, t, condition[:1].to(first.device), *kept))
    return counter.get_total_flops()


def training_flops(
    network: nn.Module,
    latent_shape: tuple[int, ...],
    condition: Condition,
    token_times: bool = False,
    routing: Routing | None = None,
) -> int:
    """FLOPs of one sample's forward and backward pass, three times the forward; recomputation does not count."""
    return TRAINING_FACTOR * forward_flops(network, latent_shape, condition, token_times, routing)


def _random_kept(device: torch.device) -> torch.random.fork_rng:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def matmul_peak(device: torch.device, dtype: torch.dtype, repeats: int = 10) -> float:
    """The best FLOP/s of a square matrix product: the yardstick of MFU, taken on the same device in the same precision
    as what is judged by it."""
    return max(matmul_rates(device, dtype, repeats).values())


@torch.no_grad()
def matmul_rates(device: torch.device, dtype: torch.dtype, repeats: int = 10) -> dict[int, float]:
    """FLOP/s of square matrix products by their side, the best of `repeats` each, on random numbers.

    The side is doubled until a product takes 20 ms or memory is a concern.
    """
    side, rates, limit = 256, {}, LARGEST_SIDE.get(device.type, 4096)
    generator = torch.Generator(device).manual_seed(side)
    while True:
        a, b = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
        _product_seconds(a, b)
        seconds = min(_product_seconds(a, b) for _ in range(repeats))
        rates[side] = 2 * side**3 / seconds
        if seconds > LONG_ENOUGH or side >= limit:
            return rates
        side *= 2


def _product_seconds(a: Tensor, b: Tensor) -> float:
    on_gpu = a.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(a.device)
    started = time.perf_counter()
    torch.mm(a, b)
    if on_gpu:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - started

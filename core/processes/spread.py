"""How a network is spread over the processes of a job and compiled: DDP or FSDP2, whole or per block.

The order is fixed: LayerSync's hooks are on the bare model already, then the blocks are compiled, then the model is
wrapped or sharded. Both average gradients over processes, so a loss that is weighted by its share of the global batch
times the number of processes gives the gradient of the global batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core.processes.world import World

Compile = Literal["none", "model", "blocks"]


@dataclass(frozen=True)
class ParallelConfig:
    """How several processes share one model; one process needs neither.

    ddp    every process holds all weights, averages and optimizer state (16 bytes a parameter and more)
    fsdp2  every process holds its part of them (torch.distributed.fsdp.fully_shard), block by block
    """

    strategy: Literal["ddp", "fsdp2"] = "ddp"


def spread(
    model: nn.Module, config: ParallelConfig, compile_: Compile, world: World, *, trained: bool = True
) -> nn.Module:
    """What the training step calls: `model` compiled, and wrapped or sharded if there are several processes.

    trained=False is for a model that has forward passes only: sharded like the other, but nothing is exchanged.

    The model's parameters stay in `model`, under the same names; FSDP2 replaces them by sharded ones, so it comes
    before the optimizer and the average are built.
    """
    if compile_ == "blocks":
        for part in model.parts():
            part.compile()
    if world.size > 1 and config.strategy == "fsdp2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(world.device.type, (world.size,))
        reshard = None if trained else True  # without a backward pass nothing lets go of the outermost weights
        for block in model.blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
        return _compiled(fully_shard(model, mesh=mesh, reshard_after_forward=reshard), compile_)
    network = _compiled(model, compile_)
    if world.size == 1 or not trained:
        return network
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)


def _compiled(model: nn.Module, compile_: Compile) -> nn.Module:
    return torch.compile(model) if compile_ == "model" else model


def gradients_stay(network: nn.Module) -> contextlib.AbstractContextManager:
    """Around the passes of all micro-batches but the last: DDP adds gradients up and exchanges them once.

    FSDP2 exchanges after each, since a gradient that waits would need the memory of the whole model.
    """
    return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, every process holds all weights of a sharded model, so that it may run it by itself, for sampling.

    For each process its own number of forward passes: a solver with step control needs that. A plain model is left
    as it is. Entering is a collective.
    """
    parts = [module for module in model.modules() if hasattr(module, "unshard")]  # FSDPModule
    for module in parts:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in parts:
            module.set_reshard_after_forward(module is not model, recurse=False)
            module.reshard()


def average_gradients(module: nn.Module, world: World) -> None:
    """Average over processes the gradients of a small module that each has whole, as DDP does. A collective."""
    gradients = [each.grad for each in module.parameters() if each.grad is not None]
    if world.size == 1 or not gradients:
        return
    flat = torch.cat([each.flatten() for each in gradients])
    torch.distributed.all_reduce(flat)
    parts = flat.div_(world.size).split([each.numel() for each in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))

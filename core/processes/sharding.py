"""Tensors that several processes share: their own part, the whole, and a whole put back into parts.

Every function takes plain tensors too, so that the code around it is the same on one process and on many.
`torch.distributed.tensor` takes a quarter as long to import as PyTorch itself, so only what a run calls imports it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; a plain tensor is its own part."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def laid_out_as(like: Tensor, part: Tensor) -> Tensor:
    """`part`, which has the shape of `local(like)`, as the whole that `like` is: a DTensor where `like` is one."""
    if not _is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor on every process; every process has to call it (a collective)."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


@torch.no_grad()
def copy_whole_(target: Tensor, source: Tensor) -> None:
    """Write a whole plain tensor, the same on every process, into `target`: each process keeps its part."""
    if _is_sharded(target):
        from torch.distributed.tensor import distribute_tensor

        source = source.to(target.device, target.dtype)
        source = distribute_tensor(source, target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(source)


def _is_sharded(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)

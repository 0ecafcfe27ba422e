"""Rows of all processes, for terms that couple the samples of a batch, and sums. B rows of one process, G of all."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (B, ...) of every process in the order of ranks, (G, ...), with gradient to all of them; B may differ.

    The gradient of a row is the sum of what all processes make of it, so that a loss over all rows which every process
    computes has, averaged over processes, the gradient of the loss itself.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    return _GatherRows.apply(rows)


def next_rows(rows: Tensor) -> Tensor:
    """The row behind each of rows (B, ...) in the global batch, the first behind the last, without gradient.

    A collective: the row behind a process's last is the first of the next process.
    """
    first = rows[:1].detach().contiguous()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        sent = first.byte() if first.dtype == torch.bool else first
        parts = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, sent)
        first = parts[(dist.get_rank() + 1) % len(parts)].to(rows.dtype)
    return torch.cat([rows[1:].detach(), first])


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of `values`, without gradient, over all processes, the same in each. A collective."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(context, rows: Tensor) -> Tensor:
        world = dist.get_world_size()
        counts = torch.zeros(world, dtype=torch.int64, device=rows.device)
        counts[dist.get_rank()] = len(rows)
        dist.all_reduce(counts)
        counts = counts.tolist()
        context.first = sum(counts[: dist.get_rank()])
        context.count = len(rows)
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[context.first : context.first + context.count]

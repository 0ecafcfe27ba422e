"""What can go wrong while a run is under way, told in one line that says what to do.

Bad input is a ValueError where it is noticed; these are failures of a run that was right when it began.
"""

from __future__ import annotations

import torch


class RunError(RuntimeError):
    """A run cannot go on; its last good state is saved."""


class NonFiniteError(RunError, ArithmeticError):
    """Loss or gradient became NaN or infinite; raised before the optimizer touches the weights."""


class SamplesError(RunError, ArithmeticError):
    """Samples became NaN or infinite, or a solver found no way; nothing is shown, written or measured of them."""


class LoaderError(RunError):
    """A data loader's worker process died."""


class MemoryExhaustedError(RunError):
    """The device has no memory left for a training step."""


class LostPeerError(RunError):
    """Another process of the job has ended without a word to this one."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for what PyTorch raises when a GPU or the CPU's allocator has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def is_dead_worker(error: BaseException) -> bool:
    """True for what a DataLoader raises when one of its workers was killed."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error) and "Caught" not in str(error)


def undo_worker_wrapping(error: Exception) -> Exception:
    """The error that a data set raised inside a worker, without the worker's traceback in its message."""
    text = str(error)
    lines = text.rstrip().splitlines()
    traces = [number for number, line in enumerate(lines) if line.endswith("Traceback (most recent call last):")]
    if not (text.startswith("Caught ") and "\nOriginal " in text and traces):
        return error
    frames = traces[-1] + 1  # of the error itself, behind those that caused it
    while frames < len(lines) and lines[frames].startswith(" "):  # the frames are indented, and what follows may be
        frames += 1
    name, _, message = "\n".join(lines[frames:]).partition(": ")
    same = name.rpartition(".")[2] == type(error).__name__
    return type(error)(message if same else f"{name}: {message}")

"""What went wrong in a worker process is told as it was there."""

import pytest
import torch
from torch._utils import ExceptionWrapper

from core.processes.failures import is_dead_worker, is_out_of_memory, undo_worker_wrapping
from tests.rows import every_row


def from_worker(error, cause=None):
    """What a DataLoader raises in the main process for an `error` in its worker."""
    try:
        raise error from cause
    except type(error):
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(Exception) as caught:
        wrapped.reraise()
    assert str(caught.value) != str(error), "PyTorch wraps it"
    return caught.value


@every_row("cause", [None, KeyError("a"), ValueError("Traceback (most recent call last):")])
@every_row(
    "error",
    [
        ValueError("broken image 3: a.png"),
        ValueError("two files:\n  a.png: 3 bytes\n  b.png: 4 bytes"),
        ValueError("two files:\n  a.png: 3 bytes\nnothing was left out"),
        ValueError(""),
        OSError("Traceback"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_the_error_of_a_worker_is_what_it_was_there(error, cause):
    original = undo_worker_wrapping(from_worker(error, cause))
    assert type(original) is type(error)
    assert str(original) == str(error)


def test_an_error_that_pytorch_cannot_make_again_keeps_its_name():
    original = undo_worker_wrapping(from_worker(UnicodeDecodeError("utf-8", b"x", 0, 1, "bad byte")))
    assert str(original) == "UnicodeDecodeError: 'utf-8' codec can't decode byte 0x78 in position 0: bad byte"
    error = ValueError("Caught cold")  # in the main process
    assert undo_worker_wrapping(error) is error


def test_a_dead_worker_and_lost_memory_are_told_from_other_errors():
    dead = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert is_dead_worker(dead)
    assert is_dead_worker(RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"))
    assert not is_dead_worker(from_worker(RuntimeError("no such thing")))
    memory = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
    assert all(map(is_out_of_memory, [memory, MemoryError(), torch.OutOfMemoryError("CUDA")]))
    assert not any(map(is_out_of_memory, [dead, RuntimeError("shape mismatch"), OSError("No space left on device")]))

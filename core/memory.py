"""Memory of the process: what the system's allocator keeps between two training steps."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let the C library keep freed tensors instead of handing their pages back, for training on a CPU.

    A step frees and allocates the same tensors over and over; by default glibc maps the large ones anew each time and
    the kernel clears every page. Changes no number. True where the C library knows how (glibc), else nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 2**30)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))

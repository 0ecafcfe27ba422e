"""Memory that is freed stays with the process, and what is computed stays the same."""

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys, torch
from core.memory import keep_freed_memory
torch.set_num_threads(1)
kept = keep_freed_memory() if sys.argv[1] == "keep" else True
def use():
    return [torch.ones(2**20 * 12) for _ in range(2)]  # two blocks of 48 MiB, above glibc's own limit of 32
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_freed_tensors_are_used_again():
    """Page faults of ten rounds of the same allocations: none to speak of, where the default has them every time."""
    runs = {}
    for mode in ("keep", "default"):
        out = subprocess.run([sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, text=True, check=True)
        known, runs[mode] = map(int, out.stdout.split())
        if not known:
            pytest.skip("this C library has no mallopt")
    assert runs["keep"] < 0.1 * runs["default"]

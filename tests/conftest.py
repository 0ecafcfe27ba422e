"""One thread in every test: results do not depend on the machine, and two suites on a small machine do not fight."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: at the end of a suite in several processes none has a long file left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)

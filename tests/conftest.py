"""One thread in every test: results do not depend on the machine, and two suites on a small machine do not fight."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

torch.set_num_threads(1)

BY_DOMAIN = {"test_every_domain.py": "toy", "test_every_experiment.py": "domain"}  # file and what says the domain


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Tests that share fixtures run in one process: those of a file, or of a domain in a file of all domains.

    Files with slow tests come first: at the end of a suite in several processes none has a long file left.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


def group(item):
    """The name of a test's group."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    domain = parameters.get(BY_DOMAIN.get(item.path.name), "")
    return f"{item.path.parent.name} {item.path.stem} {domain}".strip()

"""One SLURM for all tests that ask for it."""

import os

import pytest

from tests.slurm.cluster import PACKAGES, Cluster, missing


@pytest.fixture(scope="session")
def cluster():
    """A running cluster; skips where it cannot be had, and fails there when CI=true: there these tests must run."""
    if lacks := missing():
        reason = f"no SLURM: {', '.join(lacks)} missing (as root: apt-get install {' '.join(PACKAGES)})"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with Cluster() as running:
        yield running

"""One SLURM for all tests that ask for it, and one that is faked."""

import os

import pytest
import yaml

from tests.slurm.cluster import PACKAGES, Cluster, missing
from tests.slurm.scheduler import TWO, Scheduler


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


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """A fake SLURM, and a working directory."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return Scheduler(folder)


@pytest.fixture
def weights(tmp_path):
    """Writes sweep.yaml, which is there from the start: two runs, and the keys given."""

    def write_sweep(**keys):
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**TWO, **keys}, sort_keys=False))

    write_sweep()
    return write_sweep

"""A toy in the registry of weights, which a server of the test has."""

import os
import threading

import pytest

import eval.weights
from eval.published import registry
from eval.published.entry import WeightsFile
from tests.eval.published.weights_server import DATA, SHA256, Server, entry_of


@pytest.fixture
def server():
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield running
    running.release.set()
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The weights folder, and no proxy on the way to it."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LAYERSYNC_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def register(monkeypatch):
    """Make entries the registry."""

    def to(*entries):
        monkeypatch.setattr(registry, "REGISTRY", entries)
        monkeypatch.setattr(eval.weights, "REGISTRY", entries)

    return to


@pytest.fixture
def toy(register, server, root):
    """A registry of one file, whose hash and size are published; returns its place."""
    register(entry_of(WeightsFile("weights.pth", f"{server.url}/weights.pth", SHA256, len(DATA))))
    return root / "toy" / "weights.pth"


@pytest.fixture
def unknown(register, server, root):
    """The same file, about which nothing is published."""
    register(entry_of(WeightsFile("weights.pth", f"{server.url}/weights.pth")))
    return root / "toy" / "weights.pth"

"""What the end-to-end tests share."""

import pytest

from tests.end_to_end.commands import call
from tests.end_to_end.image_runs import MINUTE, uninterrupted
from tests.end_to_end.zygote import SPARED, Zygote


@pytest.fixture(scope="session")
def zygote():
    """What forks sessions of `python -m image.train`; it takes seconds to start."""
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture
def spared():
    """What sessions of the zygote are spared, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, instead in SPARED.items():
            patch.setattr(name, instead)
        yield


@pytest.fixture(scope="module")
def whole(zygote, tmp_path_factory):
    """An undisturbed run with checkpoints of steps 12 (for good), 21 and 24."""
    return uninterrupted(zygote, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def encoder(toy, tmp_path_factory):
    """A word that names a tiny encoder of the domain of `toy`, for `alignment=external`."""
    kind, write = toy.encoder
    folder = tmp_path_factory.mktemp("encoder") / kind
    write(folder)
    return f"alignment.encoder={kind}:{folder}"


@pytest.fixture
def train(tmp_path, monkeypatch, spared):
    """`python -m image.train` of the tiny run, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: call("image.train", *MINUTE, *args)

"""What the end-to-end tests share for the whole session."""

import pytest

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

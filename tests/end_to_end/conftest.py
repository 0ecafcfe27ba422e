"""What the end-to-end tests share for the whole session."""

import pytest

from tests.end_to_end.zygote import Zygote


@pytest.fixture(scope="session")
def zygote():
    """What forks sessions of `python -m image.train`; it takes seconds to start."""
    zygote = Zygote()
    yield zygote
    zygote.close()

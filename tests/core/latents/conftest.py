"""A whole cache for each test that asks for one."""

import pytest

from tests.core.latents.caches import make


@pytest.fixture
def cache(tmp_path):
    return make(tmp_path / "cache")

"""A tiny Wan, and one of two experts, made once for all tests beside this file."""

import pytest

from tests.video.wan.tiny_wan import save_wan


@pytest.fixture(scope="session")
def wan(tmp_path_factory):
    """The directory of a tiny Wan 2.1."""
    return save_wan(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="session")
def two_experts(tmp_path_factory):
    """The directory of a tiny Wan 2.2, whose experts meet at noise level 0.875."""
    return save_wan(tmp_path_factory.mktemp("wan22"), boundary=0.875)

"""What the tests of the mathematical core share."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal to `tolerance`, absolute for small and relative for large values."""
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


class Counted:
    """A callable of tensors (B, ...) that remembers the batch size of each call."""

    def __init__(self, function: Callable[..., Tensor]):
        self.function, self.rows = function, []

    def __call__(self, x: Tensor, *rest: Tensor) -> Tensor:
        """The function's answer."""
        self.rows.append(len(x))
        assert all(len(each) == len(x) for each in rest)
        return self.function(x, *rest)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """At these sizes a second thread gains nothing; on a busy machine, threads waiting for each other lose minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

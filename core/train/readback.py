"""Numbers of the device on their way to the host, which goes on meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Readback:
    """Scalar tensors by name, copied to the host behind what is queued; `read` waits for no more than that."""

    def __init__(self, numbers: Mapping[str, Tensor]):
        self.names, self.copied = list(numbers), None
        self.values = torch.stack([each.detach().double() for each in numbers.values()])
        if self.values.is_cuda:
            pinned = torch.empty(self.values.shape, dtype=self.values.dtype, pin_memory=True)
            self.values = pinned.copy_(self.values, non_blocking=True)
            self.copied = torch.cuda.Event(blocking=True)  # sleeps; the core is left to the loader
            self.copied.record()

    def read(self) -> dict[str, float]:
        """The numbers, as exact as they are on the device."""
        if self.copied is not None:
            self.copied.synchronize()
        return dict(zip(self.names, self.values.tolist(), strict=True))

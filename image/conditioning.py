"""What an image is asked to be: its class. Dropping and balancing labels is `core.conditioning.labels`. n samples."""

from __future__ import annotations

from torch import Tensor

from core.conditioning.labels import LabelConditioning


def requested_labels(labels: int | list[int] | None, conditioning: LabelConditioning, num: int, seed: int) -> Tensor:
    """Labels (n,) of the samples to make: the classes asked for in turn, or by the run's own rule over all."""
    return conditioning.requests(num, seed) if labels is None else conditioning.chosen(labels, num)

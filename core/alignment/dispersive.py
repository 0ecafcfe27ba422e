"""Dispersive loss (arXiv 2506.09027): the samples of a batch are pushed apart in the tokens of one block.

    L_disp = log mean over pairs (i, j) of exp( - d(z_i, z_j) / tau )         z_i all tokens of sample i as one vector

d is the squared distance, or its mean over the numbers of z, as the authors' code has it. It couples the rows of the
global batch: over several processes the rows are gathered, and the batch cannot be cut into micro-batches.

Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from core.alignment.contract import Alignment, AlignmentTerms, Forward, Needs, check_weight, listen
from core.alignment.gather import gather_rows
from core.alignment.teacher import Teacher
from layersync.blocks import Layer
from layersync.schedule import WeightSchedule
from layersync.tokens import hide_padding


@dataclass(frozen=True)
class DispersiveConfig:
    """Options of the Dispersive loss.

    layer        block number from 1, or module name
    weight       of the term; the paper's is 0.5
    temperature  tau of the exponential; the paper's is 0.5
    distance     sum: the squared distance, as in the paper's formula; mean: its mean over the N D numbers of a sample,
                 as in the released code (with temperature 1)
    diagonal     whether the pairs (i, i) count, of distance 0
    """

    layers_key: ClassVar[str] = "alignment.layer"
    layer: int | str
    weight: float = 0.5
    temperature: float = 0.5
    distance: Literal["sum", "mean"] = "mean"
    diagonal: bool = True
    schedule: WeightSchedule = field(default_factory=WeightSchedule)

    def __post_init__(self) -> None:
        check_weight(self.weight)
        if not self.temperature > 0:
            raise ValueError(f"alignment.temperature is {self.temperature}; it must be above 0")

    @property
    def layers(self) -> list[Layer]:
        """The one layer."""
        return [self.layer]

    @property
    def needs(self) -> Needs:
        """The whole batch at once."""
        return Needs(couples_rows=True)

    def build(self, model: nn.Module) -> Dispersive:
        """The method installed on `model`."""
        return Dispersive(model, self)


class Dispersive(Alignment):
    """The Dispersive loss of one layer's tokens."""

    def __init__(self, model: nn.Module, config: DispersiveConfig):
        super().__init__(listen(model, [config.layer]))
        self.config = config

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """The loss over the rows of all processes; padding counts as zeros."""
        (tokens,) = self.hooks.take().values()
        rows = gather_rows(hide_padding(tokens, forward.batch.mask).float().flatten(1))
        config = self.config
        loss = dispersive_loss(rows, config.temperature, mean=config.distance == "mean", diagonal=config.diagonal)
        weight = config.weight * config.schedule.factor(forward.step)
        return AlignmentTerms(weight * loss, values={f"dispersive/{config.layer}": loss.detach()})


def dispersive_loss(z: Tensor, temperature: float = 0.5, *, mean: bool = False, diagonal: bool = True) -> Tensor:
    """log mean exp(-d / temperature) over the pairs of rows of z (B, ...), a scalar.

    mean: d is the mean instead of the sum of the squared differences; diagonal: pairs of a row with itself count.
    Raises ValueError for a single row without the diagonal.
    """
    z = z.flatten(1)
    if len(z) < 2 and not diagonal:
        raise ValueError("alignment.diagonal is false, but the batch has a single row: there is no pair")
    distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").square()
    if mean:
        distance = distance / z.shape[1]
    exponents = -distance / temperature
    if not diagonal:
        exponents = exponents[~torch.eye(len(z), dtype=torch.bool, device=z.device)]
    return torch.logsumexp(exponents.flatten(), 0) - torch.log(exponents.new_tensor(exponents.numel()))

"""Dispersive loss (arXiv 2506.09027): the samples of a batch are pushed apart in the tokens of one block.

    L_disp = log mean over pairs (i, j) of exp( - d(z_i, z_j) / tau )         z_i all tokens of sample i as one vector

d is the squared distance, or its mean over the numbers of z, as the authors' code has it. The paper has two more forms
of repulsion, by a hinge of the distances and by the covariance of the numbers of z:

    L_hinge = mean over pairs (i, j) of max(0, margin - d(z_i, z_j))^2
    L_cov   = sum over m != n of c_mn^2                       c_mn the correlation of numbers m and n over the batch

All couple the rows of the global batch: over several processes the rows are gathered, and the batch cannot be cut into
micro-batches.

Letters: B batch, N tokens, D width, M numbers of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor, nn

from core.alignment.contract import Alignment, AlignmentTerms, Forward, Needs, check_weight, listen
from core.alignment.gather import gather_rows
from core.alignment.teacher import Teacher
from core.flow.options import check_used
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
                 as in the released code (with temperature 1); of the covariance: over pairs of numbers
    diagonal     whether the pairs (i, i) count, of distance 0
    variant      infonce, hinge or covariance; each reads of these options what its formula has
    margin       of the hinge: pairs further apart, in units of `distance`, are left alone
    """

    layers_key: ClassVar[str] = "alignment.layer"
    layer: int | str
    weight: float = 0.5
    temperature: float = 0.5
    distance: Literal["sum", "mean"] = "mean"
    diagonal: bool = True
    schedule: WeightSchedule = field(default_factory=WeightSchedule)
    variant: Literal["infonce", "hinge", "covariance"] = "infonce"
    margin: float = 1.0

    def __post_init__(self) -> None:
        check_weight(self.weight)
        unread = {"infonce": ("margin",), "hinge": ("temperature",)}
        unread["covariance"] = ("margin", "temperature", "diagonal")
        told = f"alignment.variant is {self.variant!r}"
        check_used(self, "alignment", unread.get(self.variant, ()), told)
        for name in ("temperature", "margin"):
            if not getattr(self, name) > 0:
                raise ValueError(f"alignment.{name} is {getattr(self, name)}; it must be above 0")

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
        config, loss = self.config, self._loss(rows)
        weight = config.weight * config.schedule.factor(forward.step)
        return AlignmentTerms(weight * loss, values={f"dispersive/{config.layer}": loss.detach()})

    def _loss(self, rows: Tensor) -> Tensor:
        """The loss of rows (B, M), a scalar."""
        config = self.config
        mean, diagonal = config.distance == "mean", config.diagonal
        if config.variant == "covariance":
            return covariance_loss(rows, mean=mean)
        if config.variant == "hinge":
            return hinge_loss(rows, config.margin, mean=mean, diagonal=diagonal)
        return dispersive_loss(rows, config.temperature, mean=mean, diagonal=diagonal)


def dispersive_loss(z: Tensor, temperature: float = 0.5, *, mean: bool = False, diagonal: bool = True) -> Tensor:
    """log mean exp(-d / temperature) over the pairs of rows of z (B, ...), a scalar.

    mean: d is the mean instead of the sum of the squared differences; diagonal: pairs of a row with itself count.
    Raises ValueError for a single row without the diagonal.
    """
    exponents = -pair_distances(z, mean=mean, diagonal=diagonal) / temperature
    return torch.logsumexp(exponents.flatten(), 0) - torch.log(exponents.new_full((), exponents.numel()))


def hinge_loss(z: Tensor, margin: float = 1.0, *, mean: bool = False, diagonal: bool = True) -> Tensor:
    """Mean of max(0, margin - d)^2 over the pairs of rows of z (B, ...), a scalar; see `dispersive_loss`."""
    return (margin - pair_distances(z, mean=mean, diagonal=diagonal)).clamp(min=0).square().mean()


def covariance_loss(z: Tensor, *, mean: bool = False) -> Tensor:
    """Sum, or mean, of the squared correlations over the rows of z (B, ...) of each two of its numbers, a scalar.

    The M^2 correlations are never made: for columns u_m of norm 1 the sum of all (u_m . u_n)^2 is that of the squares
    of the (B, B) products of rows. A number that is the same in all rows correlates with none. Raises ValueError for
    one row.
    """
    z = z.flatten(1)
    if len(z) < 2:
        raise ValueError("alignment.variant is 'covariance', but the batch has a single row: nothing varies")
    columns = F.normalize(z - z.mean(0), dim=0)
    own = columns.square().sum(0).square().sum()  # the pairs (m, m)
    total = (columns @ columns.T).square().sum() - own
    return total / (z.shape[1] * (z.shape[1] - 1)) if mean else total


def pair_distances(z: Tensor, *, mean: bool, diagonal: bool) -> Tensor:
    """Squared distances of the pairs of rows of z (B, ...): (B, B), or without the diagonal (B (B - 1),)."""
    z = z.flatten(1)
    if len(z) < 2 and not diagonal:
        raise ValueError("alignment.diagonal is false, but the batch has a single row: there is no pair")
    distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").square()
    if mean:
        distance = distance / z.shape[1]
    return distance if diagonal else distance[~torch.eye(len(z), dtype=torch.bool, device=z.device)]

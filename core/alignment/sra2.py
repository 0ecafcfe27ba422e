"""SRA 2 (arXiv 2601.17830): an early block, through a head, learns the clean latent of its own sample.

The target is what every domain has anyway: the latent before the noise, cut into the same patches as the tokens. No
teacher and no encoder. Letters: B batch, N tokens, D width, P numbers of a token's patch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F  # noqa: N812, the customary name
from torch import nn

from core.alignment.contract import Alignment, AlignmentTerms, Forward, Needs, check_weight, listen
from core.alignment.teacher import Teacher
from core.nets.layers import TRAINING_FACTOR
from layersync.blocks import Layer
from layersync.schedule import WeightSchedule
from layersync.tokens import hide_padding, masked_mean

NUM_LAYERS = 5
HEAD_RATIO = 1.25  # hidden width over the backbone's: 7.9 M parameters at 1152, the paper's 8 M


@dataclass(frozen=True)
class SRA2Config:
    """Options of SRA 2.

    layer   block number from 1, or module name; the paper: 2 of 12 blocks, 8 of 24 and 28
    weight  of the term, at all times
    beta    where the smooth L1 loss turns from quadratic to linear
    """

    layers_key: ClassVar[str] = "alignment.layer"
    layer: int | str
    weight: float = 1.0
    beta: float = 0.05
    schedule: WeightSchedule = field(default_factory=WeightSchedule)

    def __post_init__(self) -> None:
        check_weight(self.weight)
        if not self.beta > 0:
            raise ValueError(f"alignment.beta is {self.beta}; it must be above 0")

    @property
    def layers(self) -> list[Layer]:
        """The one layer."""
        return [self.layer]

    @property
    def needs(self) -> Needs:
        """Nothing that a run has not."""
        return Needs()

    def build(self, model: nn.Module) -> SRA2:
        """The method installed on `model`."""
        return SRA2(model, self)


class SRA2(Alignment):
    """One layer's tokens, a head, and the clean latent."""

    def __init__(self, model: nn.Module, config: SRA2Config):
        super().__init__(listen(model, [config.layer]), {"patches": make_head(model.width, model.token_size)})
        self.config, self.model = config, model

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """Smooth L1 between the head's patches and those of the clean latent, mean over real tokens and samples."""
        (tokens,) = self.hooks.take().values()
        mask = forward.batch.mask
        predicted = hide_padding(self.heads["patches"](hide_padding(tokens, mask).float()), mask)
        target = hide_padding(self.model.patches(forward.latents).float(), mask)
        error = F.smooth_l1_loss(predicted, target, reduction="none", beta=self.config.beta).mean(-1)
        loss = masked_mean(error, mask)
        weight = self.config.weight * self.config.schedule.factor(forward.step)
        return AlignmentTerms(weight * loss, values={f"clean_latent/{self.config.layer}": loss.detach()})

    def extra_flops(self, forward: int, num_tokens: int) -> int:
        """The head."""
        weights = sum(each.weight.numel() for each in self.heads["patches"] if isinstance(each, nn.Linear))
        return TRAINING_FACTOR * 2 * num_tokens * weights


def make_head(width: int, out_features: int) -> nn.Sequential:
    """Five linear maps with SiLU between them: (..., D) -> (..., P)."""
    hidden = round(HEAD_RATIO * width)
    widths = [width, *[hidden] * (NUM_LAYERS - 1), out_features]
    layers: list[nn.Module] = []
    for number in range(NUM_LAYERS):
        layers += [nn.Linear(widths[number], widths[number + 1]), nn.SiLU()]
    return nn.Sequential(*layers[:-1])

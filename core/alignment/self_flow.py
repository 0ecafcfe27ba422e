"""Self-Flow (arXiv 2603.06507): tokens at two noise levels, and a teacher that sees them all at the cleaner one.

Two times are drawn for a sample; each token has the second with probability `ratio`, else the first, whichever is the
noisier. The teacher is the average of the weights; it sees the same sample with the same noise and condition at the
later of the two times. An early block, through a head, learns the teacher's tokens of a later one.

Letters: B batch, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.alignment.contract import Forward, Needs, check_pairs, check_weight
from core.alignment.sra import SRA
from core.alignment.teacher import Teacher
from core.draws import Random
from core.flow.objective import FlowMatching
from layersync.blocks import Layer
from layersync.schedule import WeightSchedule


@dataclass(frozen=True)
class SelfFlowConfig:
    """Options of Self-Flow; `pairs` are (student, teacher) layers: block numbers from 1, or module names.

    weight  of 1 - cos, the mean over all tokens
    ratio   of the tokens that have the second time, one by one; the paper's: 0.25 images, 0.5 sound, 0.1 video
    """

    layers_key: ClassVar[str] = "alignment.pairs"
    distance: ClassVar[str] = "cosine"
    cosine_axis: ClassVar[str] = "feature"
    pairs: list[tuple[int | str, int | str]]
    weight: float = 0.8
    ratio: float = 0.25
    schedule: WeightSchedule = field(default_factory=WeightSchedule)

    def __post_init__(self) -> None:
        check_weight(self.weight)
        check_pairs(self.pairs)
        check_ratio(self.ratio)

    @property
    def layers(self) -> list[Layer]:
        """The layers of both sides."""
        return [layer for pair in self.pairs for layer in pair]

    @property
    def needs(self) -> Needs:
        """The teacher's layers, and two times in a sample."""
        return Needs(teacher=tuple(dict.fromkeys(teacher for _, teacher in self.pairs)), token_times=True)

    def build(self, model: nn.Module) -> SelfFlow:
        """The method installed on `model`, a head for each pair."""
        return SelfFlow(model, self)


class SelfFlow(SRA):
    """SRA's heads and cosine, on tokens at two noise levels.

    later  the later time (B,) of each sample, from `times` to `terms`: the tokens may all have the other one
    """

    later: Tensor

    def times(
        self, objective: FlowMatching, random: Random, rows: tuple[int, ...], mask: Tensor | None = None
    ) -> Tensor:
        """Times (B, N), two in a sample."""
        both = objective.draw_time(random, (rows[0], 2))
        self.later = both.amax(1)
        second = random.uniform("second time", rows) < self.config.ratio
        return torch.where(second, both[:, 1:], both[:, :1])

    def teacher_tokens(self, forward: Forward, teacher: Teacher) -> dict[Layer, Tensor]:
        """Tokens of the averaged model at the same sample and noise, all at the later time."""
        t = self.later
        x = forward.interpolant.point(forward.latents, forward.noise, t)
        return teacher.tokens(x, forward.interpolant.path.network_time(t), forward.condition, forward.batch.mask)


def check_ratio(ratio: float) -> None:
    """Raises ValueError for a share of tokens that leaves one of the two times out."""
    if not 0 < ratio < 1:
        raise ValueError(f"alignment.ratio is {ratio}; it must lie in (0, 1)")

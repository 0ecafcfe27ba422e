"""Dual timesteps (arXiv 2607.02508): tokens in two groups at two noise levels, which may attend to their own alone.

A share `ratio` of a sample's tokens, at random places and exact in number, has one time and the others another. SRA's
term may come with it: its teacher sees each group at a lower noise level of its own, and the condition before the drop.
With `separation` a token attends inside its group, in the teacher too; some samples then have one time.

Letters: B batch, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.alignment.contract import Alignment, AlignmentTerms, Forward, Needs, check_weight
from core.alignment.self_flow import check_ratio
from core.alignment.sra import SRA, SRAConfig, later_time
from core.alignment.teacher import Teacher
from core.draws import Random
from core.flow.objective import FlowMatching
from layersync.blocks import Layer

SEPARATED_ONE_TIME = 0.25  # share of one-time samples without which separation was found to collapse


@dataclass(frozen=True)
class DualTimestepsConfig(SRAConfig):
    """Options of dual timesteps, and SRA's for the term that comes with them.

    pairs       (student, teacher) layers; null: nothing is aligned, and no teacher is kept
    ratio       share of the tokens of a sample that are in the first group
    separation  tokens attend to those of their own group alone, in training; samples are made as always
    one_time    share of the samples, drawn one by one, whose tokens are all in the second group; null: 0.25 with
                separation, 0 without
    """

    pairs: list[tuple[int | str, int | str]] | None
    ratio: float = 0.25
    separation: bool = False
    one_time: float | None = None

    def __post_init__(self) -> None:
        check_weight(self.weight)
        if self.pairs is not None:
            super().__post_init__()
        check_ratio(self.ratio)
        if not 0 <= self.share_of_one_time < 1:
            raise ValueError(f"alignment.one_time is {self.one_time}; it must lie in [0, 1), or be null")

    @property
    def share_of_one_time(self) -> float:
        """`one_time`, or what null stands for."""
        if self.one_time is not None:
            return self.one_time
        return SEPARATED_ONE_TIME if self.separation else 0.0

    @property
    def layers(self) -> list[Layer]:
        """The layers of both sides."""
        return [layer for pair in self.pairs or () for layer in pair]

    @property
    def needs(self) -> Needs:
        """The teacher's layers, two times in a sample, and groups of tokens where they are separated."""
        layers = tuple(dict.fromkeys(teacher for _, teacher in self.pairs or ()))
        return Needs(teacher=layers, token_times=True, token_groups=self.separation)

    def build(self, model: nn.Module) -> DualTimesteps:
        """The method installed on `model`, a head for each pair."""
        return DualTimesteps(model, self)


class DualTimesteps(SRA):
    """SRA, or no term at all, on tokens in two groups."""

    def __init__(self, model: nn.Module, config: DualTimestepsConfig):
        if config.pairs is not None:
            super().__init__(model, config)
        else:
            Alignment.__init__(self)
            self.config = config

    def groups(self, random: Random, rows: tuple[int, ...], mask: Tensor | None) -> Tensor:
        """The group (B, N) of each token: 1, 2, or 0 for padding; the same whenever it is drawn in a step."""
        order = random.uniform("group order", rows)
        real = torch.ones_like(order, dtype=torch.bool) if mask is None else mask.bool()
        order = torch.where(real, order, torch.inf)
        rank = order.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        size = (self.config.ratio * real.sum(1) + 0.5).floor()  # the largest remainder
        several = random.uniform("one time", rows[:1]) >= self.config.share_of_one_time
        first = (rank < size[:, None]) & several[:, None]
        return torch.where(first, 1, 2) * real

    def times(
        self, objective: FlowMatching, random: Random, rows: tuple[int, ...], mask: Tensor | None = None
    ) -> Tensor:
        """Times (B, N), one for each group."""
        return by_group(self.groups(random, rows, mask), objective.draw_time(random, (rows[0], 2)))

    def attention(self, random: Random, rows: tuple[int, ...], mask: Tensor | None) -> Tensor | None:
        """The groups (B, N), where they are separated."""
        return self.groups(random, rows, mask) if self.config.separation else mask

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """SRA's, or nothing."""
        if self.config.pairs is None:
            return AlignmentTerms(forward.t.new_zeros(()))
        return super().terms(forward, teacher)

    def teacher_tokens(self, forward: Forward, teacher: Teacher) -> dict[Layer, Tensor]:
        """Tokens of the averaged model at the same sample and noise, each group at a lower noise level."""
        path, random, mask = forward.interpolant.path, forward.random, forward.batch.mask
        rows = tuple(forward.t.shape)
        gap = self.config.max_gap * random.uniform("teacher time", (rows[0], 2))
        t = later_time(path, forward.t, by_group(self.groups(random, rows, mask), gap))
        x = forward.interpolant.point(forward.latents, forward.noise, t)
        return teacher.tokens(x, path.network_time(t), forward.batch.condition, self.attention(random, rows, mask))

    def extra_flops(self, forward: int, num_tokens: int) -> int:
        """SRA's, or none; what attention leaves out is computed and counted."""
        return 0 if self.config.pairs is None else super().extra_flops(forward, num_tokens)


def by_group(groups: Tensor, values: Tensor) -> Tensor:
    """Values (B, 2) of the groups 1 and 2 for each token, (B, N)."""
    return torch.where(groups == 1, values[:, :1], values[:, 1:])

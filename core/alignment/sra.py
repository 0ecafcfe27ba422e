"""SRA (arXiv 2505.02831): an early block, through a small head, learns from a later block of the averaged model.

The teacher is the average of the weights; it sees the same sample with the same noise and condition at a lower noise
level, t + U(0, max_gap) in our direction of time. The released code takes its cosine along the tokens of a feature, not
along the features of a token: `cosine_axis` chooses.

Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor, nn

from core.alignment.contract import (
    Alignment,
    AlignmentTerms,
    Forward,
    Needs,
    check_pairs,
    check_weight,
    config_keys,
    listen,
)
from core.alignment.teacher import Teacher
from core.flow.options import check_used
from core.flow.path import Path
from core.nets.layers import TRAINING_FACTOR
from layersync.blocks import Layer, find_blocks
from layersync.pairs import check_depth
from layersync.schedule import WeightSchedule
from layersync.tokens import hide_padding, masked_mean, token_cosine

AUTO = "auto"
PUBLISHED = {12: (3, 8), 28: (8, 20)}  # SiT-B/2 and SiT-XL/2
Distance = Literal["cosine", "smooth_l1", "l1", "l2"]


@dataclass(frozen=True)
class SRAConfig:
    """Options of SRA; `pairs` are (student, teacher) layers: block numbers from 1, or module names.

    pairs        auto: the authors' pair for 12 and 28 blocks, else their rule, at 1/4 and 3/4 of the depth
    weight       of the term; the paper's is 0.5 with the cosine, 0.2 with smooth L1
    max_gap      the teacher's time is later by a uniform draw from [0, max_gap]
    distance     cosine, as 1 - cos; smooth_l1, whose quadratic part ends at `beta`; l1; l2
    cosine_axis  feature: the cosine of a token's features; token: of a feature over the tokens, as released
    """

    layers_key: ClassVar[str] = "alignment.pairs"
    pairs: list[tuple[int | str, int | str]] | Literal["auto"]
    weight: float = 0.5
    max_gap: float = 0.2
    distance: Distance = "cosine"
    cosine_axis: Literal["feature", "token"] = "feature"
    beta: float = 0.05
    schedule: WeightSchedule = field(default_factory=WeightSchedule)

    def __post_init__(self) -> None:
        check_weight(self.weight)
        check_pairs(self._known_pairs)
        if not 0 <= self.max_gap <= 1:
            raise ValueError(f"alignment.max_gap is {self.max_gap}; it must lie in [0, 1]")
        told = f"alignment.distance is {self.distance!r}"
        check_used(self, "alignment", ("beta",), None if self.distance == "smooth_l1" else told)
        check_used(self, "alignment", ("cosine_axis",), None if self.distance == "cosine" else told)
        if not self.beta > 0:
            raise ValueError(f"alignment.beta is {self.beta}; it must be above 0")

    @property
    def layers(self) -> list[Layer]:
        """The layers of both sides."""
        return [layer for pair in self._known_pairs for layer in pair]

    @property
    def _known_pairs(self) -> list[tuple[int | str, int | str]]:
        """The pairs; in the place of one that is not chosen yet, the first that could be."""
        return [(1, 2)] if self.pairs == AUTO else self.pairs

    @property
    def needs(self) -> Needs:
        """The teacher's layers."""
        return Needs(teacher=tuple(dict.fromkeys(teacher for _, teacher in self._known_pairs)))

    def settled(self, num_blocks: int, seed: int) -> SRAConfig:
        """The config with the pair of the authors' rule; ValueError for too few blocks."""
        if self.pairs != AUTO:
            return self
        with config_keys():
            check_depth(num_blocks, "pairs is 'auto'")
        return replace(self, pairs=[PUBLISHED.get(num_blocks, (round(num_blocks / 4), round(3 * num_blocks / 4)))])

    def reasons(self, num_blocks: int, seed: int) -> list[str]:
        """Why the pair is that of `settled`, where the config leaves it open."""
        if self.pairs != AUTO:
            return []
        ((student, teacher),) = self.settled(num_blocks, seed).pairs
        why = "the authors' pair" if num_blocks in PUBLISHED else "at 1/4 and 3/4, the authors' rule,"
        return [f"{student} -> {teacher} is {why} of {num_blocks} blocks"]

    def build(self, model: nn.Module) -> SRA:
        """The method installed on `model`, a head for each pair."""
        return SRA(model, self)


class Head(nn.Module):
    """Linear (D, 2 D), SiLU, Linear (2 D, D)."""

    def __init__(self, width: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) -> (..., D) in float32."""
        return self.linear2(F.silu(self.linear1(tokens.float())))


class SRA(Alignment):
    """Student layers, their heads, and the distance to the teacher's layers."""

    def __init__(self, model: nn.Module, config: SRAConfig):
        heads = {f"pair{number}": Head(model.width) for number in range(len(config.pairs))}
        super().__init__(listen(model, [student for student, _ in config.pairs]), heads)
        self.config, self.width, self.num_blocks = config, model.width, len(find_blocks(model)[1])

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """The mean distance over pairs, and the cosine of each."""
        config, mask = self.config, forward.batch.mask
        students, teachers = self.hooks.take(), self.teacher_tokens(forward, teacher)
        losses, similarity = [], {}
        for head, name, (student, strong) in zip(self.heads.values(), self.hooks.names, config.pairs, strict=True):
            projected = hide_padding(head(hide_padding(students[name], mask)), mask)
            target = hide_padding(teachers[strong].float(), mask)
            losses.append(self._distance(projected, target, mask))
            cosine = masked_mean(token_cosine(projected, target).detach(), mask)
            similarity[f"{student}->{strong}"] = cosine.clamp(-1, 1)
        weight = config.weight * config.schedule.factor(forward.step)
        return AlignmentTerms(weight * torch.stack(losses).mean(), similarity)

    def teacher_tokens(self, forward: Forward, teacher: Teacher) -> dict[Layer, Tensor]:
        """Tokens of the averaged model at the same sample and noise, at a lower noise level."""
        return later_tokens(forward, teacher, self.config.max_gap)

    def _distance(self, projected: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Mean over the batch of the distance of tokens (B, N, D); padding counts in no mean."""
        if self.config.distance == "cosine":
            if self.config.cosine_axis == "token":  # padding is zero on both sides
                return 1 - token_cosine(projected.transpose(-1, -2), target.transpose(-1, -2)).mean()
            return 1 - masked_mean(token_cosine(projected, target), mask)
        error = {
            "smooth_l1": lambda: F.smooth_l1_loss(projected, target, reduction="none", beta=self.config.beta),
            "l1": lambda: (projected - target).abs(),
            "l2": lambda: (projected - target).square(),
        }[self.config.distance]()
        return masked_mean(error.mean(-1), mask)

    def extra_flops(self, forward: int, num_tokens: int) -> int:
        """The teacher's pass, at one time, up to its last block, and the heads."""
        head = 2 * num_tokens * 4 * self.width**2
        passed = teacher_flops(forward, [teacher for _, teacher in self.config.pairs], self.num_blocks)
        return passed + TRAINING_FACTOR * head * len(self.heads)


def teacher_flops(forward: int, layers: Sequence[Layer], num_blocks: int) -> int:
    """FLOPs of a pass that ends at the last of `layers`, of `forward` for all blocks; whole where one is named."""
    numbered = [layer if isinstance(layer, int) else num_blocks for layer in layers]
    return forward * max(numbered) // num_blocks


def later_tokens(forward: Forward, teacher: Teacher, max_gap: float) -> dict[Layer, Tensor]:
    """The teacher's tokens at the same sample, noise and condition, later by a uniform draw from [0, max_gap]."""
    path = forward.interpolant.path
    gap = max_gap * forward.random.uniform("teacher time", tuple(forward.t.shape))
    t = later_time(path, forward.t, gap)
    x = forward.interpolant.point(forward.latents, forward.noise, t)
    return teacher.tokens(x, path.network_time(t), forward.condition, forward.batch.mask)


def later_time(path: Path, t: Tensor, gap: Tensor) -> Tensor:
    """Times nearer to the data by `gap`, of t's shape, at most the last that the path has."""
    later = (t + gap).clamp(max=1.0)
    if path.steps is None:
        return later
    return path.times(later.clamp(max=1 - 0.5 / path.steps), "data")

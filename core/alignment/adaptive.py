"""`alignment.pairs=adaptive`: LayerSync's pair is revised while a run trains, by what its blocks hold.

Every `every` steps each block that may stand in a pair is scored on the tokens of the training forward, detached:

    a_k = CKA of the tokens after block k with the clean latents, debiased, over the n samples of a micro-batch

A sample's tokens are one long row of length 1, its latents' patches too, zero where padding is. It costs n^2 N D a
block. Running means over measurements, and over processes and micro-batches by their n, decay by `memory`:

    S <- memory S + sum n a_k      W <- memory W + sum n      score of block k = S_k / W

From the next step on the pair is that with the largest score of strong minus weak, of those that the paper's rules
allow (`layersync.pairs`), if that is above the present pair's by more than `margin`. The first pair is the rule's.

The sums are buffers, saved with the run, and a step's measurement is kept apart until the next one, so that a run
that goes on has the same sums, and a step that is made again counts once.

Letters: n samples, N tokens, D width, K blocks that are scored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.alignment.contract import Forward
from core.alignment.gather import sum_over_processes
from core.alignment.kernel import MIN_DEBIASED, centred
from layersync.pairs import Pair, rank_pairs, rule_pair
from layersync.tokens import hide_padding

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdaptiveOptions:
    """How `alignment.pairs=adaptive` measures and decides.

    every   optimizer steps between two measurements
    memory  what a measurement's share becomes with the next one
    margin  of the scores' difference, by which another pair must be above the present one
    """

    every: int = 100
    memory: float = 0.9
    margin: float = 0.02

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"alignment.adaptive.every is {self.every}; it must be at least 1")
        if not 0 <= self.memory < 1:
            raise ValueError(f"alignment.adaptive.memory is {self.memory}; it must lie in [0, 1)")
        if self.margin < 0:
            raise ValueError(f"alignment.adaptive.margin is {self.margin}; it must not be negative")


class RunningScores(nn.Module):
    """Sums (K + 1,) of the scores and, last, of their weights: up to the last measurement, and that by itself.

    at    the step of the last measurement, -1 for none
    pair  the present pair
    """

    def __init__(self, blocks: int, pair: Pair, memory: float):
        super().__init__()
        self.memory = memory
        self.register_buffer("before", torch.zeros(blocks + 1, dtype=torch.float64))
        self.register_buffer("last", torch.zeros(blocks + 1, dtype=torch.float64))
        self.register_buffer("at", torch.tensor(-1))
        self.register_buffer("pair", torch.tensor(pair))

    def until(self, step: int) -> list[float]:
        """The scores (K,) by the measurements of steps before `step`; empty without any."""
        sums = self.before if int(self.at) == step else self.memory * self.before + self.last
        *scores, weight = sums.tolist()
        return [score / weight for score in scores] if weight else []

    def add(self, step: int, sums: Tensor, *, first: bool) -> None:
        """Add sums (K + 1,) of a micro-batch to the measurement of `step`; `first`: nothing of it counts yet."""
        if first:
            if int(self.at) != step:
                self.before.copy_(self.memory * self.before + self.last)
            self.last.zero_()
            self.at.fill_(step)
        self.last += sums


class AdaptivePair:
    """The pair of each step of a run, for a backbone with `patches`.

    names   module names of the blocks that are scored, 1 to K
    scores  the running scores, a head without parameters
    """

    def __init__(self, model: nn.Module, names: Sequence[str], depth: int, options: AdaptiveOptions):
        self.model, self.names, self.depth, self.options = model, list(names), depth, options
        self.scores = RunningScores(len(self.names), rule_pair(depth).pair, options.memory)
        self.step: int | None = None  # of the last call
        self.pair: Pair = rule_pair(depth).pair

    def of(self, forward: Forward, tokens: Mapping[str, Tensor]) -> Pair:
        """The pair of a step, decided before it; at a step that is measured its tokens count for the next.

        Raises ValueError, in every process, for micro-batches of which none has four samples.
        """
        step, first = forward.step, forward.step != self.step
        if first and (self.step is None or self._is_measured(self.step)):
            self._decide(step)
        self.step = step
        if self._is_measured(step):
            sums = sum_over_processes(self._measure(forward, tokens))
            if not sums[-1]:
                raise ValueError(
                    f"alignment.pairs is 'adaptive', which compares the samples of a micro-batch, but it has "
                    f"{len(forward.latents)}; needed: {MIN_DEBIASED} at least (trainer.batch_size, trainer.accumulate)"
                )
            self.scores.add(step, sums, first=first)
        return self.pair

    def looks(self, step: int) -> bool:
        """Whether a step changes the scores or the pair."""
        return step == 0 or self._is_measured(step) or self._is_measured(step - 1)

    def _is_measured(self, step: int) -> bool:
        return step % self.options.every == 0

    def _decide(self, step: int) -> None:
        """The best pair by the scores before `step`, if it is better than the present one by the margin."""
        weak, strong = self.scores.pair.tolist()
        scores = self.scores.until(step)
        best = rank_pairs([*scores, *[0.0] * (self.depth - len(scores))], 1) if scores else []
        if best:
            pair, gain = best[0]
            present = scores[strong - 1] - scores[weak - 1]
            if gain > present + self.options.margin:
                log.info(
                    "step %d: pair %d->%d becomes %d->%d, gain %.3f, before %.3f",
                    step,
                    weak,
                    strong,
                    *pair,
                    gain,
                    present,
                )
                self.scores.pair.copy_(torch.tensor(pair))
                weak, strong = pair
        self.pair = weak, strong

    @torch.no_grad()
    def _measure(self, forward: Forward, tokens: Mapping[str, Tensor]) -> Tensor:
        """n a_k of each block, and n (K + 1,); zeros where the samples are too few."""
        n, mask = len(forward.latents), forward.batch.mask
        if n < MIN_DEBIASED:
            return torch.zeros_like(self.scores.last)
        clean = kernel(self.model.patches(forward.latents), mask)
        found = [n * cka_of(kernel(tokens[name], mask), clean) for name in self.names]
        return torch.stack([*found, found[0].new_full((), n)])


def kernel(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """U-centred inner products (n, n) of the samples, whose tokens (n, N, D) are one row of length 1 each."""
    rows = nn.functional.normalize(hide_padding(tokens.detach(), mask).flatten(1).double(), dim=1)
    return centred(rows @ rows.T, debiased=True)


def cka_of(a: Tensor, b: Tensor) -> Tensor:
    """CKA of two centred kernels (n, n), a scalar; 0 where one is 0."""
    norm = a.norm() * b.norm()
    return torch.where(norm > 0, (a * b).sum() / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0.0)

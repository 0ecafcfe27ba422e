"""LayerSync (arXiv 2510.12581), the package `layersync`, as the alignment method of a training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor, nn

from core.alignment.adaptive import AdaptiveOptions, AdaptivePair
from core.alignment.contract import (
    Alignment,
    Forward,
    Needs,
    behind_prefix,
    check_pairs,
    check_weight,
    config_keys,
    draw_pair,
    rule_pair,
)
from core.alignment.sra import later_tokens, teacher_flops
from core.alignment.teacher import Teacher
from core.flow.options import check_used
from core.nets.routing import take_tokens
from layersync.blocks import Layer, find_blocks, resolve_layer
from layersync.pairs import allowed_pairs, check_depth, last_strong
from layersync.schedule import TIME_WEIGHTS, TimeRange, TimeWeight, WeightSchedule
from layersync.sync import AlignmentTerms, LayerSync, check_neighbours, check_similarity
from layersync.tokens import Similarity

RANDOM, AUTO, ADAPTIVE = "random", "auto", "adaptive"  # words in the place of pairs


@dataclass(frozen=True)
class LayerSyncConfig:
    """Options of LayerSync; `pairs` are (weak, strong) block numbers from 1, or module names.

    pairs             auto: by the paper's rule for the depth (`layersync.pairs`); adaptive: revised in training
                      (`core.alignment.adaptive`); random: one pair of blocks, weak < strong, drawn from the run's seed:
                      a control
    time_range        [low, high]: the weight is 0 at flow times outside of it, and what it was inside; null: all times
    neighbour_frames  frames to each side whose strong tokens a frame's weak tokens learn from too, at the same place;
                      0: none
    neighbour_decay   those k frames away count exp(-k / neighbour_decay)
    similarity        cosine; l2, squared, of the normalised tokens; smooth_l1, of the tokens, quadratic up to `beta`
    teacher           whose strong block it is: self, of the same pass; ema, of the average "ema", in a second pass
    noise_gap         the second pass is at a flow time later by a uniform draw from [0, noise_gap], as SRA's
    """

    layers_key: ClassVar[str] = "alignment.pairs"
    pairs: list[tuple[int | str, int | str]] | Literal["random", "auto", "adaptive"]
    weight: float = 0.2
    schedule: WeightSchedule = field(default_factory=WeightSchedule)
    time_weight: TimeWeight = "uniform"
    stop_gradient: bool = True
    neighbour_frames: int = 0
    neighbour_decay: float = 1.0
    similarity: Similarity = "cosine"
    beta: float = 0.05
    teacher: Literal["self", "ema"] = "self"
    noise_gap: float = 0.0
    time_range: tuple[float, float] | None = None
    adaptive: AdaptiveOptions = field(default_factory=AdaptiveOptions)

    def __post_init__(self) -> None:
        check_pairs(self._known_pairs)
        check_weight(self.weight)
        with config_keys():
            check_neighbours(self.neighbour_frames, self.neighbour_decay)
            check_similarity(self.similarity, self.beta, self.neighbour_frames)
            self._over_time()
        self._check_used()
        if not 0 <= self.noise_gap <= 1:
            raise ValueError(f"alignment.noise_gap is {self.noise_gap}; it must lie in [0, 1]")
        if self.teacher == "self" and self.noise_gap:
            raise ValueError(
                f"alignment.noise_gap is {self.noise_gap}, but alignment.teacher is 'self', one pass at one time; "
                "allowed with it: 0"
            )
        if self.teacher == "ema" and not self.stop_gradient:
            raise ValueError("alignment.stop_gradient is false, but alignment.teacher is 'ema', which is not trained")
        if self.teacher == "ema" and self.pairs == ADAPTIVE:
            raise ValueError(
                "alignment.pairs is 'adaptive', but alignment.teacher is 'ema', whose pass ends at one block; allowed "
                "with it: self"
            )

    def _check_used(self) -> None:
        """Raises ValueError for options that are not read beside the others."""
        for names, told, read in (
            (("beta",), f"alignment.similarity is {self.similarity!r}", self.similarity == "smooth_l1"),
            (("neighbour_decay",), "alignment.neighbour_frames is 0", self.neighbour_frames > 0),
            (("adaptive",), f"alignment.pairs is {self.pairs!r}", self.pairs == ADAPTIVE),
        ):
            check_used(self, "alignment", names, None if read else told)

    @property
    def _known_pairs(self) -> list[tuple[int | str, int | str]]:
        """The pairs; in the place of one that is not chosen yet, the first that could be."""
        return [(1, 2)] if isinstance(self.pairs, str) else self.pairs

    @property
    def layers(self) -> list[Layer]:
        """The layers of both sides."""
        return [layer for pair in self._known_pairs for layer in pair]

    @property
    def needs(self) -> Needs:
        """The strong layers of a second pass, where the teacher is the average; else not all tokens of a sample."""
        if self.teacher == "ema":
            return Needs(teacher=tuple(dict.fromkeys(strong for _, strong in self._known_pairs)))
        if self.pairs == ADAPTIVE:
            return Needs(any_block=True)
        return Needs(all_tokens=self.neighbour_frames > 0)

    def settled(self, num_blocks: int, seed: int) -> LayerSyncConfig:
        """The config with the pair of the rule or of chance; ValueError for too few blocks."""
        if self.pairs == AUTO:
            return replace(self, pairs=[rule_pair(num_blocks).pair])
        if self.pairs == ADAPTIVE:
            with config_keys():
                check_depth(num_blocks, "pairs is 'adaptive'")
        return replace(self, pairs=[draw_pair(num_blocks, seed)]) if self.pairs == RANDOM else self

    def reasons(self, num_blocks: int, seed: int) -> list[str]:
        """Why the pair is that of `settled`, where the config leaves it open."""
        if self.pairs == RANDOM:
            weak, strong = draw_pair(num_blocks, seed)
            return [f"{weak} -> {strong} is drawn from seed {seed}"]
        if self.pairs == ADAPTIVE:
            begin, own = rule_pair(num_blocks), self.adaptive
            return [f"revised every {own.every} steps; the first is the rule's", *begin.reasons]
        return rule_pair(num_blocks).reasons if self.pairs == AUTO else []

    def build(self, model: nn.Module) -> LayerSyncAlignment:
        """LayerSync installed on `model`; ValueError where neighbours are asked for of tokens without frames."""
        depth = len(find_blocks(model)[1]) if self.pairs == ADAPTIVE else 0
        with config_keys():
            sync = LayerSync(
                model,
                pairs=allowed_pairs(depth) if self.pairs == ADAPTIVE else self.pairs,
                weight=self.weight,
                schedule=self.schedule,
                time_weight=self._over_time(),
                stop_gradient=self.stop_gradient,
                neighbour_frames=self.neighbour_frames,
                neighbour_decay=self.neighbour_decay,
                similarity=self.similarity,
                beta=self.beta,
                token_dim=getattr(model, "token_dim", None),
                tokens=self._tokens(model),
            )
        if self.pairs != ADAPTIVE:
            return LayerSyncAlignment(sync, self.noise_gap if self.teacher == "ema" else None)
        names = [resolve_layer(model, block) for block in range(1, last_strong(depth) + 1)]
        return LayerSyncAlignment(sync, adaptive=AdaptivePair(model, names, depth, self.adaptive))

    def _over_time(self) -> Callable[[Tensor], Tensor]:
        """The weight over flow time."""
        inside = TIME_WEIGHTS[self.time_weight]
        return inside if self.time_range is None else TimeRange(*self.time_range, inside)

    def _tokens(self, model: nn.Module) -> slice | Callable[[Tensor], Tensor] | None:
        """Which tokens count: none of a prefix. Where neighbours are asked for they get an axis of frames."""
        if self.neighbour_frames == 0 or hasattr(model, "token_dim"):
            return behind_prefix(model)
        each = getattr(model, "frame_tokens", None)
        if each is None:
            raise ValueError(
                f"neighbour_frames is {self.neighbour_frames}, but the backbone's tokens are not of frames; allowed: 0"
            )
        return partial(_by_frames, each=each, first=getattr(model, "prefix_tokens", 0))


def _by_frames(tokens: Tensor, each: int, first: int) -> Tensor:
    """Tokens (B, first + F N, D) as (B, F, N, D), `each` to a frame, without the `first` ones."""
    return tokens[:, first:].unflatten(1, (-1, each))


class LayerSyncAlignment(Alignment):
    """LayerSync as the alignment method of a training run.

    noise_gap  of a teacher's second pass; None: no teacher, the strong side is of the same pass
    adaptive   what chooses one of the pairs of `sync` for each step; None: all of them, at all steps
    """

    def __init__(self, sync: LayerSync, noise_gap: float | None = None, adaptive: AdaptivePair | None = None):
        super().__init__(sync.hooks, {} if adaptive is None else {"pairs": adaptive.scores})
        self.sync, self.noise_gap, self.adaptive = sync, noise_gap, adaptive
        self.all = {
            label: (pair, strong) for pair, label, strong in zip(sync.pairs, sync.labels, sync.strong, strict=True)
        }

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """LayerSync's loss at the step and times of the forward pass.

        Once a schedule has switched it off there is no second pass.
        """
        if self.adaptive is not None:
            return self._chosen(forward, self.adaptive)
        strong = None
        if self.noise_gap is not None:
            if not self.sync.schedule.factor(forward.step):
                self.sync.discard()
                return AlignmentTerms(forward.t.new_zeros(()))
            strong = later_tokens(forward, teacher, self.noise_gap)
        elif forward.kept is not None and not self.sync.neighbour_frames:
            return self._of_kept(forward, forward.kept)
        return self.sync.terms(forward.step, forward.t, forward.batch.mask, strong)

    def _of_kept(self, forward: Forward, kept: Tensor) -> AlignmentTerms:
        """LayerSync's loss where tokens skip blocks: of the tokens `kept` alone if one of its layers saw no others."""
        tokens, mask, t = self.sync.hooks.take(), forward.batch.mask, forward.t
        if any(each.shape[1] == kept.shape[1] for each in tokens.values()):
            there = {name: each.shape[1] == kept.shape[1] for name, each in tokens.items()}
            tokens = {name: each if there[name] else take_tokens(each, kept) for name, each in tokens.items()}
            mask = None if mask is None else take_tokens(mask, kept)
            t = t if t.ndim == 1 else take_tokens(t, kept)
        return self.sync.terms(forward.step, t, mask, tokens=tokens)

    def _chosen(self, forward: Forward, adaptive: AdaptivePair) -> AlignmentTerms:
        """LayerSync's loss of the one pair that is the step's."""
        tokens = self.sync.hooks.take()
        weak, strong = adaptive.of(forward, tokens)
        label = f"{weak}->{strong}"
        names, layer = self.all[label]
        self.sync.labels, self.sync.pairs, self.sync.strong = [label], [names], [layer]
        terms = self.sync.terms(forward.step, forward.t, forward.batch.mask, tokens=tokens)
        now = {"pair/weak": forward.t.new_full((), weak), "pair/strong": forward.t.new_full((), strong)}
        return replace(terms, values={**terms.values, **now})

    def looks(self, step: int) -> bool:
        """Whether scores are measured at `step`, or decide it."""
        return self.adaptive is not None and self.adaptive.looks(step)

    def extra_flops(self, forward: int, num_tokens: int) -> int:
        """The average's pass up to the last strong block."""
        if self.noise_gap is None:
            return 0
        return teacher_flops(forward, self.sync.strong, len(find_blocks(self.sync.model)[1]))

    def compile(self, **options: str) -> None:
        """Fuse LayerSync's cosine."""
        self.sync.compile(**options)

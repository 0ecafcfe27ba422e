"""LayerSync (arXiv 2510.12581), the package `layersync`, as the alignment method of a training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from core.alignment.contract import Alignment, Forward, Needs, behind_prefix, check_pairs, check_weight, config_keys
from core.alignment.teacher import Teacher
from layersync.blocks import Layer
from layersync.schedule import TIME_WEIGHTS, TimeWeight, WeightSchedule
from layersync.sync import AlignmentTerms, LayerSync, check_neighbours


@dataclass(frozen=True)
class LayerSyncConfig:
    """Options of LayerSync; `pairs` are (weak, strong) block numbers from 1, or module names.

    neighbour_frames  frames to each side whose strong tokens a frame's weak tokens learn from too, at the same place;
                      0: none
    neighbour_decay   those k frames away count exp(-k / neighbour_decay)
    """

    layers_key: ClassVar[str] = "alignment.pairs"
    pairs: list[tuple[int | str, int | str]]
    weight: float = 0.2
    schedule: WeightSchedule = field(default_factory=WeightSchedule)
    time_weight: TimeWeight = "uniform"
    stop_gradient: bool = True
    neighbour_frames: int = 0
    neighbour_decay: float = 1.0

    def __post_init__(self) -> None:
        check_pairs(self.pairs)
        check_weight(self.weight)
        with config_keys():
            check_neighbours(self.neighbour_frames, self.neighbour_decay)

    @property
    def layers(self) -> list[Layer]:
        """The layers of both sides."""
        return [layer for pair in self.pairs for layer in pair]

    @property
    def needs(self) -> Needs:
        """Nothing that a run has not."""
        return Needs()

    def build(self, model: nn.Module) -> LayerSyncAlignment:
        """LayerSync installed on `model`; ValueError where neighbours are asked for of tokens without frames."""
        with config_keys():
            sync = LayerSync(
                model,
                pairs=self.pairs,
                weight=self.weight,
                schedule=self.schedule,
                time_weight=TIME_WEIGHTS[self.time_weight],
                stop_gradient=self.stop_gradient,
                neighbour_frames=self.neighbour_frames,
                neighbour_decay=self.neighbour_decay,
                token_dim=getattr(model, "token_dim", None),
                tokens=self._tokens(model),
            )
        return LayerSyncAlignment(sync)

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
    """LayerSync as the alignment method of a training run."""

    def __init__(self, sync: LayerSync):
        super().__init__(sync.hooks)
        self.sync = sync

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """LayerSync's loss at the step and times of the forward pass."""
        return self.sync.terms(forward.step, forward.t, forward.batch.mask)

    def compile(self, **options: str) -> None:
        """Fuse LayerSync's cosine."""
        self.sync.compile(**options)
